"""What every query found, for inspection.

Shape legend: q queries, k neighbours.
"""

from collections.abc import Iterator, Mapping, Sequence
import dataclasses
import json
from typing import Any

from etils import epath
from jaxtyping import Bool, Float, Int
import numpy as np

from udon_jax import structs


@dataclasses.dataclass(frozen=True)
class QueryRecords:
  """The neighbours of one domain's queries.

  Attributes:
    domain: of the queries.
    query: the split of the queries.
    index_splits: the splits that were searched, one after the other.
    neighbours: positions in the concatenated index splits, nearest first; -1
      where there are fewer than k neighbours.
    scores: inner products; -inf where there is no neighbour.
    hits: which neighbours are relevant.
    num_positives: relevant images in the index.
    metrics: values of every query, by the metric's name.
  """

  domain: str
  query: structs.ImageSplit
  index_splits: Sequence[structs.ImageSplit]
  neighbours: Int[np.ndarray, "q k"]
  scores: Float[np.ndarray, "q k"]
  hits: Bool[np.ndarray, "q k"]
  num_positives: Int[np.ndarray, "q"]
  metrics: Mapping[str, Float[np.ndarray, "q"]]

  def locate(
    self,
  ) -> tuple[Int[np.ndarray, "q k"], Int[np.ndarray, "q k"]]:
    """Returns which index split a neighbour lies in, and where in it.

    Both are -1 where there is no neighbour.
    """
    sizes = [len(split.labels) for split in self.index_splits]
    starts = np.cumsum([0, *sizes])
    part = np.searchsorted(starts, self.neighbours, side="right") - 1
    return part, np.where(part < 0, -1, self.neighbours - starts[part])

  def rows(self) -> Iterator[dict[str, Any]]:
    """Yields a JSON object a query.

    {"domain", "key", "num_positives", "metrics": {name: value}, "neighbours":
    [{"domain", "key", "score", "hit"}, ...]}, nearest first.
    """
    part, position = self.locate()
    for i, key in enumerate(self.query.keys):
      yield {
        "domain": self.domain,
        "key": key,
        "num_positives": int(self.num_positives[i]),
        "metrics": {
          name: float(values[i]) for name, values in self.metrics.items()
        },
        "neighbours": [
          {
            "domain": self.index_splits[p].domain,
            "key": self.index_splits[p].keys[place],
            "score": float(score),
            "hit": bool(hit),
          }
          for p, place, score, hit in zip(
            part[i],
            position[i],
            self.scores[i],
            self.hits[i],
            strict=True,
          )
          if p >= 0
        ],
      }


def write(path: epath.PathLike, found: Sequence[QueryRecords]) -> None:
  """Writes the records of all domains as JSON lines, replacing atomically.

  Args:
    path: the file; its folder exists.
    found: the records, a domain after the other.
  """
  path = epath.Path(path)
  unfinished = path.with_name(path.name + ".tmp")
  with unfinished.open("w") as file:
    for record in found:
      for row in record.rows():
        file.write(json.dumps(row) + "\n")
  unfinished.replace(path)
