"""What a run is told to be at its start: its parameters and its work."""

from collections.abc import Callable
import dataclasses
from typing import Any

from clu import parameter_overview
from etils import epath
import jax
import jax.numpy as jnp

from udon_jax import (
  flops,
  prototypes,
  reporting,
  structs,
  train_state,
  train_step,
)

PARAMETERS_FILE = "parameters.txt"


@dataclasses.dataclass(frozen=True)
class Work:
  """Operations by `flops.count`, over all devices.

  Attributes:
    full_step: of a step.
    frozen_step: of a step that leaves the backbone as it is.
    prototypes: of the class prototypes, part of either, in the mean over the
      domains.
    embedding: of one image, by the student.
    open_loops: loops that were counted as one round.
  """

  full_step: int
  frozen_step: int
  prototypes: int
  embedding: int
  open_loops: int

  def of_step(self, *, frozen: bool) -> int:
    """Returns the operations of a step."""
    return self.frozen_step if frozen else self.full_step


def count_work(
  *,
  model: Any,
  make_step: Callable[[bool], train_step.StepFn],
  prototype_step: prototypes.Step,
  state: train_state.TrainState,
  batch_size: int,
  image_size: int,
) -> Work:
  """Counts what a run computes.

  Args:
    model: a `udon.Udon`.
    make_step: from whether the backbone is frozen to a step that computes
      nothing twice.
    prototype_step: the step's part on class prototypes.
    state: shapes of the state.
    batch_size: images of a step.
    image_size: side of the images.
  """
  shape: Any = jax.ShapeDtypeStruct
  scalar = shape((), jnp.int32)
  labels = shape((batch_size,), jnp.int32)
  images = shape((batch_size, image_size, image_size, 3), jnp.uint8)
  batch = structs.Batch(images, labels, scalar)
  full, frozen = (
    flops.count(make_step(f), state, batch) for f in (False, True)
  )

  def classify(tables, embedded):
    scores, tables = prototype_step.score(tables, embedded)
    return scores, prototype_step.update(tables, embedded, scores.sums, True)

  # Of a block, as the blocks are those of the domain: part of the steps above.
  block = flops.count(
    classify,
    state.prototypes,
    prototypes.Batch(
      shape((batch_size, model.student_dim), jnp.float32),
      shape((batch_size, model.teacher_dim), jnp.float32),
      labels,
      scalar,
      scalar,
    ),
  )
  classes = prototype_step.flops(batch_size)
  embedding = flops.count(
    lambda params, images, domain: (
      model.apply({"params": params}, images, domain, train=False).student
    ),
    state.params,
    shape((1, *images.shape[1:]), jnp.uint8),
    scalar,
  )
  return Work(
    full_step=full.flops - block.flops + classes,
    frozen_step=frozen.flops - block.flops + classes,
    prototypes=classes,
    embedding=embedding.flops,
    open_loops=full.open_loops - block.open_loops,
  )


def format_work(work: Work) -> str:
  """Returns the line that a run prints about its work."""
  line = (
    f"FLOPs of a step: {_short(work.full_step)}, "
    f"{_short(work.frozen_step)} while the backbone is frozen "
    f"(class prototypes: {_short(work.prototypes)} of either); of embedding an "
    f"image: {_short(work.embedding)}"
  )
  if work.open_loops:
    line += f"; {work.open_loops} loops of unknown length count as one round"
  return line


def write_parameters(
  workdir: epath.PathLike,
  state: train_state.TrainState,
  layout: prototypes.Layout,
) -> None:
  """Writes the table of all parameters, by name, shape, type and size."""
  table = parameter_overview.get_parameter_overview(
    {
      "module": state.params,
      "prototypes": prototypes.by_domain(state.prototypes, layout),
    },
    include_stats=False,
    max_lines=None,
  )
  reporting.write_atomically(
    epath.Path(workdir) / PARAMETERS_FILE, table + "\n"
  )


def num_parameters(
  state: train_state.TrainState, layout: prototypes.Layout
) -> dict[str, int]:
  """Returns how many parameters "module" and "prototypes" hold."""
  count = parameter_overview.count_parameters
  return {
    "module": int(count(state.params)),
    "prototypes": int(count(prototypes.by_domain(state.prototypes, layout))),
  }


def format_totals(
  state: train_state.TrainState, layout: prototypes.Layout
) -> str:
  """Returns the line that a run prints about its parameters."""
  count = parameter_overview.count_parameters
  parts = ", ".join(
    f"{count(tree):,} {name}" for name, tree in sorted(state.params.items())
  )
  totals = num_parameters(state, layout)
  return (
    f"parameters: {totals['module']:,} of the module ({parts}), "
    f"{totals['prototypes']:,} of class prototypes"
  )


def _short(number: float) -> str:
  """Returns "35.1 G" for 35.1e9."""
  for unit in ("", " K", " M", " G", " T"):
    if number < 999.5:
      return f"{number:.3g}{unit}"
    number /= 1000
  return f"{number:.4g} P"
