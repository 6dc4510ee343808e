"""Exact search of more rows than fit into memory, a block at a time.

The score of a query and a row is a function of these two alone (see
`knn.search`), so that merging what is found in blocks of the index gives, bit
for bit, what is found in the whole.

Shape legend: q queries, n index rows, d embedding dim, k neighbours.
"""

from collections.abc import Iterator, Sequence

from jax import sharding
from jaxtyping import Float, Int
import numpy as np

from udon_jax import structs
from udon_jax.retrieval import knn

# Of the queries, and of the index, in memory at a time; searching a block takes
# room for three more. Two million rows of 64 dimensions are one block.
BLOCK_BYTES = 2**29


def search(
  queries: Sequence[structs.Rows],
  index: Sequence[structs.Rows],
  *,
  k: int,
  exclude: Int[np.ndarray, "q"],
  mesh: sharding.Mesh | None = None,
  query_chunk_size: int | None = None,
  index_chunk_size: int | None = None,
  block_bytes: int = BLOCK_BYTES,
) -> tuple[Float[np.ndarray, "q k"], Int[np.ndarray, "q k"]]:
  """Returns what `knn.search` returns for the stacked queries and index.

  Args:
    queries: parts of the queries, one after the other.
    index: parts of the index, one after the other; not empty.
    k: neighbours to return.
    exclude: id of the index row that a query may not find; -1 for none.
    mesh: devices over which a block of the index is split; None for one.
    query_chunk_size: queries searched at once; None for the platform's.
    index_chunk_size: index rows scored at once; None for the platform's.
    block_bytes: of float32 rows that are in memory at a time, of either side.
  """
  found = []
  start = 0
  for block in cut(queries, block_bytes=block_bytes):
    found.append(
      _search_block(
        block,
        cut(index, block_bytes=block_bytes),
        k=k,
        exclude=exclude[start : start + len(block)],
        mesh=mesh,
        query_chunk_size=query_chunk_size,
        index_chunk_size=index_chunk_size,
      )
    )
    start += len(block)
  scores, ids = zip(*found, strict=True)
  return np.concatenate(scores), np.concatenate(ids)


def cut(
  parts: Sequence[structs.Rows], *, block_bytes: int
) -> Iterator[Float[np.ndarray, "n d"]]:
  """Yields the rows of all parts, in blocks of one size but for the last.

  Equal sizes let one compiled program serve all blocks.

  Args:
    parts: rows of one dimension; only slices of them are read.
    block_bytes: of a block of float32 rows; at least one row comes.
  """
  size = max(block_bytes // (4 * max(parts[0].shape[1], 1)), 1)
  total = sum(map(len, parts))
  for start in range(0, total, size):
    yield _read(parts, start, min(start + size, total))


def _read(parts, start, stop) -> Float[np.ndarray, "n d"]:
  """Returns rows of all parts together, those of one part as they come."""
  found = []
  first = 0
  for part in parts:
    low, high = max(start - first, 0), min(stop - first, len(part))
    if low < high:
      found.append((first + low - start, part, slice(low, high)))
    first += len(part)
  if len(found) == 1:
    (_, part, rows), *_ = found
    return part[rows]
  block = np.empty((stop - start, parts[0].shape[1]), np.float32)
  for place, part, rows in found:
    block[place : place + rows.stop - rows.start] = part[rows]
  return block


def _search_block(queries, blocks, *, k, exclude, **options):
  """Searches one block of the index after the other, and keeps the best."""
  scores = np.full((len(queries), k), -np.inf, np.float32)
  ids = np.full((len(queries), k), -1, np.int32)
  start = 0
  for block in blocks:
    inside = (exclude >= start) & (exclude < start + len(block))
    more_scores, more_ids = knn.search(
      queries,
      block,
      k=k,
      exclude=np.where(inside, exclude - start, -1),
      **options,
    )
    more_ids = np.where(more_ids < 0, -1, more_ids + start)
    scores, ids = _merge((scores, ids), (more_scores, more_ids.astype("i4")))
    start += len(block)
    del block  # before the next one is read
  return scores, ids


def _merge(best, more):
  """Returns the k best of both; the first ones have lower ids and win ties."""
  scores, ids = (
    np.concatenate(pair, 1) for pair in zip(best, more, strict=True)
  )
  order = np.argsort(-scores, axis=1, kind="stable")[:, : best[0].shape[1]]
  return tuple(np.take_along_axis(x, order, axis=1) for x in (scores, ids))
