"""What a run is built of before its first step.

From a config and the shapes of the data to the mesh, the compiled steps and the
state that the run starts from.
"""

from collections.abc import Callable, Sequence
import dataclasses
import logging
from typing import TypeAlias

from etils import epath
import jax
import jax.numpy as jnp
from jax.sharding import Mesh
import ml_collections

from udon_jax import (
  build,
  checkpointing,
  chips,
  evaluator,
  optim,
  overview,
  partitioning,
  profiling,
  progress,
  prototypes,
  sampling,
  structs,
  train_state,
  train_step,
  wandb_sink,
  writers,
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
  build.check(config)
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
    train_step=compiled(make_step(False)),
    frozen_step=compiled(make_step(True)),
    optimizer=optimizer,
    count_work=count_work,
    evaluator=build.make_evaluator(config, model, mesh),
  )


def start_clock(run: Run) -> progress.Clock:
  """Returns a clock that knows the run's devices."""
  devices = run.mesh.devices.flat
  return progress.Clock(
    batch_size=run.config.batch_size,
    num_devices=run.mesh.size,
    peak_flops=chips.peak_flops(devices[0].device_kind),
  )


def learning_rates(
  run: Run, steps: Sequence[int]
) -> dict[int, dict[str, float]]:
  """Returns what is written of the rates that steps use, by step."""
  at = jnp.asarray(steps, jnp.int32)
  rates = partitioning.fetch(
    {
      name: jnp.broadcast_to(jax.vmap(group.schedule)(at), at.shape)
      for name, group in run.optimizer.groups.items()
    }
  )
  lines = {
    step: {f"learning_rate/{name}": float(rates[name][i]) for name in rates}
    for i, step in enumerate(steps)
  }
  for step in steps:
    if run.is_frozen(step):
      lines[step][f"learning_rate/{train_step.BACKBONE}"] = 0.0
  return lines


def open_writer(
  run: Run, workdir: epath.PathLike, *, is_main: bool, step: int
) -> writers.Writer:
  """Opens everything that the config wants metrics written to."""
  others: list[writers.OpenSink] = []
  config = run.config.wandb
  if config.project is not None:
    others.append(
      lambda folder, _: wandb_sink.WandbSink(
        folder,
        project=config.project,
        name=config.name,
        mode=config.mode,
        config=run.meta.config,
      )
    )
  return writers.Writer(workdir, is_main=is_main, step=step, others=others)


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
