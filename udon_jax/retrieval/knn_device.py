"""The part of the exact search that runs on the devices.

Two scores are at work. The *definition* is `fixed_order_scores`: float32
products, each rounded, added from the first coordinate to the last. It is a
function of the two rows alone, so equal rows get equal scores wherever they
lie. A matrix product is much faster but rounds in an order of its own, so it
only nominates candidates, and a bound on the rounding of both decides whether
the nomination is proof (`certified`) or every item must be scored.

Shape legend: q queries, n index rows, d embedding dim, k neighbours, m
candidates, c chunks of the index, r rows of a chunk, g groups.
"""

import dataclasses
import functools

import jax
from jax import lax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array, Bool, Float, Int

_HIGHEST = lax.Precision.HIGHEST
_UNROLL = 16  # coordinates added in one fused loop


@dataclasses.dataclass(frozen=True)
class Plan:
  """The static choices of one program.

  Attributes:
    k: neighbours to return.
    num_candidates: items whose score is computed by its definition; None
      scores every item by the definition (slow, always certified).
    group_size: consecutive items that share one maximum; 1 for no groups.
    rescore_batch: queries whose candidate groups are gathered together.
  """

  k: int
  num_candidates: int | None
  group_size: int
  rescore_batch: int


@functools.partial(jax.jit, static_argnames=("mesh", "plan"))
def search_chunk(
  queries: Float[Array, "q d"],
  index: Float[Array, "c r d"],
  *,
  exclude: Int[Array, "q"],
  bound: Float[Array, "q"],
  num_rows: Int[Array, ""],
  zero: Int[Array, ""],
  mesh: jax.sharding.Mesh,
  plan: Plan,
) -> tuple[Float[Array, "q k"], Int[Array, "q k"], Bool[Array, "q"]]:
  """Returns scores, ids and whether they are proven, for one query chunk.

  Args:
    queries: one chunk of queries, replicated.
    index: the padded index, its chunks sharded over all axes of the mesh.
    exclude: the index id that each query may not find; -1 for none.
    bound: how far the two scores of an item may lie apart, per query.
    num_rows: rows of the index that are no padding.
    zero: the number 0, unknown to the compiler (see `fixed_order_scores`).
    mesh: the devices that hold the index.
    plan: the static choices.

  Returns:
    Scores in descending order (ties by ascending id; -inf where there are
    fewer than k neighbours), their ids (-1 there), and a flag per query.
  """
  axes = mesh.axis_names
  replicated = PartitionSpec()

  def search_shard(queries, index, exclude, bound, num_rows, zero):
    first_id = lax.axis_index(axes) * index.shape[0] * index.shape[1]
    find = _scan_all if plan.num_candidates is None else _scan_groups
    scores, ids, rest = find(
      queries,
      index,
      # Ids count from the start of the shard until the shards meet.
      exclude=jnp.where(exclude < 0, -1, exclude - first_id),
      num_rows=num_rows - first_id,
      zero=zero,
      plan=plan,
    )
    ids = jnp.where(ids < 0, -1, ids + first_id)
    scores = lax.all_gather(scores, axes, axis=1, tiled=True)
    ids = lax.all_gather(ids, axes, axis=1, tiled=True)
    scores, ids = _best(scores, ids, plan.k)
    rest = lax.pmax(rest, axes)
    certified = (scores[:, -1] > rest + bound) | jnp.isneginf(rest)
    return scores, ids, certified

  return jax.shard_map(
    search_shard,
    mesh=mesh,
    in_specs=(
      replicated,
      PartitionSpec(axes),
      *[replicated] * 4,
    ),
    out_specs=(replicated,) * 3,
    check_vma=False,
  )(queries, index, exclude, bound, num_rows, zero)


@jax.jit
def largest_norm(index: Float[Array, "c r d"]) -> Float[Array, ""]:
  """Returns the largest length of an index row."""
  return jnp.sqrt(jnp.max(jnp.sum(index * index, axis=-1)))


def fixed_order_scores(
  left: Float[Array, "*rows d"],
  right: Float[Array, "*rows d"],
  *,
  zero: Int[Array, ""],
) -> Float[Array, "*rows"]:
  """Returns inner products by the definition; leading axes broadcast.

  A compiler may fuse `total + a * b` into one operation that skips the
  rounding of the product, in one program and not in another. Passing the bits
  of the product through an exclusive or with a zero that the compiler cannot
  see forbids it, for the price of one integer operation.
  """

  def add(total, pair):
    product = pair[0] * pair[1]
    bits = lax.bitcast_convert_type(product, jnp.int32) ^ zero
    return total + lax.bitcast_convert_type(bits, jnp.float32), None

  shape = jnp.broadcast_shapes(left.shape, right.shape)[:-1]
  pairs = (jnp.moveaxis(left, -1, 0), jnp.moveaxis(right, -1, 0))
  total, _ = lax.scan(add, jnp.zeros(shape), pairs, unroll=_UNROLL)
  return jnp.where(total == 0, 0.0, total)  # one zero, so that zeros tie


