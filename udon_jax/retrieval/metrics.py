"""Retrieval metrics: pure functions of neighbour ids and labels.

All return one value per query, a fraction; means are the caller's. Labels are
integers, padded with -1 where an image has fewer than others, and two images
match where they share a label.

Shape legend: q queries, n index items, l labels of an image, k neighbours.
"""

from collections.abc import Callable, Sequence
import dataclasses
import functools
import re

from jaxtyping import Bool, Float, Int
import numpy as np

from udon_jax import errors
from udon_jax.retrieval import label_sets


def relevance(
  neighbour_ids: Int[np.ndarray, "q k"],
  query_labels: Int[np.ndarray, "q l"],
  index_labels: Int[np.ndarray, "n l2"],
) -> Bool[np.ndarray, "q k"]:
  """Returns which neighbours share a label with their query.

  Example:
    >>> relevance(
    ...   np.array([[1, 0, -1]]), np.array([[7, 9]]), np.array([[5], [9]])
    ... )
    array([[ True, False, False]])

  Args:
    neighbour_ids: rows of `index_labels`; -1 is no neighbour, never relevant.
    query_labels: labels of every query.
    index_labels: labels of every index item.
  """
  hits = np.zeros(neighbour_ids.shape, bool)
  if not len(index_labels):
    return hits
  for index_column in np.ascontiguousarray(index_labels.T):
    found = index_column[neighbour_ids]  # -1 reads the last row, masked below
    for query_column in query_labels.T:
      hits |= (found == query_column[:, None]) & (found != label_sets.PADDING)
  return hits & (neighbour_ids >= 0)


def num_positives(
  query_labels: Int[np.ndarray, "q l"],
  index_labels: Int[np.ndarray, "n l2"],
  *,
  exclude: Int[np.ndarray, "q"] | None = None,
) -> Int[np.ndarray, "q"]:
  """Returns how many index items share a label with each query.

  An item that shares two labels counts once.

  Example:
    >>> index_labels = np.array([[1, 2], [2, -1], [3, -1]])
    >>> num_positives(np.array([[1, 2], [3, -1]]), index_labels)
    array([2, 1])
    >>> num_positives(index_labels, index_labels, exclude=np.arange(3))
    array([1, 1, 0])

  Args:
    query_labels: labels of every query.
    index_labels: labels of every index item.
    exclude: the index item that is the query itself and does not count; -1
      for none.
  """
  query_labels = label_sets.distinct(query_labels)
  index_labels = label_sets.distinct(index_labels)
  # Sum the items of every label, then take back what was counted twice. Only
  # items of several labels can be, and only by queries of several labels.
  counts = label_sets.count_items(query_labels, index_labels).sum(axis=1)
  several_index = (index_labels != label_sets.PADDING).sum(axis=1) > 1
  several_query = (query_labels != label_sets.PADDING).sum(axis=1) > 1
  if several_index.any() and several_query.any():
    counts[several_query] -= label_sets.count_repetitions(
      query_labels[several_query], index_labels[several_index]
    )
  if exclude is not None:
    itself = np.asarray(exclude)[:, None]
    counts -= relevance(itself, query_labels, index_labels)[:, 0]
  return counts


def recall_at_k(
  hits: Bool[np.ndarray, "q k"], *, k: int
) -> Float[np.ndarray, "q"]:
  """Returns 1 where one of the first k neighbours is a hit, else 0.

  Example:
    >>> hits = np.array([[False, True], [False, False]])
    >>> recall_at_k(hits, k=1), recall_at_k(hits, k=2)
    (array([0., 0.]), array([1., 0.]))

  Args:
    hits: which neighbours are relevant, nearest first.
    k: neighbours to look at.

  Raises:
    ValueError: there are fewer than k neighbours.
  """
  return _first(hits, k).any(axis=1).astype(np.float64)


