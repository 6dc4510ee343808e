"""One training step on the class prototypes.

It streams over the blocks of the step's domain, whose number and place are data
to the compiled program: one program serves every domain. It comes in two parts,
as whether a step counts is known when the module's gradient is: `score` gives
losses and gradients of the embeddings, `update` moves the prototypes.

Shape legend: b batch, s student dim, t teacher dim, r rows of a block.
"""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Int

from udon_jax import partitioning
from udon_jax.prototypes import catch_up, classes
from udon_jax.prototypes.tables import BLOCKS, Layout, Prototypes

_AXES = partitioning.AXES
_MIN_SQUARED_NORM = 1e-24
_WHOLE = P()
_SPECS: Any = (BLOCKS, BLOCKS, _WHOLE)
_TABLES = Prototypes(*_SPECS)


@dataclasses.dataclass(frozen=True)
class Hyper:
  """What training the prototypes needs to know.

  Attributes:
    student_dim: width of the student's embeddings.
    teacher_dim: width of the teachers'.
    terms: the loss over classes.
    adamw: the optimizer.
    precision: of the products of embeddings and prototypes.
  """

  student_dim: int
  teacher_dim: int
  terms: classes.Terms
  adamw: catch_up.AdamW
  precision: str


class Batch(NamedTuple):
  """What a step scores; all of it on every device."""

  student: Float[Array, "b s"]
  teacher: Float[Array, "b t"]
  labels: Int[Array, "b"]  # within the domain
  domain: Int[Array, ""]
  step: Int[Array, ""]  # number of this AdamW update, from 1


class Scores(NamedTuple):
  """What the first part of a step finds."""

  terms: dict[str, Float[Array, ""]]  # teacher_classification, ...
  sampler_loss: Float[Array, ""]  # teacher classification, unsmoothed
  student_grad: Float[Array, "b s"]  # of the weighted terms
  teacher_grad: Float[Array, "b t"]
  sums: classes.Sums


@dataclasses.dataclass(frozen=True)
class Step:
  """The two parts of a step on the prototypes of one layout."""

  layout: Layout
  mesh: Mesh
  hyper: Hyper

  def score(
    self, tables: Prototypes, batch: Batch
  ) -> tuple[Scores, Prototypes]:
    """Returns losses and gradients, and the tables with the domain up to date.

    Only embeddings and sums per image travel between devices, whatever the
    number of classes.

    Args:
      tables: the prototypes.
      batch: embeddings, labels, domain and number of the step.
    """
    return self._on_devices(
      _score, in_specs=(_TABLES, _WHOLE), out_specs=(_WHOLE, _TABLES)
    )(tables, batch)

  def update(
    self, tables: Prototypes, batch: Batch, sums: classes.Sums, good: Any
  ) -> Prototypes:
    """Returns the tables after the step's update of its domain.

    Args:
      tables: from `score`.
      batch: the same.
      sums: of its scores.
      good: whether the step counts; if not, the tables stay as they are.
    """
    return self._on_devices(
      _update, in_specs=(_TABLES, _WHOLE, _WHOLE, _WHOLE), out_specs=_TABLES
    )(tables, batch, sums, good)

  def bring_up_to_date(
    self, tables: Prototypes, step: Int[Array, ""]
  ) -> Prototypes:
    """Returns the tables with all domains as of a step.

    For what leaves the training: AdamW moves all prototypes in every step.
    """
    return self._on_devices(
      _catch_up_all, in_specs=(_TABLES, _WHOLE), out_specs=_TABLES
    )(tables, step)

  def flops(self, batch_size: int) -> int:
    """Returns the operations of a step, in the mean over the domains.

    A product of all embeddings with all prototypes, and two for its gradients;
    what is computed again to need less memory does not count.

    Args:
      batch_size: images of a step.
    """
    classes_of = self.layout.num_classes
    dims = self.hyper.student_dim + self.hyper.teacher_dim
    return 6 * batch_size * dims * sum(classes_of) // len(classes_of)

  def _on_devices(self, function, *, in_specs, out_specs):
    return jax.shard_map(
      functools.partial(function, layout=self.layout, hyper=self.hyper),
      mesh=self.mesh,
      in_specs=in_specs,
      out_specs=out_specs,
    )


def _place(layout: Layout, domain) -> tuple[Any, Any]:
  """Returns first block and number of blocks of a domain."""
  return (
    jnp.asarray(layout.offsets, jnp.int32)[domain],
    jnp.asarray(layout.num_blocks, jnp.int32)[domain],
  )


def _varying(x):
  """Returns an array that may differ between devices from here on."""
  return jax.lax.pcast(x, _AXES, to="varying")


def _get(table, i):
  """Returns a block, as an array of its own.

  Fused into the write of the same block, the read would make the compiler copy
  the whole table, to keep what the write has not yet read.
  """
  return jax.lax.optimization_barrier(
    jax.lax.dynamic_index_in_dim(table, i, keepdims=False)
  )


def _set(table, i, block):
  """Returns the table with another block, in place where it is donated."""
  block = jax.lax.optimization_barrier(block)
  return jax.lax.dynamic_update_index_in_dim(table, block, i, 0)


def _catch_up(tables, domain, step, *, layout, adamw) -> Prototypes:
  """Brings a domain to the state after `step` updates."""
  start, num_blocks = _place(layout, domain)
  updated = tables.updated[domain]
  gap = step - updated
  by = catch_up.scalars(
    adamw, updated=updated, gap=gap, dtype=tables.student.dtype
  )
  num_blocks = jnp.where(gap > 0, num_blocks, 0)

  def body(i, blocks):
    return tuple(
      _set(x, start + i, catch_up.apply(adamw, by, _get(x, start + i)))
      for x in blocks
    )

  student, teacher = jax.lax.fori_loop(
    0, num_blocks, body, (tables.student, tables.teacher)
  )
  return Prototypes(student, teacher, tables.updated.at[domain].set(step))


