"""The UnED protocols: every domain's queries search its own or all indexes.

Source: "Towards Universal Image Embeddings" (ICCV 2023).

Shape legend: q queries, n index images, l labels of an image, d embedding dim,
k neighbours.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import functools
import logging
from typing import Any

from etils import epath
from jax import sharding
from jaxtyping import Float, Int
import numpy as np

from udon_jax import errors, structs
from udon_jax.retrieval import blocks, records
from udon_jax.retrieval import metrics as metrics_lib

logger = logging.getLogger(__name__)

SEPARATE = "separate"
MERGED = "merged"
MEAN = "mean"

_Key = tuple[str, str]  # (domain, split)


def evaluate(
  tasks: Sequence[structs.RetrievalTask],
  embeddings: Mapping[_Key, structs.Rows],
  *,
  metrics: Sequence[str],
  mesh: sharding.Mesh | None = None,
  query_chunk_size: int | None = None,
  index_chunk_size: int | None = None,
  block_bytes: int = blocks.BLOCK_BYTES,
  per_query: bool = False,
) -> dict[str, Any]:
  """Returns the metrics of every domain under both protocols.

  Separate: a domain's queries search its own index. Merged: they search the
  indexes of all domains, in the order of the tasks. A hit has a label of the
  query and its domain. Where the index of its domain holds the query itself,
  the image is excluded from its neighbours and its positives.

  Args:
    tasks: queries and index of every domain.
    embeddings: of every split of the tasks, by (domain, split name), row i of
      image i; compared by inner product, so rows have unit length as a rule.
    metrics: names such as "recall@1" (see `metrics.get_metric`).
    mesh: devices over which indexes are split; None for one device.
    query_chunk_size: queries searched at once; None for the platform's.
    index_chunk_size: index rows scored at once; None for the platform's.
    block_bytes: of embeddings, of queries and of indexes, in memory at a time.
    per_query: whether to return what every query found.

  Returns:
    {"separate"|"merged": {domain or "mean": {metric: value}}}: fractions, each
    the mean over a domain's queries, and under "mean" the unweighted mean over
    domains. With `per_query` also {"per_query": {"separate"|"merged": [a
    `records.QueryRecords` a domain]}}.

  Raises:
    UserError: a metric is unknown, a domain comes twice, a split is empty, or
      embeddings are missing, not finite or do not fit their split.
  """
  parsed = metrics_lib.parse(metrics)
  _check(tasks, embeddings, block_bytes)
  check_positives(tasks)
  labels = _unique_labels(tasks)
  results: dict[str, Any] = {}
  found: dict[str, list[records.QueryRecords]] = {}
  for kind, searches in (
    (SEPARATE, [[task] for task in tasks]),
    (MERGED, [list(tasks)]),
  ):
    found[kind] = [
      record
      for group in searches
      for record in _search_group(
        group,
        embeddings,
        labels,
        metrics=parsed,
        mesh=mesh,
        query_chunk_size=query_chunk_size,
        index_chunk_size=index_chunk_size,
        block_bytes=block_bytes,
      )
    ]
    results[kind] = _means(found[kind])
  if per_query:
    results["per_query"] = found
  return results


def _check(tasks, embeddings, block_bytes):
  """Raises UserError unless the embeddings fit the tasks."""
  if not tasks:
    raise errors.UserError("config.domains: no domain to evaluate")
  names = [task.domain for task in tasks]
  if len(set(names)) < len(names):
    raise errors.UserError(f"config.domains: a domain comes twice in {names}")
  dims = {}
  splits = [split for task in tasks for split in (task.query, task.index)]
  for split in {(s.domain, s.name): s for s in splits}.values():
    where = f"{split.domain}/{split.name}"
    if not len(split.labels):
      raise errors.UserError(f"{where} has no images; check its info file")
    rows = embeddings.get((split.domain, split.name))
    if rows is None:
      raise errors.UserError(f"{where} has no embeddings")
    if len(rows.shape) != 2 or len(rows) != len(split.labels):
      raise errors.UserError(
        f"{where}: embeddings of shape {rows.shape} for {len(split.labels)} "
        "images; there must be one row an image, in info-file order"
      )
    if not all(
      np.isfinite(block.sum(dtype=np.float64))
      for block in blocks.cut([rows], block_bytes=block_bytes)
    ):
      raise errors.UserError(f"{where}: embeddings hold NaN or infinite values")
    dims[where] = rows.shape[1]
  if len(set(dims.values())) > 1:
    raise errors.UserError(f"embeddings differ in their dimension: {dims}")


def check_positives(tasks: Sequence[structs.RetrievalTask]) -> None:
  """Warns of queries that can find nothing: no index image has their class.

  They count as misses, as the benchmark has it.

  Raises:
    UserError: no query of a domain can find anything.
  """
  for task in tasks:
    query, index = task.query, task.index
    positives = metrics_lib.num_positives(
      query.labels, index.labels, exclude=_own_rows(task)
    )
    alone = np.flatnonzero(positives == 0)
    files = f"info_files/{task.domain}/{query.name}.json"
    if len(alone) == len(positives):
      raise errors.UserError(
        f"{files}: none of its {len(alone)} images shares a class with another "
        f"one of {index.name}.json, so that no search can find anything; "
        "correct their class_id"
      )
    if len(alone):
      _warn_once(
        f"{files}: {len(alone)} of {len(positives)} queries have a class that "
        f"no other image of {index.name}.json has, the first is "
        f"{query.keys[alone[0]]}; they count as misses"
      )


def _own_rows(task: structs.RetrievalTask) -> Int[np.ndarray, "q"]:
  """Returns the index row of each query's own image, -1 where it is not there.

  Splits that share images are those of a table's role `both`.
  """
  query, index = task.query, task.index
  if index.name == query.name:
    return np.arange(len(query.keys))
  rows = dict.fromkeys(query.keys, -1)
  for row, key in enumerate(index.keys):
    if key in rows:
      rows[key] = row
  return np.array([rows[key] for key in query.keys], np.int64)


@functools.cache
def _warn_once(message: str) -> None:
  """Warns of what every validation would tell again."""
  logger.warning("%s", message)


def _unique_labels(tasks) -> dict[_Key, Int[np.ndarray, "n l"]]:
  """Returns labels by (domain, split) that no two domains share."""
  unique = {}
  start = 0
  for task in tasks:
    top = start
    for split in (task.query, task.index):
      labels = split.labels.astype(np.int64)
      unique[split.domain, split.name] = np.where(
        labels < 0, -1, labels + start
      )
      top = max(top, start + int(labels.max()) + 1)
    start = top
  return unique


@dataclasses.dataclass(frozen=True)
class _Queries:
  """One domain's queries against one index.

  Attributes:
    task: the domain's task.
    labels: of the queries.
    exclude: index row of the query itself, -1 where it is not in the index.
    num_positives: relevant index rows.
    k: neighbours that the metrics need.
  """

  task: structs.RetrievalTask
  labels: Int[np.ndarray, "q l"]
  exclude: Int[np.ndarray, "q"]
  num_positives: Int[np.ndarray, "q"]
  k: int


def _search_group(
  tasks, embeddings, labels, *, metrics, **options
) -> list[records.QueryRecords]:
  """Searches the index of all given tasks with the queries of each."""
  splits = tuple(task.index for task in tasks)
  keys = [(split.domain, split.name) for split in splits]
  starts = np.cumsum([0, *(len(split.labels) for split in splits)])
  index_labels = _stack_labels([labels[key] for key in keys])
  queries = [
    _queries(
      task,
      labels[task.domain, task.query.name],
      index_labels,
      starts=dict(zip(keys, starts[:-1], strict=True)),
      metrics=metrics,
    )
    for task in tasks
  ]
  neighbours: dict[str, tuple] = {}
  for k in sorted({each.k for each in queries}):  # one search a depth
    alike = [each for each in queries if each.k == k]
    scores, ids = blocks.search(
      [embeddings[each.task.domain, each.task.query.name] for each in alike],
      [embeddings[key] for key in keys],
      k=k,
      exclude=np.concatenate([each.exclude for each in alike]),
      **options,
    )
    cuts = np.cumsum([len(each.exclude) for each in alike])[:-1]
    for each, *found in zip(
      alike, np.split(scores, cuts), np.split(ids, cuts), strict=True
    ):
      neighbours[each.task.domain] = tuple(found)
  return [
    _record(
      each,
      neighbours[each.task.domain],
      index_labels=index_labels,
      splits=splits,
      metrics=metrics,
    )
    for each in queries
  ]


def _queries(task, query_labels, index_labels, *, starts, metrics) -> _Queries:
  """Returns the queries of a task and how deep they must search."""
  rows = _own_rows(task)
  start = starts[task.domain, task.index.name]
  exclude = np.where(rows < 0, -1, start + rows)
  positives = metrics_lib.num_positives(
    query_labels, index_labels, exclude=exclude
  )
  most = int(positives.max())
  k = max(metric.num_neighbours(most) for metric in metrics)
  return _Queries(task, query_labels, exclude, positives, k)


def _record(
  queries: _Queries,
  found: tuple[Float[np.ndarray, "q k"], Int[np.ndarray, "q k"]],
  *,
  index_labels: Int[np.ndarray, "n l"],
  splits: Sequence[structs.ImageSplit],
  metrics: Sequence[metrics_lib.Metric],
) -> records.QueryRecords:
  """Scores the neighbours that the queries found."""
  scores, ids = found
  hits = metrics_lib.relevance(ids, queries.labels, index_labels)
  return records.QueryRecords(
    domain=queries.task.domain,
    query=queries.task.query,
    index_splits=splits,
    neighbours=ids,
    scores=scores,
    hits=hits,
    num_positives=queries.num_positives,
    metrics={
      metric.name: metric.compute(hits, queries.num_positives)
      for metric in metrics
    },
  )


def _stack_labels(parts) -> Int[np.ndarray, "n l"]:
  """Stacks labels of several splits, padded to the same length."""
  most = max(part.shape[1] for part in parts)
  return np.concatenate(
    [
      np.pad(part, ((0, 0), (0, most - part.shape[1])), constant_values=-1)
      for part in parts
    ]
  )


def _means(found: Sequence[records.QueryRecords]) -> dict[str, Any]:
  """Returns {domain or "mean": {metric: value}}, nothing rounded."""
  by_domain = {
    record.domain: {
      name: _mean(values) for name, values in record.metrics.items()
    }
    for record in found
  }
  names = next(iter(by_domain.values())).keys()
  mean = {
    name: float(np.mean([values[name] for values in by_domain.values()]))
    for name in names
  }
  return {**by_domain, MEAN: mean}


def _mean(values: Float[np.ndarray, "q"]) -> float:
  """Returns the mean, added query by query as the official code does.

  Its last bit decides how 0.0875 is rounded to three decimals.
  """
  return float(np.cumsum(values, dtype=np.float64)[-1] / len(values))


def write_per_query(
  path: epath.PathLike, found: Sequence[records.QueryRecords]
) -> None:
  """Writes records of queries as JSON lines; see `records.write`."""
  records.write(path, found)
