"""The class prototypes: loss terms, embedding gradients and update in one.

Every domain has two cosine classifiers, one for its teacher and one for the
student. Together they hold more parameters than the ViT, so they live outside
the module, in two packed tables whose rows are split over all devices.
`make_step` returns the one function through which training sees them.

Shape legend: r rows of a packed table (all domains, padded to the devices),
b batch, d embedding dim, s student dim, t teacher dim, c classes of a domain.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import functools
from typing import Any, NamedTuple

from flax import struct
import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Int
import numpy as np

from udon_jax import losses, partitioning

# Rows of class tables are split over every device of the mesh.
ROWS = P(partitioning.AXES)
_MIN_SQUARED_NORM = 1e-24


class Table(struct.PyTreeNode):
  """Prototypes of all domains with their AdamW moments."""

  param: Float[Array, "r d"]
  mu: Float[Array, "r d"]
  nu: Float[Array, "r d"]


class Prototypes(struct.PyTreeNode):
  """The class tables; part of the train state."""

  student: Table
  teacher: Table


@dataclasses.dataclass(frozen=True)
class Layout:
  """Where each domain's classes lie in the packed tables.

  Attributes:
    names: names of the domains, in the order of their ids.
    num_classes: classes of every domain.
    num_shards: devices over which the rows are split evenly.
  """

  names: tuple[str, ...]
  num_classes: tuple[int, ...]
  num_shards: int

  @property
  def offsets(self) -> tuple[int, ...]:
    """First row of every domain."""
    return tuple(int(x) for x in np.cumsum((0, *self.num_classes[:-1])))

  @property
  def num_rows(self) -> int:
    """Rows of a table, padded to a multiple of the shards."""
    return -(-sum(self.num_classes) // self.num_shards) * self.num_shards


@dataclasses.dataclass(frozen=True)
class Hyper:
  """What the loss over classes and its optimizer need to know."""

  classifier: str
  margin: float
  scale: float
  label_smoothing: float
  teacher_temperature: float
  student_temperature: float
  weights: Mapping[str, float]
  b1: float
  b2: float
  eps: float
  weight_decay: float


class StepResult(NamedTuple):
  """What one step on the prototypes gives back."""

  terms: dict[str, Float[Array, ""]]  # teacher_classification, ...
  sampler_loss: Float[Array, ""]  # teacher classification, unsmoothed
  teacher_grad: Float[Array, "b t"]  # of the weighted terms
  student_grad: Float[Array, "b s"]
  tables: Prototypes


StepFn = Callable[..., StepResult]


def tables_sharding(mesh: Mesh) -> NamedSharding:
  """Rows are split over all devices."""
  return NamedSharding(mesh, ROWS)


def init(
  key: jax.Array, layout: Layout, *, student_dim: int, teacher_dim: int
) -> Prototypes:
  """Returns new tables: lecun_uniform with fan-in d, zero moments.

  The values depend on (key, domain) alone, not on the padding.
  """

  def table(key, dim):
    bound = np.sqrt(3.0 / dim)
    rows = [
      jax.random.uniform(
        jax.random.fold_in(key, i), (c, dim), minval=-bound, maxval=bound
      )
      for i, c in enumerate(layout.num_classes)
    ]
    param = _pad(jnp.concatenate(rows), layout)
    return Table(param, jnp.zeros_like(param), jnp.zeros_like(param))

  student_key, teacher_key = jax.random.split(key)
  return Prototypes(
    student=table(student_key, student_dim),
    teacher=table(teacher_key, teacher_dim),
  )


def params(tables: Prototypes) -> dict[str, Float[Array, "r d"]]:
  """Returns the prototypes without their moments."""
  return {"student": tables.student.param, "teacher": tables.teacher.param}


def _pad(rows: Float[Array, "n d"], layout: Layout) -> Float[Array, "r d"]:
  return jnp.pad(rows, ((0, layout.num_rows - rows.shape[0]), (0, 0)))


def unpack(
  tables: Prototypes, layout: Layout
) -> dict[str, dict[str, Float[Array, "c 3 d"]]]:
  """Returns {"student"|"teacher": {domain: (param, mu, nu) of its classes}}.

  The form of checkpoints: it does not depend on the mesh.
  """

  def split(table):
    stacked = jnp.stack([table.param, table.mu, table.nu], axis=1)
    return {
      name: stacked[start : start + count]
      for name, start, count in zip(
        layout.names, layout.offsets, layout.num_classes, strict=True
      )
    }

  return {"student": split(tables.student), "teacher": split(tables.teacher)}


def pack(
  arrays: Mapping[str, Mapping[str, Float[Array, "c 3 d"]]], layout: Layout
) -> Prototypes:
  """Inverse of `unpack`, for the devices of this layout."""

  def join(by_domain):
    stacked = jnp.concatenate([by_domain[name] for name in layout.names])
    return Table(*(_pad(stacked[:, i], layout) for i in range(3)))

  return Prototypes(
    student=join(arrays["student"]), teacher=join(arrays["teacher"])
  )


def make_step(layout: Layout, mesh: Mesh, hyper: Hyper) -> StepFn:
  """Returns the function that scores and updates the prototypes.

  The function takes `(tables, *, student, teacher, labels, domain,
  learning_rate, count)`: embeddings of the batch, its class ids, the traced id
  of its domain, and the rate and number (from 1) of this AdamW update. It
  updates *every* prototype, as AdamW does on zero gradients too.

  All rows are scored and those of other domains masked, so one program serves
  every domain and the work is even over the devices. Only embeddings and
  per-image statistics travel between devices, whatever the number of classes.
  """
  local = functools.partial(_local_step, layout=layout, hyper=hyper)
  whole = P()
  out_specs: tuple[Any, ...] = (whole, whole, whole, whole, ROWS)
  sharded = jax.shard_map(
    local,
    mesh=mesh,
    in_specs=(ROWS, whole, whole, whole, whole, whole, whole),
    out_specs=StepResult(*out_specs),
  )

  def step(
    tables, *, student, teacher, labels, domain, learning_rate, count
  ) -> StepResult:
    return sharded(
      tables, student, teacher, labels, domain, learning_rate, count
    )

  return step


def _local_step(
  tables: Prototypes,
  student: Float[Array, "b s"],
  teacher: Float[Array, "b t"],
  labels: Int[Array, "b"],
  domain: Int[Array, ""],
  learning_rate: Float[Array, ""],
  count: Int[Array, ""],
  *,
  layout: Layout,
  hyper: Hyper,
) -> StepResult:
  """One device's part of a step: its rows of the tables, the whole batch."""

  def loss_fn(params, student, teacher):
    terms, sampler_loss = _loss_terms(
      params, student, teacher, labels, domain, layout=layout, hyper=hyper
    )
    return losses.weighted_mean(terms, hyper.weights), (terms, sampler_loss)

  params = (tables.student.param, tables.teacher.param)
  grads, (terms, sampler_loss) = jax.grad(
    loss_fn, argnums=(0, 1, 2), has_aux=True
  )(params, student, teacher)
  (student_rows, teacher_rows), student_grad, teacher_grad = grads
  update = functools.partial(
    _adamw, learning_rate=learning_rate, count=count, hyper=hyper
  )
  return StepResult(
    terms=terms,
    sampler_loss=sampler_loss,
    teacher_grad=teacher_grad,
    student_grad=student_grad,
    tables=Prototypes(
      student=update(tables.student, student_rows),
      teacher=update(tables.teacher, teacher_rows),
    ),
  )


