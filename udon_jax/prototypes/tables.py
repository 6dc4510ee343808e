"""Where the class prototypes and their moments lie.

A table is made of blocks that hold parameter, first and second moment side by
side, so that a step changes a block in place. A domain has blocks of its own.
Every block is cut along its rows over all devices: each holds a part of every
domain, and all devices do the same work. Rows, one a class, are the last axis:
accelerators pad it to whole registers, and copy tables that they find narrow.

Shape legend: k blocks of a table, r rows of a block, d embedding dim, c classes
of a domain, n domains.
"""

from collections.abc import Mapping, Sequence
import dataclasses
from typing import Any, TypeAlias

from flax import struct
import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Int
import numpy as np

from udon_jax import partitioning

Table: TypeAlias = Float[Array, "k 3 d r"]

# Blocks are cut along their rows over every device of the mesh.
BLOCKS = P(None, None, None, partitioning.AXES)
# Rows of a block on each device: large enough for full speed, small enough to
# need little memory (benchmarks/bench_prototypes.py).
_ROWS = {"cpu": 2048}
_ROWS_ELSEWHERE = 8192
# Rows on a device are a multiple of this; of an accelerator's registers.
_GRANULE = {"cpu": 8}
_GRANULE_ELSEWHERE = 128
# Of the products of embeddings and prototypes; see jax.lax.Precision.
PRECISIONS = ("highest", "high", "default")


class Prototypes(struct.PyTreeNode):
  """The class tables; part of the train state.

  Attributes:
    student: (parameter, mu, nu) of the student's prototypes.
    teacher: likewise, of the teachers'.
    updated: the number of the AdamW update up to which each domain's blocks
      have come. What is missing, with zero gradients, is made up for when the
      domain is next trained.
  """

  student: Table
  teacher: Table
  updated: Int[Array, "n"]


@dataclasses.dataclass(frozen=True)
class Layout:
  """Where each domain's classes lie in the tables.

  Attributes:
    names: names of the domains, in the order of their ids.
    num_classes: classes of every domain.
    num_shards: devices over which a block is cut.
    rows: of a block on each device.
  """

  names: tuple[str, ...]
  num_classes: tuple[int, ...]
  num_shards: int
  rows: int

  @property
  def block_rows(self) -> int:
    """Rows of a block, over all devices."""
    return self.rows * self.num_shards

  @property
  def num_blocks(self) -> tuple[int, ...]:
    """Blocks of every domain."""
    return tuple(-(-c // self.block_rows) for c in self.num_classes)

  @property
  def offsets(self) -> tuple[int, ...]:
    """First block of every domain."""
    return tuple(int(x) for x in np.cumsum((0, *self.num_blocks[:-1])))


def make_layout(
  names: Sequence[str],
  num_classes: Sequence[int],
  mesh: Mesh,
  *,
  rows: int | None = None,
) -> Layout:
  """Returns the layout of the tables on a mesh.

  Args:
    names: names of the domains.
    num_classes: classes of every domain.
    mesh: the devices.
    rows: most rows of a block on each device; None takes the platform's best.
      There are fewer if no domain has so many.
  """
  platform = mesh.devices.flat[0].platform
  granule = _GRANULE.get(platform, _GRANULE_ELSEWHERE)
  if rows is None:
    rows = _ROWS.get(platform, _ROWS_ELSEWHERE)
  needed = -(-max(num_classes) // (mesh.size * granule)) * granule
  return Layout(tuple(names), tuple(num_classes), mesh.size, min(rows, needed))


def shardings(mesh: Mesh) -> Prototypes:
  """Returns where the tables lie."""
  blocks: Any = NamedSharding(mesh, BLOCKS)
  whole: Any = partitioning.replicated(mesh)
  return Prototypes(blocks, blocks, whole)


def init(
  key: jax.Array, layout: Layout, *, student_dim: int, teacher_dim: int
) -> Prototypes:
  """Returns new tables: lecun_uniform with fan-in d, zero moments.

  The values depend on (key, domain) alone, not on the devices.
  """

  def table(key, dim):
    bound = np.sqrt(3.0 / dim)
    parts = []
    for i, (classes, blocks) in enumerate(
      zip(layout.num_classes, layout.num_blocks, strict=True)
    ):
      shape = (blocks, layout.block_rows, dim)
      # A value depends on its place from the start, not on what follows it.
      values = jax.random.uniform(
        jax.random.fold_in(key, i), shape, minval=-bound, maxval=bound
      )
      rows = jnp.arange(blocks * layout.block_rows).reshape(shape[:2])
      values = jnp.where(rows[..., None] < classes, values, 0.0)
      parts.append(jnp.swapaxes(values, 1, 2))
    param = jnp.concatenate(parts)
    return jnp.pad(param[:, None], ((0, 0), (0, 2), (0, 0), (0, 0)))

  student_key, teacher_key = jax.random.split(key)
  return Prototypes(
    student=table(student_key, student_dim),
    teacher=table(teacher_key, teacher_dim),
    updated=jnp.zeros(len(layout.names), jnp.int32),
  )


def unpack(
  tables: Prototypes, layout: Layout
) -> dict[str, dict[str, Float[Array, "c 3 d"]]]:
  """Returns {"student"|"teacher": {domain: (param, mu, nu) of its classes}}.

  The form of checkpoints: it does not depend on the devices. Every domain is as
  of `tables.updated`.
  """

  def split(table):
    found = {}
    for name, start, blocks, classes in zip(
      layout.names,
      layout.offsets,
      layout.num_blocks,
      layout.num_classes,
      strict=True,
    ):
      part = jnp.moveaxis(table[start : start + blocks], 3, 1)
      found[name] = part.reshape(-1, *part.shape[2:])[:classes]
    return found

  return {"student": split(tables.student), "teacher": split(tables.teacher)}


def pack(
  arrays: Mapping[str, Mapping[str, Float[Array, "c 3 d"]]],
  updated: Int[Array, "n"],
  layout: Layout,
) -> Prototypes:
  """Inverse of `unpack`, for the devices of this layout."""

  def join(by_name):
    parts = []
    for name, blocks, classes in zip(
      layout.names, layout.num_blocks, layout.num_classes, strict=True
    ):
      padding = blocks * layout.block_rows - classes
      part = jnp.pad(by_name[name], ((0, padding), (0, 0), (0, 0)))
      part = part.reshape(blocks, layout.block_rows, 3, -1)
      parts.append(jnp.moveaxis(part, 1, 3))
    return jnp.concatenate(parts)

  return Prototypes(
    student=join(arrays["student"]),
    teacher=join(arrays["teacher"]),
    updated=updated,
  )


def by_domain(tables: Prototypes, layout: Layout) -> dict[str, dict[str, Any]]:
  """Returns shapes of {"student"|"teacher": {domain: its prototypes [c, d]}}.

  Args:
    tables: arrays or their shapes.
    layout: of the tables.
  """
  shapes = jax.eval_shape(lambda x: unpack(x, layout), tables)
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct((x.shape[0], x.shape[2]), x.dtype), shapes
  )
