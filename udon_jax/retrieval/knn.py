"""Exact nearest neighbours by inner product, chunked and sharded.

Shape legend: q queries, n index rows, d embedding dim, k neighbours, c chunks
of the index, r rows of a chunk.
"""

import math

import jax
from jax import sharding
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int
import numpy as np

from udon_jax.retrieval import knn_device

# (queries, index rows) scored at once. On 2 CPU cores 512 x 2,560 was fastest
# of 256 .. 1,024 x 2,560 .. 10,240 (20 k x 100 k x 64). The other platforms'
# sizes are chosen to keep a large device busy, in 1 GiB of scores.
_CPU_CHUNKS = (512, 2_560)
_ACCELERATOR_CHUNKS = (4_096, 65_536)

# Bytes gathered at once to re-score groups. A CPU does it twice as fast query
# by query, within its cache, as for a chunk of queries.
_CPU_GATHER_BYTES = 2**17
_ACCELERATOR_GATHER_BYTES = 2**30

# Candidates beyond k. Queries that these do not settle are searched again with
# every score computed by its definition, 1.3 to 3.3 times slower on 2 CPU cores
# (k = 100 to 5, 50 k to 200 k rows).
_SPARE = 4

_SMALLEST_GROUP = 8
_LARGEST_GROUP = 128
_UNIT_ROUNDOFF = 2.0**-24
_SMALLEST_NORMAL = 2.0**-126


def search(
  queries: Float[np.ndarray, "q d"],
  index: Float[np.ndarray, "n d"] | Float[Array, "n d"],
  *,
  k: int,
  mesh: sharding.Mesh | None = None,
  query_chunk_size: int | None = None,
  index_chunk_size: int | None = None,
  exclude: Int[np.ndarray, "q"] | None = None,
) -> tuple[Float[np.ndarray, "q k"], Int[np.ndarray, "q k"]]:
  """Returns the k index rows with the largest inner product, exactly.

  The score of a query and a row is a function of these two alone: float32
  products, each rounded, added from the first coordinate to the last. So the
  result, bit for bit, depends neither on chunk sizes nor on the mesh, and
  equal rows of the index have equal scores.

  Example:
    >>> index = np.eye(3, dtype=np.float32)
    >>> queries = np.array([[0.6, 0.8, 0.0]], np.float32)
    >>> scores, ids = search(queries, index, k=2)
    >>> ids.tolist()
    [[1, 0]]
    >>> search(queries, index, k=2, exclude=np.array([1]))[1].tolist()
    [[0, 2]]

  Args:
    queries: the queries, finite.
    index: the rows to search, finite.
    k: neighbours to return.
    mesh: devices over all axes of which the index is split; None for one
      device. On several processes, all call this with equal arguments.
    query_chunk_size: queries searched at once; None for the platform's.
    index_chunk_size: index rows scored at once; None for the platform's. The
      scores of a chunk take query_chunk_size x index_chunk_size x 4 bytes on
      every device.
    exclude: id of the index row that a query may not find (itself, as a rule);
      -1 for none.

  Returns:
    The scores, float32, in descending order, and the ids, int32; ties stand
    in ascending order of ids. Where fewer than k rows can be found, scores
    are -inf and ids -1.

  Raises:
    ValueError: shapes do not fit, k or a chunk size is not positive, the
      index is empty, an excluded id is out of range, or a value is not finite.
  """
  queries = np.asarray(queries, np.float32)
  if exclude is None:
    exclude = np.full(len(queries), -1)
  exclude = np.asarray(exclude, np.int32)
  mesh = _one_device_mesh() if mesh is None else mesh
  default_sizes = _CPU_CHUNKS if _on_cpu(mesh) else _ACCELERATOR_CHUNKS
  query_chunk_size, index_chunk_size = (
    default if size is None else size
    for size, default in zip(
      (query_chunk_size, index_chunk_size), default_sizes, strict=True
    )
  )
  _check(queries, index, exclude, k, query_chunk_size, index_chunk_size)
  return _search_until_proven(
    queries,
    index,
    exclude=exclude,
    k=k,
    mesh=mesh,
    query_chunk_size=query_chunk_size,
    index_chunk_size=index_chunk_size,
  )