def _scan_groups(queries, index, *, exclude, num_rows, zero, plan):
  """Finds neighbours among the groups with the largest maxima.

  One of the m best items lies in one of the m groups with the largest maxima,
  so m = k + 1 would do if scores did not round (1 for the excluded item).
  """
  chunks, rows, dim = index.shape
  num_groups = min(plan.num_candidates, chunks * rows // plan.group_size)
  groups, rest = _best_groups(
    queries,
    index,
    num_rows=num_rows,
    num_groups=num_groups,
    group_size=plan.group_size,
  )
  if plan.group_size == 1:
    ids = groups
  else:
    ids, best_left_out = _best_members(
      queries,
      index.reshape(-1, plan.group_size, dim),
      groups,
      num_rows=num_rows,
      plan=plan,
    )
    rest = jnp.maximum(rest, best_left_out)
  candidates = index.reshape(-1, dim)[jnp.maximum(ids, 0)]
  scores = fixed_order_scores(queries[:, None], candidates, zero=zero)
  valid = (ids >= 0) & (ids < num_rows) & (ids != exclude[:, None])
  scores, ids = _best(jnp.where(valid, scores, -jnp.inf), ids, plan.k)
  return scores, ids, rest


def _best_groups(queries, index, *, num_rows, num_groups, group_size):
  """Returns the groups with the largest maxima, and the next maximum."""
  chunks, rows, _ = index.shape
  groups_per_chunk = rows // group_size

  def merge(best, chunk):
    number, items = chunk
    scores = jnp.dot(queries, items.T, precision=_HIGHEST)
    real = number * rows + jnp.arange(rows, dtype=jnp.int32) < num_rows
    scores = jnp.where(real, scores, -jnp.inf)
    maxima = scores.reshape(-1, groups_per_chunk, group_size).max(-1)
    ids = number * groups_per_chunk + jnp.arange(
      groups_per_chunk, dtype=jnp.int32
    )
    return _merge_top(best, maxima, ids), None

  start = (
    jnp.full((queries.shape[0], num_groups + 1), -jnp.inf),
    jnp.full((queries.shape[0], num_groups + 1), -1, jnp.int32),
  )
  numbers = jnp.arange(chunks, dtype=jnp.int32)
  (maxima, groups), _ = lax.scan(merge, start, (numbers, index))
  return groups[:, :num_groups], maxima[:, num_groups]


def _best_members(queries, index_groups, groups, *, num_rows, plan):
  """Returns the best items of the given groups, and the next score."""
  group_size = index_groups.shape[1]
  total = groups.shape[1] * group_size
  num_items = min(plan.num_candidates, total)
  keep = min(num_items + 1, total)

  def members(pair):
    query, group = pair
    items = index_groups[jnp.maximum(group, 0)]
    scores = jnp.einsum("d,gid->gi", query, items, precision=_HIGHEST)
    ids = group[:, None] * group_size + jnp.arange(group_size, dtype=jnp.int32)
    valid = (group[:, None] >= 0) & (ids < num_rows)
    ids = jnp.where(valid, ids, -1).ravel()
    scores = jnp.where(valid, scores, -jnp.inf).ravel()
    scores, places = lax.top_k(scores, keep)
    return scores, ids[places]

  scores, ids = lax.map(
    members, (queries, groups), batch_size=plan.rescore_batch
  )
  if keep == num_items:
    return ids, jnp.full(ids.shape[0], -jnp.inf)
  return ids[:, :num_items], scores[:, num_items]


def _scan_all(queries, index, *, exclude, num_rows, zero, plan):
  """Finds neighbours by scoring every item by the definition."""
  chunks, rows, _ = index.shape

  def merge(best, chunk):
    number, items = chunk
    scores = fixed_order_scores(queries[:, None], items[None], zero=zero)
    ids = number * rows + jnp.arange(rows, dtype=jnp.int32)
    valid = (ids < num_rows) & (ids != exclude[:, None])
    return _merge_top(best, jnp.where(valid, scores, -jnp.inf), ids), None

  start = (
    jnp.full((queries.shape[0], plan.k), -jnp.inf),
    jnp.full((queries.shape[0], plan.k), -1, jnp.int32),
  )
  numbers = jnp.arange(chunks, dtype=jnp.int32)
  (scores, ids), _ = lax.scan(merge, start, (numbers, index))
  ids = jnp.where(jnp.isneginf(scores), -1, ids)
  return scores, ids, jnp.full(queries.shape[0], -jnp.inf)


def _merge_top(best, scores, ids):
  """Merges a chunk's scores into the best so far; earlier ids win ties."""
  scores = jnp.concatenate([best[0], scores], axis=1)
  ids = jnp.broadcast_to(ids, (scores.shape[0], ids.shape[0]))
  ids = jnp.concatenate([best[1], ids], axis=1)
  scores, places = lax.top_k(scores, best[0].shape[1])
  return scores, jnp.take_along_axis(ids, places, axis=1)


def _best(scores, ids, k):
  """Returns the k best, by score descending, then by id ascending."""
  missing = max(k - scores.shape[1], 0)
  scores = jnp.pad(scores, ((0, 0), (0, missing)), constant_values=-jnp.inf)
  ids = jnp.pad(ids, ((0, 0), (0, missing)), constant_values=-1)
  negative, ids = lax.sort((-scores, ids), num_keys=2)
  scores, ids = -negative[:, :k], ids[:, :k]
  return scores, jnp.where(jnp.isneginf(scores), -1, ids)