def _loss_terms(params, student, teacher, labels, domain, *, layout, hyper):
  """Returns the three terms over classes and the loss that the sampler sees."""
  axes = partitioning.AXES
  num_local = params[0].shape[0]
  num_classes = jnp.asarray(layout.num_classes)[domain]
  start = jnp.asarray(layout.offsets)[domain]
  row = jax.lax.axis_index(axes) * num_local + jnp.arange(num_local)
  valid = ((row >= start) & (row < start + num_classes))[None, :]
  targets = row[None, :] == (start + labels)[:, None]

  student_cosines = _cosines(student, params[0])
  teacher_cosines = _cosines(teacher, params[1])

  def classification(cosines, label_smoothing):
    with_margin = losses.add_margin(
      cosines, targets, classifier=hyper.classifier, margin=hyper.margin
    )
    return losses.cross_entropy(
      hyper.scale * with_margin,
      targets,
      valid=valid,
      num_classes=num_classes,
      label_smoothing=label_smoothing,
      axes=axes,
    )

  terms = {
    "teacher_classification": classification(
      teacher_cosines, hyper.label_smoothing
    ),
    "student_classification": classification(
      student_cosines, hyper.label_smoothing
    ),
    "logit_distillation": losses.logit_distillation(
      teacher_cosines,
      student_cosines,
      valid=valid,
      teacher_temperature=hyper.teacher_temperature,
      student_temperature=hyper.student_temperature,
      axes=axes,
    ),
  }
  return terms, classification(teacher_cosines, 0.0)


def _cosines(
  embeddings: Float[Array, "b d"], rows: Float[Array, "n d"]
) -> Float[Array, "b n"]:
  """Returns the cosines of unit embeddings with prototypes of any length."""
  squares = jnp.sum(rows**2, axis=-1, keepdims=True)
  unit = rows * jax.lax.rsqrt(jnp.maximum(squares, _MIN_SQUARED_NORM))
  return jnp.einsum(
    "bd,nd->bn", embeddings, unit, precision=jax.lax.Precision.HIGHEST
  )


def _adamw(
  table: Table,
  grad: Float[Array, "n d"],
  *,
  learning_rate: Float[Array, ""],
  count: Int[Array, ""],
  hyper: Hyper,
) -> Table:
  """AdamW with decoupled decay (arXiv 1711.05101), as optax computes it."""
  mu = hyper.b1 * table.mu + (1.0 - hyper.b1) * grad
  nu = hyper.b2 * table.nu + (1.0 - hyper.b2) * grad**2
  mu_hat = mu / (1.0 - hyper.b1**count)
  nu_hat = nu / (1.0 - hyper.b2**count)
  step = mu_hat / (jnp.sqrt(nu_hat) + hyper.eps)
  step = step + hyper.weight_decay * table.param
  return Table(table.param - learning_rate * step, mu, nu)


def make_layout(
  names: Sequence[str], num_classes: Sequence[int], mesh: Mesh
) -> Layout:
  """Returns the layout of the tables on a mesh."""
  return Layout(tuple(names), tuple(num_classes), mesh.size)
