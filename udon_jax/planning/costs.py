"""From compiled steps to what a run costs.

A floor is a time that the step cannot beat on these chips: the longest of
computing at the peak of dense bfloat16 products, of reading and writing the
module's parameters and moments once, and of sending what the program sends at
the full speed of all links. Of another compiler's program, the links are told
but do not count: the chip's own may send less.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import logging
import math
from typing import Any

import jax

from udon_jax import chips, partitioning, train_step
from udon_jax import run as runs
from udon_jax.logs import overview
from udon_jax.planning import programs

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Floor:
  """Seconds that a step takes at least, by what it waits for.

  Attributes:
    compute: for products of matrices.
    memory: for parameters and moments of the module.
    links: for other devices.
    links_count: whether the last is that of the program that will run.
  """

  compute: float
  memory: float
  links: float
  links_count: bool

  @property
  def _counted(self) -> dict[str, float]:
    links = {"links": self.links} if self.links_count else {}
    return {"compute": self.compute, "memory": self.memory, **links}

  @property
  def seconds(self) -> float:
    """Of a step: what it waits for can overlap."""
    return max(self._counted.values())

  @property
  def bound(self) -> str:
    """What the step waits for."""
    return max(self._counted, key=self._counted.__getitem__)


@dataclasses.dataclass(frozen=True)
class Step:
  """A kind of step of a run.

  Attributes:
    count: how many the run takes.
    flops: of the model, over all devices.
    program: compiled.
    floor: of its time.
  """

  count: int
  flops: int
  program: programs.Program
  floor: Floor


@dataclasses.dataclass(frozen=True)
class Plan:
  """What is known of a run before there are devices.

  Attributes:
    chip: a name of `chips.CHIPS`.
    compiler: in words.
    is_estimate: whether bytes are those of another compiler than the chip's.
    run: built for the devices.
    parameters: of the module, and of the prototypes without padding.
    work: operations.
    steps: "full", and "frozen" if the run has such steps.
  """

  chip: str
  compiler: str
  is_estimate: bool
  run: runs.Run
  parameters: Mapping[str, int]
  work: overview.Work
  steps: Mapping[str, Step]

  @property
  def bytes_per_device(self) -> int:
    """Bytes that the run needs on every device."""
    return max(step.program.memory.total for step in self.steps.values())

  @property
  def memory(self) -> float:
    """Bytes that a program can use on a device."""
    return chips.CHIPS[self.chip].memory

  @property
  def fits(self) -> bool:
    """Whether a device has as much as the run needs."""
    return self.bytes_per_device <= self.memory and all(
      step.program.was_compiled for step in self.steps.values()
    )

  @property
  def seconds(self) -> float:
    """Floor of the run's steps; validation and data come on top."""
    return sum(x.count * x.floor.seconds for x in self.steps.values())

  def seconds_at(self, mfu: float) -> float:
    """Returns the time of the run's steps at a share of the peak, or floor."""
    return sum(
      x.count * max(x.floor.seconds, x.floor.compute / mfu)
      for x in self.steps.values()
    )

  def chip_hours(self, seconds: float) -> float:
    """Returns the hours of all chips together."""
    num_chips = self.run.mesh.size / chips.CHIPS[self.chip].devices
    return num_chips * seconds / 3600

  def spending(self, seconds: float, price: float | None) -> dict[str, Any]:
    """Returns what so many seconds take.

    Args:
      seconds: of the run.
      price: of an hour of a chip; None if not known.
    """
    chip_hours = self.chip_hours(seconds)
    return {
      "hours": seconds / 3600,
      "chip_hours": chip_hours,
      "cost": None if price is None else price * chip_hours,
    }


