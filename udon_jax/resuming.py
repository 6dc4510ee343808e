"""Where a run starts: which checkpoint, if any, and what if it is damaged."""

from collections.abc import Callable, Mapping
import contextlib
import logging
import os
from typing import Any, TypeVar

from etils import epath
import jax

from udon_jax import (
  build,
  checkpointing,
  errors,
  official_state,
  prototypes,
  semantics,
  train_state,
  warm_start,
  workdirs,
)
from udon_jax import run as runs
from udon_jax.checkpointing import damage
from udon_jax.pretrained import official

logger = logging.getLogger(__name__)

State = train_state.TrainState
T = TypeVar("T")


def restore_or_init(
  run: runs.Run,
  checkpointer: checkpointing.Checkpointer,
  *,
  workdir: epath.PathLike,
) -> State:
  """Returns the state that the run starts from.

  1. The newest checkpoint of the workdir that is whole; damaged ones that are
     newer are put aside. So is that of the step before a divergence, if rates
     changed since: the next step, with its weights and its images, would
     diverge whatever the rates.
  2. The newest checkpoint of config.resume_from that is whole; that of the
     official code if the folder is a run of it.
  3. New parameters, with a backbone from config.pretrained; of a run, ours or
     of the official code, also with its projections and prototypes.
  4. New parameters.

  Args:
    run: what is trained.
    checkpointer: of the workdir.
    workdir: the run's folder.

  Raises:
    UserError: the checkpoints are another run's, or all of them are damaged.
  """
  if checkpointer.steps:
    state = _restore_newest(run, checkpointer, workdir)
    if state is not None:
      return state
  if run.config.resume_from is not None:
    folder = os.path.expanduser(run.config.resume_from)
    if official.is_official(folder):
      return official_state.restore(run, folder)
    return _restore_from(run, folder)
  state = run.init_state()
  if warm_start.is_pretrained(run.config.pretrained):
    return warm_start.load(run, state)
  if run.config.pretrained is not None:
    params = build.load_pretrained(run.config, state.params)
    state = state.replace(params=params)
  if official_state.is_pretrained(run.config.pretrained):
    state = official_state.load_heads(run, state)
  return state


def restore_best(
  run: runs.Run, checkpointer: checkpointing.Checkpointer
) -> tuple[int, Any]:
  """Returns step and parameters of the best checkpoint that is whole.

  Damaged ones that are better are put aside.

  Raises:
    DamagedError: there is none.
  """
  while True:
    step = checkpointer.best_step
    if step is None:  # though the last step has been validated
      raise damage.DamagedError(
        "all checkpoints with a validation are damaged; run the same command: "
        "it goes back to one without"
      )
    try:
      return step, checkpointer.restore_params(step, run.abstract_state.params)
    except damage.DamagedError as error:
      logger.warning("%s", error)
      if len(checkpointer.steps) == 1:
        raise
      checkpointer.put_aside(step)


class _DivergesError(Exception):
  """A checkpoint leads to a divergence, whatever the rates."""


def _restore_newest(run, checkpointer, workdir) -> State | None:
  """Restores from the workdir, after checking that it holds this run.

  Returns:
    The state; None if the only checkpoint leads to a divergence.
  """
  diverged = workdirs.read_divergence(workdir)

  def restore(step):
    meta = checkpointer.restore_meta(step)
    workdirs.check_same_run(
      workdir,
      saved=meta.config,
      given=run.meta.config,
      diverged=diverged is not None and step < diverged,
    )
    workdirs.check_same_data(
      workdir, saved=meta.domains, given=run.meta.domains
    )
    given = run.meta.config["optimizer"]
    if diverged == step + 1 and _optimizer_of(meta) != given:
      raise _DivergesError(
        f"the checkpoint of step {step} leads to the divergence at step "
        f"{diverged}, whatever the rates; going back further"
      )
    return _restore(run, checkpointer, step, meta)

  found, passed = _newest_whole(checkpointer, restore)
  for other in passed:
    checkpointer.put_aside(other)
  if found is None:
    logger.info("starting anew")
    return None
  step, state = found
  logger.info("continuing after step %d", step)
  return state


def _restore_from(run, workdir) -> State:
  """Restores the newest state of another run.

  Raises:
    UserError: the folder holds no checkpoint, or one of other domains or of
      another model.
  """

  def restore(step):
    meta = checkpointer.restore_meta(step)
    found = [(d["name"], d["num_classes"]) for d in meta.domains]
    layout = run.layout
    wanted = list(zip(layout.names, layout.num_classes, strict=True))
    if found != wanted:
      raise errors.UserError(
        f"config.resume_from={workdir} was trained on (domain, classes) "
        f"{found}, this run has {wanted}; use the same data and config.domains"
      )
    workdirs.check_same_model(workdir, saved=meta.config, given=run.meta.config)
    return _restore(run, checkpointer, step, meta)

  with contextlib.closing(
    checkpointing.open_existing(workdir, best=runs.BEST_METRIC)
  ) as checkpointer:
    found, _ = _newest_whole(checkpointer, restore)
  assert found is not None  # nothing but damage passes a checkpoint
  step, state = found
  logger.info("starting from step %d of %s", step, workdir)
  return state


def _restore(run, checkpointer, step, meta):
  """Returns the state of a checkpoint of a run with other rates or the same.

  Prototypes lag behind where their domain was not trained last. If rates
  change, they are brought up to date before, with those of the run that saved.
  """
  state = checkpointer.restore(
    step, run.abstract_state, layout=run.layout, mesh=run.mesh
  )
  config = build.from_json(meta.config)
  num_steps, frozen_steps = semantics.num_steps(
    config, [domain["num_examples"] for domain in meta.domains]
  )
  same = _optimizer_of(meta) == run.meta.config["optimizer"]
  if same and (
    num_steps == run.num_steps or config.optimizer.schedule == "constant"
  ):
    return state
  adamw = build.optimizer(config, num_steps, frozen_steps=frozen_steps)
  old = prototypes.Step(run.layout, run.mesh, build.hyper(config, adamw))
  tables = jax.jit(old.bring_up_to_date, donate_argnums=0)(
    state.prototypes, state.step
  )
  return state.replace(prototypes=tables)


def _optimizer_of(meta: checkpointing.Meta) -> Mapping[str, Any]:
  """Returns config.optimizer of a checkpoint; newer keys have their default."""
  return build.to_json(build.from_json(meta.config))["optimizer"]


def _newest_whole(
  checkpointer: checkpointing.Checkpointer, restore: Callable[[int], T]
) -> tuple[tuple[int, T] | None, list[int]]:
  """Returns the newest step that can be restored, and the newer ones passed.

  None takes the place of the step if the oldest one leads to a divergence.

  Raises:
    DamagedError: there is none, as the oldest is damaged.
  """
  passed: list[int] = []
  for step in reversed(checkpointer.steps):
    try:
      return (step, restore(step)), passed
    except damage.DamagedError as error:
      if step == checkpointer.steps[0]:
        raise
      logger.warning("%s", error)
    except _DivergesError as error:
      logger.warning("%s", error)
    passed.append(step)
  return None, passed