def _catch_up_all(tables, step, *, layout, hyper) -> Prototypes:
  """Brings all domains to the state after `step` updates."""
  return jax.lax.fori_loop(
    0,
    len(layout.names),
    lambda i, x: _catch_up(x, i, step, layout=layout, adamw=hyper.adamw),
    tables,
  )


def _score(tables, batch, *, layout, hyper):
  """One device's part of `Step.score`: its rows of the blocks."""
  tables = _catch_up(
    tables, batch.domain, batch.step - 1, layout=layout, adamw=hyper.adamw
  )
  view = _View(layout, hyper, batch)
  start, num_blocks = _place(layout, batch.domain)

  def gather(i, sums):
    at = start + i
    block, _ = view.block(i, tables.student[at, 0], tables.teacher[at, 0])
    return classes.add_block(hyper.terms, sums, block)

  zeros = _varying(jnp.zeros(batch.labels.shape, batch.student.dtype))
  sums = classes.over_devices(
    jax.lax.fori_loop(0, num_blocks, gather, classes.empty_sums(zeros))
  )
  terms, sampler_loss = classes.loss_terms(
    hyper.terms, sums, num_classes=view.num_classes
  )

  def add_grads(i, grads):
    at = start + i
    found = view.gradients(
      i, tables.student[at, 0], tables.teacher[at, 0], sums=sums
    )
    return tuple(g + f[0] for g, f in zip(grads, found, strict=True))

  grads = jax.lax.fori_loop(
    0,
    num_blocks,
    add_grads,
    (jnp.zeros_like(view.student), jnp.zeros_like(view.teacher)),
  )
  student_grad, teacher_grad = jax.lax.psum(grads, _AXES)
  scores = Scores(terms, sampler_loss, student_grad, teacher_grad, sums)
  return scores, tables


def _update(tables, batch, sums, good, *, layout, hyper):
  """One device's part of `Step.update`."""
  view = _View(layout, hyper, batch)
  start, num_blocks = _place(layout, batch.domain)
  rate = hyper.adamw.schedule(batch.step)

  def body(i, blocks):
    at = start + i
    old = [_get(x, at) for x in blocks]
    found = view.gradients(i, old[0][0], old[1][0], sums=sums)
    return tuple(
      _set(
        x,
        at,
        _adamw(b, f[1], rate=rate, count=batch.step, hyper=hyper.adamw),
      )
      for x, b, f in zip(blocks, old, found, strict=True)
    )

  student, teacher = jax.lax.fori_loop(
    0,
    jnp.where(good, num_blocks, 0),
    body,
    (tables.student, tables.teacher),
  )
  count = jnp.where(good, batch.step, tables.updated[batch.domain])
  return Prototypes(
    student, teacher, tables.updated.at[batch.domain].set(count)
  )


class _View:
  """A batch against this device's part of its domain's blocks."""

  def __init__(self, layout: Layout, hyper: Hyper, batch: Batch):
    self._layout, self._hyper = layout, hyper
    # Else each block's share of their gradients would be summed over devices.
    self.student = _varying(batch.student)
    self.teacher = _varying(batch.teacher)
    self._labels = batch.labels
    self.num_classes = jnp.asarray(layout.num_classes)[batch.domain]

  def block(self, i, student_rows, teacher_rows):
    """Returns the cosines with the i-th block, and their backward passes."""
    first = i * self._layout.block_rows
    first += jax.lax.axis_index(_AXES) * self._layout.rows
    row = first + jnp.arange(self._layout.rows)
    cosines = functools.partial(_cosines, precision=self._hyper.precision)
    student, student_back = jax.vjp(cosines, self.student, student_rows)
    teacher, teacher_back = jax.vjp(cosines, self.teacher, teacher_rows)
    block = classes.Block(
      student,
      teacher,
      targets=row[None, :] == self._labels[:, None],
      valid=(row < self.num_classes)[None, :],
    )
    return block, (student_back, teacher_back)

  def gradients(self, i, student_rows, teacher_rows, *, sums):
    """Returns the gradients of (embeddings, rows), student's and teacher's."""
    block, (student_back, teacher_back) = self.block(
      i, student_rows, teacher_rows
    )
    student, teacher = classes.cosine_gradients(
      self._hyper.terms, sums, block, num_classes=self.num_classes
    )
    return student_back(student), teacher_back(teacher)


def _cosines(
  embeddings: Float[Array, "b d"], rows: Float[Array, "d r"], *, precision
) -> Float[Array, "b r"]:
  """Returns the cosines of unit embeddings with prototypes of any length."""
  squares = jnp.sum(rows**2, axis=0, keepdims=True)
  unit = rows * jax.lax.rsqrt(jnp.maximum(squares, _MIN_SQUARED_NORM))
  return jnp.einsum("bd,dr->br", embeddings, unit, precision=precision)


def _adamw(
  block: Float[Array, "3 d r"], grad: Float[Array, "d r"], *, rate, count, hyper
) -> Float[Array, "3 d r"]:
  """AdamW with decoupled decay (arXiv 1711.05101), as optax computes it."""
  param, mu, nu = block
  mu = hyper.b1 * mu + (1.0 - hyper.b1) * grad
  nu = hyper.b2 * nu + (1.0 - hyper.b2) * grad**2
  mu_hat = mu / (1.0 - hyper.b1**count)
  nu_hat = nu / (1.0 - hyper.b2**count)
  step = mu_hat / (jnp.sqrt(nu_hat) + hyper.eps)
  step = step + hyper.weight_decay * param
  return jnp.stack([param - rate * step, mu, nu])
