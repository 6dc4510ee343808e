"""The training loop. It receives data and never imports it."""

from collections.abc import Callable, Mapping, Sequence
import contextlib
import dataclasses
import logging
from typing import Any

from etils import epath
import jax
from jax.sharding import Mesh
import ml_collections
import numpy as np

from udon_jax import (
  build,
  checkpointing,
  errors,
  evaluator,
  partitioning,
  progress,
  prototypes,
  reporting,
  sampling,
  structs,
  train_state,
  train_step,
)
from udon_jax.retrieval import table

logger = logging.getLogger(__name__)

Tasks = Callable[[], Sequence[structs.RetrievalTask]]
State = train_state.TrainState

BEST_METRIC = "val/student/merged/mean/recall@1"
CONFIG_FILE = "config.json"


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
  train_step: train_step.StepFn
  frozen_step: train_step.StepFn
  evaluator: evaluator.Evaluator


def every(step: int, n: int, *, last: int) -> bool:
  """Whether something done every n steps, and at the last one, is due."""
  return step % n == 0 or step == last


def train(
  config: ml_collections.ConfigDict,
  workdir: epath.PathLike,
  *,
  sources: Sequence[structs.TrainSource],
  tasks: Mapping[str, Tasks],
) -> dict[str, Any]:
  """Trains, tests the best checkpoint, and returns what the test found.

  Args:
    config: a resolved config.
    workdir: the run's folder; a run that it holds is continued.
    sources: training images of every domain, in the order of config.domains.
    tasks: makers of the "val" and "test" retrieval tasks.

  Returns:
    The contents of results.json.

  Raises:
    UserError: a value of the config does not fit.
    DivergedError: a loss or gradient was not finite.
  """
  workdir = reporting.make_folder(workdir, key="--workdir")
  run = set_up(config, sources)
  is_main = jax.process_index() == 0
  with contextlib.ExitStack() as stack:
    checkpointer = stack.enter_context(
      contextlib.closing(
        checkpointing.Checkpointer(
          workdir, keep_latest=config.checkpoint.keep_latest, best=BEST_METRIC
        )
      )
    )
    state = _restore_or_init(run, checkpointer)
    start = int(partitioning.fetch(state.step))
    if is_main:
      reporting.write_json(workdir / CONFIG_FILE, run.meta.config)
    writer = stack.enter_context(
      contextlib.closing(reporting.Writer(workdir, is_main=is_main, step=start))
    )
    loop = Loop(run, sources=sources, tasks=tasks, writer=writer)
    loop.train(state, start=start, checkpointer=checkpointer)
    results = loop.test(checkpointer)
  if is_main:
    reporting.write_json(workdir / reporting.RESULTS_FILE, results)
    logger.info("\n%s", table.format_table(results))
  return results


def set_up(
  config: ml_collections.ConfigDict, sources: Sequence[structs.TrainSource]
) -> Run:
  """Builds and checks everything that a run needs before its first step."""
  build.check(config)
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

  def make_step(*, frozen: bool) -> train_step.StepFn:
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


