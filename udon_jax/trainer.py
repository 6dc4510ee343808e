"""The training loop. It receives data and never imports it."""

from collections.abc import Callable, Mapping, Sequence
import contextlib
import logging
from typing import Any

from etils import epath
import jax
import ml_collections
import numpy as np

from udon_jax import (
  checkpointing,
  environment,
  errors,
  evaluator,
  partitioning,
  progress,
  reporting,
  sampling,
  stopping,
  structs,
  train_state,
  workdirs,
)
from udon_jax import run as runs
from udon_jax.retrieval import examples, protocol, table

logger = logging.getLogger(__name__)

Tasks = Callable[[], Sequence[structs.RetrievalTask]]
State = train_state.TrainState

# Queries of the final test in every group of examples.json.
NUM_EXAMPLES = 16


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
    StoppedError: the run was asked to stop, and saved.
  """
  workdir = reporting.make_folder(workdir, key="--workdir")
  run = runs.set_up(config, sources)
  results_file = workdir / reporting.RESULTS_FILE
  is_main = jax.process_index() == 0
  with contextlib.ExitStack() as stack:
    if is_main:
      stack.enter_context(workdirs.lock(workdir))
    stop = stack.enter_context(stopping.noted())
    checkpointer = checkpointing.Checkpointer(
      workdir, keep_latest=config.checkpoint.keep_latest, best=runs.BEST_METRIC
    )
    stack.callback(checkpointer.close)
    _check_same_run(run, workdir, checkpointer)
    state = runs.restore_or_init(run, checkpointer)
    start = int(partitioning.fetch(state.step))
    if start >= run.num_steps and checkpointer.latest_step is None:
      raise errors.UserError(
        f"config.resume_from={config.resume_from} is at step {start} already; "
        "set config.num_train_steps or config.num_epochs beyond it"
      )
    if start >= run.num_steps and results_file.exists():
      logger.info("the run is done; nothing to do")
      return _report(reporting.read_json(results_file))
    writer = reporting.Writer(workdir, is_main=is_main, step=start)
    stack.callback(writer.close)
    if is_main:
      _describe(run, workdir)
      for name in (reporting.RESULTS_FILE, reporting.EXAMPLES_FILE):
        (workdir / name).unlink(missing_ok=True)
    loop = Loop(run, sources=sources, tasks=tasks, writer=writer)
    loop.train(state, start=start, checkpointer=checkpointer, stop=stop)
    results, chosen = loop.test(checkpointer)
    if is_main:
      reporting.write_json(workdir / reporting.EXAMPLES_FILE, chosen)
      reporting.write_json(results_file, results)
  return _report(results)


def _describe(run: runs.Run, workdir: epath.Path) -> None:
  """Writes down what is run, and on what."""
  reporting.write_json(workdir / reporting.CONFIG_FILE, run.meta.config)
  reporting.write_json(
    workdir / reporting.ENVIRONMENT_FILE,
    {
      **environment.describe(run.mesh),
      "num_steps": run.num_steps,
      "frozen_steps": run.frozen_steps,
      "num_parameters": runs.num_parameters(run.abstract_state),
    },
  )


def _check_same_run(run, workdir, checkpointer):
  """Raises a UserError if the workdir's checkpoints are another run's."""
  if checkpointer.latest_step is not None:
    saved = checkpointer.restore_meta(checkpointer.latest_step)
    workdirs.check_same_run(workdir, saved=saved.config, given=run.meta.config)
    workdirs.check_same_data(
      workdir, saved=saved.domains, given=run.meta.domains
    )


def _report(results: dict[str, Any]) -> dict[str, Any]:
  """Shows the results as a table, and returns them."""
  logger.info("\n%s", table.format_table(results))
  return results


class Loop:
  """Steps, and what happens between them."""

  def __init__(
    self,
    run: runs.Run,
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
    stop: stopping.StopRequest,
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
      due = every(step, config.checkpoint_every, last=last)
      if due or results is not None or stop.requested:
        with clock.paused():
          self._save(state, step, checkpointer=checkpointer, metrics=results)
      if stop.requested and step < last:
        checkpointer.wait()
        raise errors.StoppedError(
          f"stopped and saved at step {step}; run the same command to continue"
        )

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
      count = int(meters.counts[i])
      means = {k: float(v[i] / count) for k, v in meters.sums.items()}
      self._writer.write_training(step, names[i], steps=count, means=means)
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
      100 * flat[runs.BEST_METRIC],
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

  def test(
    self, checkpointer: checkpointing.Checkpointer
  ) -> tuple[dict[str, Any], dict[str, Any]]:
    """Tests the best checkpoint.

    Returns:
      The contents of results.json and of examples.json.
    """
    checkpointer.wait()
    step = checkpointer.best_step
    assert step is not None  # the last step has been validated
    logger.info("testing the best checkpoint, of step %d", step)
    params = checkpointer.restore_params(step, self._run.abstract_state.params)
    results = self._run.evaluator.run(
      params, self._tasks["test"](), names=evaluator.EMBEDDINGS, per_query=True
    )
    found = {name: values.pop("per_query") for name, values in results.items()}
    self._writer.write_scalars(
      self._run.num_steps, reporting.flatten(results, "test")
    )
    chosen = examples.select(
      found["student"][protocol.MERGED],
      seed=self._config.seed,
      num_queries=NUM_EXAMPLES,
    )
    return evaluator.nest({"test": results}), {"step": step, "groups": chosen}