def make(
  run: runs.Run,
  *,
  chip: str,
  compiler: str,
  is_estimate: bool,
  num_classes: Sequence[int],
) -> Plan:
  """Compiles the steps of a run and says what they cost.

  Args:
    run: on present or absent devices.
    chip: a name of `chips.CHIPS`.
    compiler: of these devices, in words.
    is_estimate: whether it is another one than that of the chip.
    num_classes: of every domain.
  """
  work = run.count_work()
  num_frozen = run.ungraded_steps
  counts = {"full": run.num_steps - num_frozen, "frozen": num_frozen}
  steps = {}
  for kind in ("full", "frozen") if num_frozen else ("full",):
    is_frozen = kind == "frozen"
    logger.info("compiling the %s step; this can take minutes", kind)
    program = programs.compile_step(run, frozen=is_frozen)
    flops = work.of_step(frozen=is_frozen)
    steps[kind] = Step(
      counts[kind],
      flops,
      program,
      _floor(
        run,
        chips.CHIPS[chip],
        program,
        flops=flops,
        frozen=is_frozen,
        links_count=not is_estimate,
      ),
    )
  dims = run.config.model.student_dim + run.config.model.teacher_dim
  return Plan(
    chip,
    compiler,
    is_estimate,
    run,
    parameters={
      "module": sum(
        math.prod(x.shape) for x in jax.tree.leaves(run.abstract_state.params)
      ),
      "prototypes": sum(num_classes) * dims,
    },
    work=work,
    steps=steps,
  )


def _floor(
  run: runs.Run,
  chip: chips.Chip,
  program: programs.Program,
  *,
  flops: int,
  frozen: bool,
  links_count: bool,
) -> Floor:
  """Returns the least time of a step."""
  state = run.abstract_state
  moments = state.opt_state[train_step.HEADS] if frozen else state.opt_state
  # Of what is updated, two moments a parameter are read, all three written.
  updated = partitioning.bytes_per_device(moments) // 2
  traffic = partitioning.bytes_per_device(state.params) + 5 * updated
  sent = sum(x.sent for x in program.exchanges or ())
  return Floor(
    compute=flops / run.mesh.size / chip.peak_flops,
    memory=traffic / chip.memory_bandwidth,
    links=sent / chip.link_bandwidth,
    links_count=links_count,
  )


def to_json(
  plan: Plan, *, price: float | None, mfu: float | None
) -> dict[str, Any]:
  """Returns the plan as plain values.

  Args:
    plan: the plan.
    price: of an hour of a chip, in any currency; None if not known.
    mfu: share of the peak to expect; None tells the floor alone.
  """
  full = plan.steps["full"]
  batch = plan.run.config.batch_size
  return {
    "chip": plan.chip,
    "mesh": {name: int(n) for name, n in plan.run.mesh.shape.items()},
    "devices": plan.run.mesh.size,
    "compiler": plan.compiler,
    "fits": plan.fits,
    "bytes_per_device": plan.bytes_per_device,
    "bytes_are_estimate": plan.is_estimate,
    "memory_per_device": round(plan.memory),
    "parameters": dict(plan.parameters),
    "flops_per_step": full.flops,
    "prototype_flops_per_step": plan.work.prototypes,
    "open_loops": plan.work.open_loops,
    "collectives": _exchanges(full.program),
    "num_steps": plan.run.num_steps,
    "frozen_steps": plan.run.frozen_steps,
    "floor": plan.spending(plan.seconds, price),
    "at_mfu": None
    if mfu is None
    else {"mfu": mfu, **plan.spending(plan.seconds_at(mfu), price)},
    "steps": {
      kind: {
        "count": step.count,
        "flops": step.flops,
        "memory": {
          **dataclasses.asdict(step.program.memory),
          "total": step.program.memory.total,
        },
        "floor": {
          **dataclasses.asdict(step.floor),
          "seconds": step.floor.seconds,
          "bound": step.floor.bound,
          "images_per_second": batch / step.floor.seconds,
        },
        "collectives": _exchanges(step.program),
        "flops_by_compiler_per_device": step.program.flops_by_compiler,
        "seconds_to_compile": step.program.seconds,
      }
      for kind, step in plan.steps.items()
    },
  }


def _exchanges(program: programs.Program) -> list[dict[str, Any]] | None:
  """Returns the collectives of a program as plain values."""
  if program.exchanges is None:
    return None
  return [dataclasses.asdict(x) for x in program.exchanges]