def mmp_at_k(
  hits: Bool[np.ndarray, "q k"], num_positives: Int[np.ndarray, "q"], *, k: int
) -> Float[np.ndarray, "q"]:
  """Returns the modified mean precision: hits among the first min(n, k) / it.

  n is the number of positives of the query; without positives the value is 0.
  Source: "Towards Universal Image Embeddings" (ICCV 2023), there with k = 5.

  Example:
    >>> hits = np.array([[True, False, True], [True, False, False]])
    >>> mmp_at_k(hits, np.array([2, 9]), k=3).round(3)
    array([0.5  , 0.333])

  Args:
    hits: which neighbours are relevant, nearest first.
    num_positives: relevant items in the index, per query.
    k: neighbours to look at.

  Raises:
    ValueError: there are fewer than k neighbours.
  """
  depth = np.minimum(num_positives, k)
  looked_at = np.arange(k) < depth[:, None]
  return (_first(hits, k) & looked_at).sum(axis=1) / np.maximum(depth, 1)


def map_at_r(
  hits: Bool[np.ndarray, "q k"], num_positives: Int[np.ndarray, "q"]
) -> Float[np.ndarray, "q"]:
  """Returns the mean average precision at R, R the number of positives.

  The sum of the precisions at the ranks of the hits among the first R
  neighbours, divided by R; without positives the value is 0. Source: Musgrave
  et al., "A Metric Learning Reality Check" (ECCV 2020).

  Example:
    >>> hits = np.array([[True, False, True, True], [False, True, True, True]])
    >>> map_at_r(hits, np.array([3, 2])).round(3)
    array([0.556, 0.25 ])

  Args:
    hits: which neighbours are relevant, nearest first.
    num_positives: R, the relevant items in the index, per query.

  Raises:
    ValueError: there are fewer than R neighbours.
  """
  depth = int(num_positives.max(initial=0))
  ranks = np.arange(1, depth + 1)
  counted = _first(hits, depth) & (ranks <= num_positives[:, None])
  precision = counted.cumsum(axis=1) / ranks
  total = (precision * counted).sum(axis=1)
  return total / np.maximum(num_positives, 1)


@dataclasses.dataclass(frozen=True)
class Metric:
  """A metric by its name in `config.eval.metrics`.

  Attributes:
    name: "recall@1", "mmp@5", "map@r", ...
    compute: (hits [q, k], number of positives [q]) -> values [q].
    depth: neighbours that it looks at; None for as many as a query has
      positives.
  """

  name: str
  compute: Callable[
    [Bool[np.ndarray, "q k"], Int[np.ndarray, "q"]], Float[np.ndarray, "q"]
  ]
  depth: int | None

  def num_neighbours(self, most_positives: int) -> int:
    """Returns how many neighbours of every query it needs, at least 1."""
    return max(most_positives if self.depth is None else self.depth, 1)


def get_metric(name: str) -> Metric:
  """Returns a metric by name: "recall@<k>", "mmp@<k>" or "map@r".

  Example:
    >>> get_metric("mmp@5").num_neighbours(3)
    5
    >>> get_metric("map@r").num_neighbours(3)
    3

  Raises:
    UserError: the name has none of these forms.
  """
  if name == "map@r":
    return Metric(name, map_at_r, None)
  match = re.fullmatch(r"(recall|mmp)@([1-9][0-9]*)", name)
  if match is None:
    raise errors.UserError(
      f"config.eval.metrics: {name!r} is unknown; known forms: recall@K and "
      "mmp@K with a positive number K, and map@r"
    )
  depth = int(match[2])
  if match[1] == "mmp":
    return Metric(name, functools.partial(mmp_at_k, k=depth), depth)
  return Metric(name, lambda hits, _: recall_at_k(hits, k=depth), depth)


def parse(names: Sequence[str]) -> tuple[Metric, ...]:
  """Returns the metrics of `config.eval.metrics`.

  Raises:
    UserError: there are none, a name is unknown, or one stands twice.
  """
  if not names or len(set(names)) < len(names):
    raise errors.UserError(
      f"config.eval.metrics={tuple(names)}: name at least one metric, each once"
    )
  return tuple(get_metric(name) for name in names)


def _first(hits, k):
  """Returns the hits among the first k neighbours."""
  if hits.shape[1] < k:
    raise ValueError(f"{k} neighbours are needed, {hits.shape[1]} are given")
  return hits[:, :k]
