"""A trace of a few steps, for TensorBoard's profiler and for Perfetto."""

from collections.abc import Callable
import contextlib
import logging
import os
from typing import Any, TypeAlias

from etils import epath
import jax

from udon_jax import errors

logger = logging.getLogger(__name__)

FOLDER = "profile"
Paused: TypeAlias = Callable[[], contextlib.AbstractContextManager[None]]


def check(steps: tuple[int, ...], *, num_steps: int) -> None:
  """Raises a UserError unless the steps can be traced.

  Args:
    steps: config.profile_steps.
    num_steps: of the run.
  """
  if not steps:
    return
  fits = len(steps) == 2 and all(isinstance(s, int) for s in steps)
  if not fits or not 1 <= steps[0] < steps[1] <= num_steps + 1:
    raise errors.UserError(
      f"config.profile_steps={steps} must be () or (first, end) with "
      f"1 <= first < end <= {num_steps + 1}: steps first to end - 1 of the "
      f"run's {num_steps} are traced"
    )


class Window:
  """Traces the steps of a window, and nothing else that the device does."""

  def __init__(self, workdir: epath.PathLike, *, steps: tuple[int, ...]):
    """Traces nothing yet.

    Args:
      workdir: the run's folder.
      steps: () or (first, end). A run that continues within the window traces
        what is left of it.
    """
    self._folder = epath.Path(workdir) / FOLDER
    self._steps = range(*steps) if steps else range(0)
    self._stack = contextlib.ExitStack()
    self._is_open = False

  def before(self, step: int, state: Any, *, paused: Paused) -> None:
    """Is told that a step begins.

    Args:
      step: its number.
      state: of the step before.
      paused: makes a context in which the run's clock stands still.
    """
    if step not in self._steps:
      return
    if not self._is_open:
      jax.block_until_ready(state)
      with paused():
        jax.profiler.start_trace(os.fspath(self._folder))
      self._is_open = True
    self._stack.enter_context(
      jax.profiler.StepTraceAnnotation("train", step_num=step)
    )

  def after(self, step: int, state: Any, *, paused: Paused) -> None:
    """Is told that a step is under way; `state` is what it will give."""
    self._stack.close()
    if self._is_open and step + 1 not in self._steps:
      jax.block_until_ready(state)
      with paused():
        self.close()
      logger.info(
        "traced steps up to %d: tensorboard --logdir=%s", step, self._folder
      )

  def close(self) -> None:
    """Writes the trace, if one is being made."""
    self._stack.close()
    if self._is_open:
      self._is_open = False
      jax.profiler.stop_trace()
