"""Which queries are worth a look, for a person who judges a model.

Shape legend: q queries of all domains, k neighbours.
"""

from collections.abc import Iterable, Iterator, Sequence
import dataclasses
from typing import Any

from jaxtyping import Bool, Float, Int
import numpy as np

from udon_jax import structs
from udon_jax.retrieval import label_sets, metrics, records

RANDOM = "random"
WORST = "worst"
CROSS_DOMAIN = "cross_domain"
GROUPS = (RANDOM, WORST, CROSS_DOMAIN)
# Why a query is among the worst.
CONFIDENT = "most confident mistakes"
LOWEST = "lowest mMP"


@dataclasses.dataclass(frozen=True)
class _Pool:
  """The queries of all domains, one after the other.

  Attributes:
    record: which domain's record a query stands in.
    row: its row there.
    miss: whether its nearest neighbour is wrong.
    answerable: whether the index holds anything that is right.
    same_domain: whether its nearest neighbour has its domain.
    score: of its nearest neighbour.
    precision: its mMP@k.
  """

  record: Int[np.ndarray, "q"]
  row: Int[np.ndarray, "q"]
  miss: Bool[np.ndarray, "q"]
  answerable: Bool[np.ndarray, "q"]
  same_domain: Bool[np.ndarray, "q"]
  score: Float[np.ndarray, "q"]
  precision: Float[np.ndarray, "q"]


def select(
  found: Sequence[records.QueryRecords],
  *,
  seed: int,
  num_queries: int,
  num_neighbours: int = 5,
) -> dict[str, list[dict[str, Any]]]:
  """Returns examples of what a model finds, as values for JSON.

  Domains take turns within every group, so that none is left out. The same
  records and seed give the same examples.

  Args:
    found: the records of all domains, of a search of the merged index.
    seed: decides the random ones.
    num_queries: at most so many in a group.
    num_neighbours: at most so many of each query.

  Returns:
    {group: [example]}, with three groups. "random". "worst": for one half the
    misses with the highest score, for the other those with the lowest mMP;
    queries that nothing in the index answers are not among them.
    "cross_domain": misses whose nearest neighbour has another domain, highest
    score first. A query comes once in a group. An example is {"query": image,
    "num_positives": n, "neighbours": [{**image, "score": s, "hit": h}, ...],
    "reason": why, among the worst}, an image {"domain", "split", "position",
    "key", "labels"}.
  """
  located = [record.locate() for record in found]
  pool = _pool(found, [part for part, _ in located], num_neighbours)
  order = np.random.default_rng(seed).permutation(len(pool.row))
  by_score = np.argsort(-pool.score, kind="stable")
  wrong = pool.miss & pool.answerable
  confident = _take_turns(pool, by_score[wrong[by_score]], num_queries // 2)
  poor = wrong & ~np.isin(np.arange(len(wrong)), confident)
  by_precision = np.lexsort((-pool.score, pool.precision))
  lowest = _take_turns(
    pool, by_precision[poor[by_precision]], num_queries - len(confident)
  )
  foreign = by_score[(pool.miss & ~pool.same_domain)[by_score]]

  def describe(chosen: Iterable[int], **extra: Any) -> list[dict[str, Any]]:
    described = []
    for i in chosen:
      number, row = pool.record[i], int(pool.row[i])
      neighbours = _neighbours(found[number], row, located[number])
      described.append(
        {
          "query": _image(found[number].query, row),
          "num_positives": int(found[number].num_positives[row]),
          "neighbours": list(neighbours)[:num_neighbours],
          **extra,
        }
      )
    return described

  return {
    RANDOM: describe(_take_turns(pool, order, num_queries)),
    WORST: [
      *describe(confident, reason=CONFIDENT),
      *describe(lowest, reason=LOWEST),
    ],
    CROSS_DOMAIN: describe(_take_turns(pool, foreign, num_queries)),
  }


def _pool(
  found: Sequence[records.QueryRecords],
  parts: Sequence[Int[np.ndarray, "q k"]],
  num_neighbours: int,
) -> _Pool:
  """Returns what the choice depends on, of all queries.

  Args:
    found: the records of every domain.
    parts: in which of its index splits each neighbour lies.
    num_neighbours: of which the precision is taken.
  """
  pools = []
  for number, (record, part) in enumerate(zip(found, parts, strict=True)):
    own = np.array([s.domain == record.domain for s in record.index_splits])
    depth = min(num_neighbours, record.hits.shape[1])
    pools.append(
      _Pool(
        record=np.full(len(part), number),
        row=np.arange(len(part)),
        miss=(part[:, 0] >= 0) & ~record.hits[:, 0],
        answerable=record.num_positives > 0,
        same_domain=own[part[:, 0]],
        score=record.scores[:, 0],
        precision=metrics.mmp_at_k(record.hits, record.num_positives, k=depth),
      )
    )
  return _Pool(
    **{
      field.name: np.concatenate([getattr(pool, field.name) for pool in pools])
      for field in dataclasses.fields(_Pool)
    }
  )


def _take_turns(
  pool: _Pool, ranking: Int[np.ndarray, "r"], count: int
) -> list[int]:
  """Returns the first of a ranking, domain by domain.

  The first of every domain come first, then the second ones, and so on; within
  such a round the order of the ranking is kept.
  """
  taken = np.zeros(int(pool.record.max()) + 1, np.int64)
  rounds = np.empty(len(ranking), np.int64)
  for place, query in enumerate(ranking):
    rounds[place] = taken[pool.record[query]]
    taken[pool.record[query]] += 1
  return ranking[np.argsort(rounds, kind="stable")][:count].tolist()


def _neighbours(
  record: records.QueryRecords,
  row: int,
  located: tuple[Int[np.ndarray, "q k"], Int[np.ndarray, "q k"]],
) -> Iterator[dict[str, Any]]:
  """Yields what one query found, nearest first."""
  for part, position, score, hit in zip(
    *(rows[row] for rows in located),
    record.scores[row],
    record.hits[row],
    strict=True,
  ):
    if part >= 0:
      yield {
        **_image(record.index_splits[part], int(position)),
        "score": float(score),
        "hit": bool(hit),
      }


def _image(split: structs.ImageSplit, position: int) -> dict[str, Any]:
  labels = split.labels[position]
  return {
    "domain": split.domain,
    "split": split.name,
    "position": position,
    "key": split.keys[position],
    "labels": labels[labels != label_sets.PADDING].tolist(),
  }
