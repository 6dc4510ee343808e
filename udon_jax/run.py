"""What a run is built of before its first step.

From a config and the shapes of the data to the mesh, the compiled steps and the
state that the run starts from.
"""

from collections.abc import Callable, Sequence
import dataclasses
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
  structs,
  train_state,
  train_step,
)
from udon_jax.logs import overview, profiling, wandb_sink

logger = logging.getLogger(__name__)

State = train_state.TrainState
StepFn: TypeAlias = train_step.StepFn

# The checkpoint with the highest value is the best one.
BEST_METRIC = "val/student/merged/mean/recall@1"


@dataclasses.dataclass(frozen=True)
class Run:
  """What does not change during a run."""

  config: ml_collections.ConfigDict
  mesh: Mesh
  layout: prototypes.Layout
  meta: checkpointing.Meta
  num_steps: int
  frozen_steps: int
  abstract_state: State  # shapes and shardings
  init_state: Callable[[], State]
  train_step: StepFn
  frozen_step: StepFn
  optimizer: optim.AdamW
  count_work: Callable[[], overview.Work]
  evaluator: evaluator.Evaluator

  def is_frozen(self, step: int) -> bool:
    """Whether a step leaves the backbone as it is."""
    return step <= self.frozen_steps


def set_up(
  config: ml_collections.ConfigDict, sources: Sequence[structs.TrainSource]
) -> Run:
  """Builds and checks everything that a run needs before its first step."""
  checks.check(config)
  # Only a run asks for it: its checkpoints are used without.
  wandb_sink.check(config.wandb.project, mode=config.wandb.mode)
  mesh = build.mesh(config)
  logger.info("%s", partitioning.describe_mesh(mesh))
  num_examples = [source.num_examples for source in sources]
  num_steps, frozen_steps = build.num_steps(config, num_examples)
  profiling.check(config.profile_steps, num_steps=num_steps)
  model = build.model(config, len(sources))
  optimizer = build.optimizer(config, num_steps)
  layout = prototypes.make_layout(
    [source.name for source in sources],
    [source.num_classes for source in sources],
    mesh,
  )
  weights = sampling.initial_weights(
    config.sampler.strategy,
    num_examples=num_examples,
    allocation=config.sampler.allocation,
  )

  def init() -> State:
    return train_state.init(
      jax.random.key(config.seed),
      model=model,
      optimizer=optimizer,
      layout=layout,
      sampler_weights=weights,
      image_size=config.data.crop_size,
    )

  shapes = jax.eval_shape(init)
  places = train_state.shardings(shapes, mesh)
  logger.info("%s", overview.format_totals(shapes))
  prototype_step = prototypes.make_step(layout, mesh, build.hyper(config))
  step_config = build.step_config(config, optimizer)

  def make_step(
    frozen: bool, step_config: train_step.StepConfig = step_config
  ) -> StepFn:
    return train_step.make_train_step(
      model,
      optimizer,
      prototype_step=prototype_step,
      config=step_config,
      frozen=frozen,
    )

  def compiled(step: StepFn) -> StepFn:
    return jax.jit(step, donate_argnums=0, out_shardings=places)

  def count_work() -> overview.Work:
    in_one_part = dataclasses.replace(step_config, grad_accum_steps=1)
    return overview.count_work(
      model=model,
      make_step=lambda frozen: make_step(frozen, in_one_part),
      prototype_step=prototype_step,
      state=shapes,
      batch_size=config.batch_size,
      image_size=config.data.crop_size,
    )

  return Run(
    config=config,
    mesh=mesh,
    layout=layout,
    meta=_meta(config, sources),
    num_steps=num_steps,
    frozen_steps=frozen_steps,
    abstract_state=jax.tree.map(
      lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
      shapes,
      places,
    ),
    init_state=jax.jit(init, out_shardings=places),
    train_step=compiled(make_step(False)),
    frozen_step=compiled(make_step(True)),
    optimizer=optimizer,
    count_work=count_work,
    evaluator=build.make_evaluator(config, model, mesh),
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