def _search_until_proven(
  queries, index, *, exclude, k, mesh, query_chunk_size, index_chunk_size
):
  """Searches by the fast plan, and again what it leaves unproven."""
  num_rows, dim = index.shape
  fast_plan = _fast_plan(k, num_rows, dim, mesh, index_chunk_size)
  exact_plan = knn_device.Plan(
    k, num_candidates=None, group_size=1, rescore_batch=1
  )
  index = _place_index(
    index,
    mesh,
    index_chunk_size=index_chunk_size,
    multiple=fast_plan.group_size,
  )
  bound = _rounding_bound(queries, index)
  scores = np.empty((len(queries), k), np.float32)
  ids = np.empty((len(queries), k), np.int32)
  todo = np.arange(len(queries))
  for plan in (fast_plan, exact_plan):
    if not len(todo):
      break
    scores[todo], ids[todo], certified = _search_all(
      queries[todo],
      index,
      exclude=exclude[todo],
      bound=bound[todo],
      num_rows=num_rows,
      query_chunk_size=query_chunk_size,
      mesh=mesh,
      plan=plan,
    )
    todo = todo[~certified]
  assert not len(todo), "the definition leaves nothing to prove"
  return scores, ids


def _check(queries, index, exclude, k, query_chunk_size, index_chunk_size):
  """Raises ValueError where the arguments of `search` do not fit."""
  if queries.ndim != 2 or index.ndim != 2:
    raise ValueError(
      f"queries {queries.shape} and index {index.shape} must be matrices"
    )
  if queries.shape[1] != index.shape[1]:
    raise ValueError(
      f"queries have {queries.shape[1]} columns, the index {index.shape[1]}"
    )
  if not len(index):
    raise ValueError("the index is empty")
  if min(k, query_chunk_size, index_chunk_size) < 1:
    raise ValueError(
      f"{k=}, {query_chunk_size=} and {index_chunk_size=} must be positive"
    )
  if exclude.shape != (len(queries),):
    raise ValueError(
      f"exclude has shape {exclude.shape}, expected ({len(queries)},)"
    )
  if len(exclude) and not -1 <= exclude.min() <= exclude.max() < len(index):
    raise ValueError(f"exclude holds ids outside -1 .. {len(index) - 1}")


def _one_device_mesh() -> sharding.Mesh:
  """Returns a mesh of this process's first device."""
  return sharding.Mesh(np.array(jax.local_devices()[:1]), ("data",))


def _on_cpu(mesh: sharding.Mesh) -> bool:
  return mesh.devices.flat[0].platform == "cpu"


