"""Whether every query has something to find.

Shape legend: q queries, p pairs of image and label.
"""

from collections.abc import Mapping

from jaxtyping import Bool
import numpy as np

from udon_jax import domains
from udon_jax.data.verification import findings, infos


def check(
  spec: domains.DomainSpec, splits: Mapping[str, infos.Split]
) -> list[findings.Group]:
  """Finds queries without an image of a class of theirs in their index.

  Args:
    spec: the domain.
    splits: those that could be read, by name.
  """
  found = []
  for protocol in dict.fromkeys((spec.val, spec.test)):
    query, index = splits.get(protocol.query), splits.get(protocol.index)
    if query is None or index is None:
      continue
    rows = np.flatnonzero(~answerable(query, index))
    found += findings.of_entries(
      findings.UNANSWERABLE, query, rows, says=_says(query, index, rows)
    )
  return found


def _says(query: infos.Split, index: infos.Split, rows: np.ndarray):
  other = "other " if query is index else ""
  file = f"{index.domain}/{index.name}.json"
  return lambda i: (
    f"is of {query.classes(int(rows[i]))}, of which {file} lists no"
    f" {other}image"
  )


def answerable(query: infos.Split, index: infos.Split) -> Bool[np.ndarray, "q"]:
  """Returns whether an index holds an image with a label of each query.

  Where both are the same split, the query itself is not counted.
  """
  rows, ids = infos.pairs(query.labels)
  if query is index:
    _, kinds, counts = np.unique(ids, return_inverse=True, return_counts=True)
    has_positive = counts[kinds] > 1  # labels of a row are distinct
  else:
    has_positive = np.isin(ids, infos.pairs(index.labels)[1])
  found = np.zeros(len(query.paths), bool)
  found[rows[has_positive]] = True
  return found
