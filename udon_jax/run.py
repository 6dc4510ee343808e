"""What a run is built of before its first step.

From a config and the shapes of the data to the mesh, the compiled steps and the
state that the run starts from.
"""

from collections.abc import Callable, Sequence
import dataclasses
import logging
from typing import TypeAlias

from clu import parameter_overview
import jax
from jax.sharding import Mesh
import ml_collections

from udon_jax import (
  build,
  checkpointing,
  checks,
  evaluator,
  partitioning,
  prototypes,
  sampling,
  structs,
  train_state,
  train_step,
)

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
  evaluator: evaluator.Evaluator


def set_up(
  config: ml_collections.ConfigDict, sources: Sequence[structs.TrainSource]
) -> Run:
  """Builds and checks everything that a run needs before its first step."""
  checks.check(config)
  mesh = build.mesh(config)
  logger.info("%s", partitioning.describe_mesh(mesh))
  num_examples = [source.num_examples for source in sources]
  num_steps, frozen_steps = build.num_steps(config, num_examples)
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
  logger.info(
    "parameters: %s of the module, %s of class prototypes",
    *(
      f"{parameter_overview.count_parameters(tree):,}"
      for tree in (shapes.params, prototypes.params(shapes.prototypes))
    ),
  )

  def make_step(*, frozen: bool) -> StepFn:
    step = train_step.make_train_step(
      model,
      optimizer,
      prototype_step=prototypes.make_step(layout, mesh, build.hyper(config)),
      config=build.step_config(config, optimizer),
      frozen=frozen,
    )
    return jax.jit(step, donate_argnums=0, out_shardings=places)

  return Run(
    config=config,
    mesh=mesh,
    layout=layout,
    meta=checkpointing.Meta(
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
    ),
    num_steps=num_steps,
    frozen_steps=frozen_steps,
    abstract_state=jax.tree.map(
      lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
      shapes,
      places,
    ),
    init_state=jax.jit(init, out_shardings=places),
    train_step=make_step(frozen=False),
    frozen_step=make_step(frozen=True),
    evaluator=build.make_evaluator(config, model, mesh),
  )


def restore_or_init(
  run: Run, checkpointer: checkpointing.Checkpointer
) -> State:
  """Returns the state that the run starts from.

  1. The newest checkpoint of the workdir.
  2. The newest checkpoint of config.resume_from.
  3. New parameters, with a backbone from config.pretrained.
  4. New parameters.
  """
  if checkpointer.latest_step is not None:
    logger.info("continuing after step %d", checkpointer.latest_step)
    return checkpointer.restore(
      checkpointer.latest_step,
      run.abstract_state,
      layout=run.layout,
      mesh=run.mesh,
    )
  if run.config.resume_from is not None:
    return checkpointing.restore_from(
      run.config.resume_from,
      run.abstract_state,
      layout=run.layout,
      mesh=run.mesh,
      best=BEST_METRIC,
    )
  state = run.init_state()
  if run.config.pretrained is not None:
    params = build.load_pretrained(run.config.pretrained, state.params)
    state = state.replace(params=params)
  return state