def _rows_per_device(num_rows, mesh, index_chunk_size) -> int:
  """Returns the rows that a device holds, padding included.

  Less than a chunk is padded to a power of two: one program serves many sizes.
  """
  rows = -(-num_rows // mesh.size)
  if rows > index_chunk_size:
    return rows
  return min(1 << (rows - 1).bit_length(), index_chunk_size)


def _fast_plan(k, num_rows, dim, mesh, index_chunk_size) -> knn_device.Plan:
  """Returns the plan that computes few scores by their definition."""
  rows_per_device = _rows_per_device(num_rows, mesh, index_chunk_size)
  num_candidates = k + 1 + _SPARE  # 1 for the excluded row
  # Groups of g leave n / g maxima to choose from and m g items to re-score,
  # of which an item costs about twice a maximum: 22 against 11 ns, 2 cores.
  size = math.isqrt(rows_per_device // (2 * num_candidates))
  size = min(size, _LARGEST_GROUP, index_chunk_size)
  group_size = 1 if size < _SMALLEST_GROUP else 1 << (size.bit_length() - 1)
  gather_bytes = (
    _CPU_GATHER_BYTES if _on_cpu(mesh) else _ACCELERATOR_GATHER_BYTES
  )
  return knn_device.Plan(
    k=k,
    num_candidates=num_candidates,
    group_size=group_size,
    rescore_batch=max(
      gather_bytes // (num_candidates * group_size * dim * 4), 1
    ),
  )


def _place_index(
  index, mesh, *, index_chunk_size, multiple
) -> Float[Array, "c r d"]:
  """Pads the index, cuts it into chunks and splits these over the mesh.

  Devices hold contiguous ids in ascending order; all padding is at the end.
  """
  num_rows, dim = index.shape
  rows_per_device = _rows_per_device(num_rows, mesh, index_chunk_size)
  largest_chunk = index_chunk_size // multiple * multiple
  chunks = -(-rows_per_device // largest_chunk)
  rows = -(-rows_per_device // (chunks * multiple)) * multiple
  shape = (mesh.size * chunks, rows, dim)
  split = sharding.NamedSharding(mesh, sharding.PartitionSpec(mesh.axis_names))
  padding = shape[0] * rows - num_rows
  if isinstance(index, jax.Array):
    padded = jnp.pad(index.astype(jnp.float32), ((0, padding), (0, 0)))
    return jax.device_put(padded.reshape(shape), split)

  def part(slices):
    start, stop, _ = slices[0].indices(shape[0])
    block = np.zeros(((stop - start) * rows, dim), np.float32)
    real = index[start * rows : stop * rows]
    block[: len(real)] = real
    return block.reshape(-1, rows, dim)

  return jax.make_array_from_callback(shape, split, part)


def _rounding_bound(
  queries: Float[np.ndarray, "q d"], index: Float[Array, "c r d"]
) -> Float[np.ndarray, "q"]:
  """Returns how far two float32 inner products of the same rows may differ.

  Whatever the order of its additions, each is within d u |q| |x| of the true
  value, u = 2^-24 (Higham, Accuracy and Stability of Numerical Algorithms,
  sec. 3.1); 16 u more cover the rounding of the bound and of the comparison.

  Raises:
    ValueError: a value is not finite, or too large to be squared.
  """
  dim = queries.shape[1]
  largest = float(jax.device_get(knn_device.largest_norm(index)))
  lengths = np.sqrt(np.einsum("qd,qd->q", queries, queries, dtype=np.float64))
  for name, value in (("index", largest), ("queries", lengths.sum())):
    if not np.isfinite(value):
      raise ValueError(f"the {name} hold NaN, infinite or huge values")
  unit = (2 * dim + 16) * _UNIT_ROUNDOFF
  return unit * lengths * largest + 4 * dim * _SMALLEST_NORMAL


def _search_all(
  queries, index, *, exclude, bound, num_rows, query_chunk_size, mesh, plan
) -> tuple[
  Float[np.ndarray, "q k"], Int[np.ndarray, "q k"], Bool[np.ndarray, "q"]
]:
  """Runs one plan over all queries, in chunks of one shape."""
  # Few queries are padded to a power of two: one program serves many numbers.
  chunk = min(query_chunk_size, 1 << (len(queries) - 1).bit_length())
  everywhere = sharding.NamedSharding(mesh, sharding.PartitionSpec())

  def put(array):
    return jax.make_array_from_callback(
      array.shape, everywhere, lambda index: array[index]
    )

  def rows(array, start):
    part = array[start : start + chunk]
    widths = [(0, chunk - len(part)), *[(0, 0)] * (part.ndim - 1)]
    return put(np.pad(part, widths))

  bound = bound.astype(np.float32)
  results = [
    knn_device.search_chunk(
      rows(queries, start),
      index,
      exclude=rows(exclude, start),
      bound=rows(bound, start),
      num_rows=put(np.asarray(num_rows, np.int32)),
      zero=put(np.asarray(0, np.int32)),
      mesh=mesh,
      plan=plan,
    )
    for start in range(0, len(queries), chunk)
  ]
  scores, ids, certified = (
    np.concatenate(parts)[: len(queries)]
    for parts in zip(*jax.device_get(results), strict=True)
  )
  return scores, ids, certified
