"""Weights & Biases as one more place for a run's metrics; imported when asked.

A run keeps its W&B id in its folder, so that all its starts are one W&B run.
W&B numbers what it is given by itself and never goes back, but a run does, to
its last checkpoint: the training step is a value of its own, and the axis of
all others.
"""

from collections.abc import Mapping
import importlib
import logging
import os
import secrets
from types import ModuleType
from typing import Any

from etils import epath

from udon_jax import errors, reporting
from udon_jax.logs import writers

logger = logging.getLogger(__name__)

ID_FILE = "wandb_id.txt"
STEP = "train_step"
MODES = ("online", "offline")


def check(project: str | None, *, mode: str | None) -> None:
  """Raises a UserError if W&B is asked for and cannot be had.

  Args:
    project: config.wandb.project; None does not ask for it.
    mode: config.wandb.mode.
  """
  if mode is not None and mode not in MODES:
    raise errors.UserError(
      f"config.wandb.mode={mode!r} is unknown; known: {', '.join(MODES)}, and "
      "None, which does as the environment variable WANDB_MODE says"
    )
  if project is not None:
    _import(project)


def _import(project: str) -> ModuleType:
  try:
    wandb = importlib.import_module("wandb")
  except ImportError as error:
    raise _not_installed(project) from error
  # Without the package, a folder "wandb" that it left behind is a module too.
  if not hasattr(wandb, "init"):
    raise _not_installed(project)
  return wandb


def _not_installed(project: str) -> errors.UserError:
  return errors.UserError(
    f"config.wandb.project={project!r} needs Weights & Biases: "
    "pip install 'udon_jax[wandb]'"
  )


class WandbSink:
  """A W&B run. If it fails once, training goes on without it."""

  def __init__(
    self,
    workdir: epath.Path,
    *,
    project: str,
    name: str | None,
    mode: str | None,
    config: Mapping[str, Any],
  ):
    """Starts or continues the W&B run of a folder.

    Args:
      workdir: the run's folder.
      project: of W&B.
      name: under which the run is shown; None takes that of the folder.
      mode: of MODES; None does as the environment says.
      config: shown with the run.

    Raises:
      UserError: W&B is not installed, or refuses what it was told.
    """
    wandb = _import(project)
    self._run = None
    try:
      self._run = wandb.init(
        project=project,
        name=name or workdir.resolve().name,
        id=_run_id(workdir),
        resume="allow",
        mode=mode,
        dir=None if "://" in os.fspath(workdir) else os.fspath(workdir),
        config=dict(config),
        allow_val_change=True,
      )
      self._run.define_metric(STEP)
      self._run.define_metric("*", step_metric=STEP)
    except wandb.errors.UsageError as error:  # what the user told it
      first = (str(error).splitlines() or [type(error).__name__])[0]
      raise errors.UserError(
        f"config.wandb.project={project!r}: W&B refuses ({first}); run `wandb "
        "login`, or set config.wandb.mode=offline or config.wandb.project=None"
      ) from error
    except Exception as error:
      self._give_up(error)

  def write(self, record: writers.Record) -> None:
    """Logs the values of a record."""
    if self._run is not None:
      try:
        self._run.log({STEP: record.step, **record.tags()})
      except Exception as error:
        self._give_up(error)

  def close(self, *, failed: bool) -> None:
    """Ends this start; another one continues the same W&B run."""
    if self._run is not None:
      try:
        self._run.finish(exit_code=int(failed))
      except Exception as error:
        self._give_up(error)

  def _give_up(self, error):
    """Goes on without W&B: metrics.jsonl has everything."""
    self._run = None
    logger.warning(
      "W&B failed (%s: %s); this start of the run goes on without it",
      type(error).__name__,
      error,
    )


def _run_id(workdir: epath.Path) -> str:
  """Returns the id of the folder's W&B run, the same for all starts."""
  path = workdir / ID_FILE
  if not path.exists():
    reporting.write_atomically(path, secrets.token_hex(8) + "\n")
  return path.read_text().strip()