def _restore_or_init(
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


class Loop:
  """Steps, and what happens between them."""

  def __init__(
    self,
    run: Run,
    *,
    sources: Sequence[structs.TrainSource],
    tasks: Mapping[str, Tasks],
    writer: reporting.Writer,
  ):
    self._run = run
    self._config = run.config
    self._sources = sources
    self._tasks = tasks
    self._writer = writer
    self._domain_ids = [
      partitioning.put_replicated(np.int32(i), run.mesh)
      for i in range(len(sources))
    ]
    self._empty_meters = jax.jit(
      lambda: train_state.init_meters(len(sources)),
      out_shardings=partitioning.replicated(run.mesh),
    )

  def train(
    self,
    state: State,
    *,
    start: int,
    checkpointer: checkpointing.Checkpointer,
  ) -> None:
    """Takes the steps after `start`, and logs, validates and saves."""
    config, last = self._config, self._run.num_steps
    if start >= last:
      return
    positions = partitioning.fetch(state.data_position)
    iters = [
      source.open(int(position))
      for source, position in zip(self._sources, positions, strict=True)
    ]
    clock = progress.Clock(batch_size=config.batch_size)
    plan = None
    for step in range(start + 1, last + 1):
      place = (step - 1) % config.sampler.update_every
      if plan is None or place == 0:
        state, plan = self._enter_window(state, step)
      domain = plan[place]
      with clock.waiting():
        host_batch = next(iters[domain])
      state = self._step(state, step, domain=domain, host_batch=host_batch)
      clock.count_step()
      if every(step, config.log_every, last=last):
        state = self._log(state, step, domain=domain, clock=clock)
      results = None
      if every(step, config.eval_every, last=last):
        with clock.paused():
          results = self._validate(state, step)
      if results is not None or every(step, config.checkpoint_every, last=last):
        with clock.paused():
          self._save(state, step, checkpointer=checkpointer, metrics=results)

  def _enter_window(self, state, step):
    """Plans the window of a step; the host reads the plan once."""
    sampler = self._config.sampler
    window = (step - 1) // sampler.update_every
    new, plan = sampling.enter_window(
      state.sampler,
      partitioning.put_replicated(np.int32(window), self._run.mesh),
      strategy=sampler.strategy,
      num_steps=sampler.update_every,
      rounding=sampler.rounding,
      seed=self._config.seed,
    )
    weights, plan = partitioning.fetch((new.weights, plan))
    if (step - 1) % sampler.update_every == 0:
      names = self._run.layout.names
      self._writer.write_scalars(
        step,
        {
          f"sampler_weight/{name}": float(weight)
          for name, weight in zip(names, weights, strict=True)
        },
      )
    return state.replace(sampler=new), plan

  def _step(self, state, step, *, domain, host_batch):
    """Takes one step; nothing comes back to the host."""
    frozen = step <= self._run.frozen_steps
    step_fn = self._run.frozen_step if frozen else self._run.train_step
    with jax.transfer_guard("disallow"):
      images, labels = partitioning.put_batch(
        (host_batch.images, host_batch.labels), self._run.mesh
      )
      batch = structs.Batch(images, labels, self._domain_ids[domain])
      return step_fn(state, batch)

  def _log(self, state, step, *, domain, clock):
    """Writes the means of the log window, and empties the meters."""
    meters = partitioning.fetch(state.meters)
    self._check_finite(state)
    names = self._run.layout.names
    for i in np.flatnonzero(meters.counts):
      means = {
        k: float(v[i] / meters.counts[i]) for k, v in meters.sums.items()
      }
      self._writer.write_training(step, names[i], means)
    speed = clock.read_and_reset()
    self._writer.write_scalars(step, speed)
    loss = meters.sums["loss"].sum() / max(meters.counts.sum(), 1)
    logger.info(
      "%s",
      progress.format_line(
        step, self._run.num_steps, loss=loss, domain=names[domain], speed=speed
      ),
    )
    return state.replace(meters=self._empty_meters())

  def _check_finite(self, state):
    """Raises a DivergedError once a step was not finite."""
    failed, domain = partitioning.fetch(
      (state.failed_step, state.failed_domain)
    )
    if failed:
      raise errors.DivergedError(
        f"loss or gradient is not finite at step {failed}, domain "
        f"{self._run.layout.names[domain]}; the last checkpoint is intact: "
        "lower config.optimizer.learning_rate or set "
        "config.optimizer.grad_clip_norm, and run the same command"
      )

  def _validate(self, state, step):
    """Returns the validation's results, flat."""
    self._check_finite(state)
    results = self._run.evaluator.run(
      state.params, self._tasks["val"](), names=self._config.eval.embeddings
    )
    flat = reporting.flatten(results, "val")
    self._writer.write_scalars(step, flat)
    logger.info(
      "step %d validation: student R@1 merged %.1f %%",
      step,
      100 * flat[BEST_METRIC],
    )
    return flat

  def _save(self, state, step, *, checkpointer, metrics):
    """Saves, unless the state is not to be trusted."""
    self._check_finite(state)
    checkpointer.save(
      step,
      state,
      layout=self._run.layout,
      mesh=self._run.mesh,
      meta=self._run.meta,
      metrics=metrics,
    )

  def test(self, checkpointer: checkpointing.Checkpointer) -> dict[str, Any]:
    """Tests the best checkpoint; returns the contents of results.json."""
    checkpointer.wait()
    step = checkpointer.best_step
    logger.info("testing the best checkpoint, of step %d", step)
    params = checkpointer.restore_params(step, self._run.abstract_state.params)
    results = self._run.evaluator.run(
      params, self._tasks["test"](), names=evaluator.EMBEDDINGS
    )
    self._writer.write_scalars(
      self._run.num_steps, reporting.flatten(results, "test")
    )
    return evaluator.nest({"test": results})
