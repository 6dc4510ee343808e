"""The training loop and the final test. It receives data, imports none."""

from collections.abc import Callable, Mapping, Sequence
import logging
from typing import Any, TypeAlias

import jax
import numpy as np

from udon_jax import (
  checkpointing,
  errors,
  evaluator,
  partitioning,
  processes,
  reporting,
  resuming,
  stopping,
  structs,
  train_state,
  watching,
)
from udon_jax import run as runs
from udon_jax.logs import profiling, progress, writers
from udon_jax.retrieval import examples, protocol

logger = logging.getLogger(__name__)

Tasks: TypeAlias = Callable[[], Sequence[structs.RetrievalTask]]
State: TypeAlias = train_state.TrainState

# Queries of the final test in every group of examples.json.
NUM_EXAMPLES = 16


def every(step: int, n: int, *, last: int) -> bool:
  """Whether something done every n steps, and at the last one, is due."""
  return step % n == 0 or step == last


class Loop:
  """Steps, and what happens between them."""

  def __init__(
    self,
    run: runs.Run,
    *,
    sources: Sequence[structs.TrainSource],
    tasks: Mapping[str, Tasks],
    writer: writers.Writer,
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
    profile: profiling.Window,
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
    self._rates = watching.learning_rates(
      self._run,
      [s for s in range(1, last + 1) if every(s, config.log_every, last=last)],
    )
    clock = watching.start_clock(self._run)
    plan = None
    saved = start
    for step in range(start + 1, last + 1):
      _, place = self._run.policy.locate(step)
      if plan is None or place == 0:
        state, plan = self._enter_window(state, step)
      domain = plan[place]
      profile.before(step, state, paused=clock.paused)
      try:
        with clock.waiting():
          host_batch = next(iters[domain])
      except errors.UserError:
        # Others would not come to save: only who is alone can.
        if saved < step - 1 and processes.is_alone():
          logger.info("the data fails; saving step %d", step - 1)
          self._save(state, step - 1, checkpointer=checkpointer, metrics=None)
        raise
      state = self._step(state, step, domain=domain, host_batch=host_batch)
      profile.after(step, state, paused=clock.paused)
      clock.count_step(step)
      if every(step, config.log_every, last=last):
        state = self._log(state, step, domain=domain, clock=clock)
      results = None
      if every(step, config.eval_every, last=last):
        with clock.paused():
          results = self._validate(state, step)
      stops = stop.is_due(step)
      due = every(step, config.checkpoint_every, last=last)
      if due or results is not None or stops:
        with clock.paused():
          self._save(state, step, checkpointer=checkpointer, metrics=results)
        saved = step
      if stops:
        checkpointer.wait()
        raise errors.StoppedError(
          f"stopped and saved at step {step}; run the same command to continue"
        )

  def _enter_window(self, state, step):
    """Plans the window of a step; the host reads the plan once."""
    policy = self._run.policy
    window, place = policy.locate(step)
    new, plan = policy.enter(
      state.sampler,
      partitioning.put_replicated(np.int32(window), self._run.mesh),
    )
    weights, plan = partitioning.fetch((new.weights, plan))
    if place == 0:
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
    frozen = self._run.is_frozen(step)
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
    self._writer.write_scalars(step, self._rates[step])
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
      name = self._run.layout.names[domain]
      raise errors.DivergedError(
        f"loss or gradient is not finite at step {failed}, domain {name}; the "
        "checkpoints before it are intact: run the same command with a lower "
        "config.optimizer.learning_rate or with config.optimizer."
        "grad_clip_norm; to go further back, delete the newest checkpoints",
        step=int(failed),
        domain=name,
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
    self._writer.sync()
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
    step, params = resuming.restore_best(self._run, checkpointer)
    logger.info("testing the best checkpoint, of step %d", step)
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
