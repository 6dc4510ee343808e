"""What a run is built of before its first step.

From a config and the shapes of the data to the mesh, the compiled steps and the
state that the run starts from.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import functools
import logging
from typing import TypeAlias

import jax
from jax.sharding import Mesh
import ml_collections

from udon_jax import (
  build,
  checkpointing,
  checks,
  evaluator,
  optim,
  partitioning,
  prototypes,
  sampling,
  semantics,
  structs,
  train_state,
  train_step,
)
from udon_jax.logs import overview, profiling, wandb_sink
from udon_jax.models import udon

logger = logging.getLogger(__name__)

State = train_state.TrainState
StepFn: TypeAlias = train_step.StepFn

# The checkpoint with the highest value is the best one.
BEST_METRIC = "val/student/merged/mean/recall@1"


@dataclasses.dataclass(frozen=True)
class Run:
  """What does not change during a run.

  Attributes:
    config: with what its semantics choose filled in.
    mesh: all devices.
    layout: of the class tables.
    meta: what checkpoints tell of themselves.
    class_names: by label, of the domains that tell them.
    num_steps: of the run.
    frozen_steps: in which the backbone sits still.
    ungraded_steps: the first of these, in which its gradient is not computed.
    abstract_state: shapes and shardings.
    init_state: makes the state before the first step.
    policy: which domain each step trains.
    train_step: trains everything.
    frozen_step: leaves the backbone as it is, for `ungraded_steps`.
    optimizer: of the module.
    prototype_step: the part of the class prototypes.
    count_work: counts what the steps cost.
    evaluator: of validation and test.
  """

  config: ml_collections.ConfigDict
  mesh: Mesh
  layout: prototypes.Layout
  meta: checkpointing.Meta
  class_names: Mapping[str, Sequence[str]]
  num_steps: int
  frozen_steps: int
  ungraded_steps: int
  abstract_state: State
  init_state: Callable[[], State]
  policy: sampling.Policy
  train_step: StepFn
  frozen_step: StepFn
  optimizer: optim.AdamW
  prototype_step: prototypes.Step
  count_work: Callable[[], overview.Work]
  evaluator: evaluator.Evaluator

  def is_frozen(self, step: int) -> bool:
    """Whether a step computes no gradient of the backbone, and leaves it."""
    return step <= self.ungraded_steps


@dataclasses.dataclass(frozen=True)
class _Parts:
  """What steps are made of."""

  config: ml_collections.ConfigDict
  model: udon.Udon  # computes nothing twice
  step_model: udon.Udon
  optimizer: optim.AdamW
  prototype_step: prototypes.Step
  step_config: train_step.StepConfig

  def make_step(self, frozen: bool, *, only_once: bool = False) -> StepFn:
    """Returns a step, not compiled, that may compute things only once."""
    step_config, model = self.step_config, self.step_model
    if only_once:
      step_config = dataclasses.replace(step_config, grad_accum_steps=1)
      model = self.model
    return train_step.make_train_step(
      model,
      self.optimizer,
      prototype_step=self.prototype_step,
      config=step_config,
      frozen=frozen,
    )

  def compile_steps(self, places: State) -> tuple[StepFn, StepFn]:
    """Returns the step that trains everything, and that of a frozen backbone.

    Args:
      places: where each array of the state lies.
    """

    def compiled(step: StepFn) -> StepFn:
      return jax.jit(step, donate_argnums=0, out_shardings=places)

    return compiled(self.make_step(False)), compiled(self.make_step(True))

  def count_work(self, shapes: State) -> overview.Work:
    """Counts what the steps cost, for a state of these shapes."""
    return overview.count_work(
      model=self.model,
      make_step=functools.partial(self.make_step, only_once=True),
      prototype_step=self.prototype_step,
      state=shapes,
      batch_size=self.config.batch_size,
      image_size=self.config.data.crop_size,
    )


def set_up(
  config: ml_collections.ConfigDict,
  sources: Sequence[structs.TrainSource],
  *,
  devices: Sequence[jax.Device] | None = None,
  told: bool = True,
) -> Run:
  """Builds and checks everything that a run needs before its first step.

  Nothing is read of the sources.

  Args:
    config: the config.
    sources: its domains.
    devices: all of JAX's by default.
    told: whether the log tells of mesh and parameters.
  """
  checks.check(config)
  # Only a run asks for it: its checkpoints are used without.
  wandb_sink.check(config.wandb.project, mode=config.wandb.mode)
  mesh = build.mesh(config, devices)
  level = logging.INFO if told else logging.DEBUG
  logger.log(level, "%s", partitioning.describe_mesh(mesh))
  num_examples = [source.num_examples for source in sources]
  config = semantics.resolve(
    config, num_devices=mesh.size, num_examples=num_examples
  )
  num_steps, frozen_steps = semantics.num_steps(config, num_examples)
  profiling.check(config.profile_steps, num_steps=num_steps)
  optimizer = build.optimizer(config, num_steps, frozen_steps=frozen_steps)
  policy = semantics.policy(config, num_steps, num_examples)
  layout = _make_layout(config, sources, mesh)
  model = build.model(config, len(sources))
  init = functools.partial(
    _init_state, config, model, optimizer, layout, num_examples
  )
  shapes = jax.eval_shape(init)
  places = train_state.shardings(shapes, mesh)
  logger.log(level, "%s", overview.format_totals(shapes, layout))
  parts = _Parts(
    config=config,
    model=model,
    step_model=build.step_model(config, len(sources), device_mesh=mesh),
    optimizer=optimizer,
    prototype_step=prototypes.Step(
      layout, mesh, build.hyper(config, optimizer)
    ),
    step_config=build.step_config(config, policy),
  )
  full_step, frozen_step = parts.compile_steps(places)
  return Run(
    config=config,
    mesh=mesh,
    layout=layout,
    meta=_meta(config, sources),
    class_names={x.name: x.class_names for x in sources if x.class_names},
    num_steps=num_steps,
    frozen_steps=frozen_steps,
    ungraded_steps=semantics.num_ungraded(config, frozen_steps),
    abstract_state=_placed(shapes, places),
    init_state=jax.jit(init, out_shardings=places),
    policy=policy,
    train_step=full_step,
    frozen_step=frozen_step,
    optimizer=optimizer,
    prototype_step=parts.prototype_step,
    count_work=functools.partial(parts.count_work, shapes),
    evaluator=build.make_evaluator(config, parts.step_model, mesh),
  )


def _make_layout(
  config: ml_collections.ConfigDict,
  sources: Sequence[structs.TrainSource],
  mesh: Mesh,
) -> prototypes.Layout:
  """Returns the layout of the class tables."""
  return prototypes.make_layout(
    [source.name for source in sources],
    [source.num_classes for source in sources],
    mesh,
    rows=config.prototypes.block_rows,
  )


def _placed(shapes: State, places: State) -> State:
  """Returns shapes that say where their arrays lie."""
  return jax.tree.map(
    lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
    shapes,
    places,
  )


def _init_state(config, model, optimizer, layout, num_examples) -> State:
  """Returns the state before the first step."""
  return train_state.init(
    jax.random.key(config.seed),
    model=model,
    optimizer=optimizer,
    layout=layout,
    sampler_weights=sampling.initial_weights(
      config.sampler.strategy,
      num_examples=num_examples,
      allocation=config.sampler.allocation,
    ),
    image_size=config.data.crop_size,
  )


def _meta(
  config: ml_collections.ConfigDict, sources: Sequence[structs.TrainSource]
) -> checkpointing.Meta:
  """Returns what a run's checkpoints tell of themselves."""
  return checkpointing.Meta(
    config=build.to_json(config),
    domains=tuple(
      {
        "name": source.name,
        "num_classes": source.num_classes,
        "num_examples": source.num_examples,
        "fingerprint": source.fingerprint,
      }
      for source in sources
    ),
  )
