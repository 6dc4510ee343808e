"""SIGTERM, which schedulers send before they take a machine, and Ctrl-C."""

from collections.abc import Iterator
import contextlib
import dataclasses
import signal
import threading

import jax
from jax.experimental import multihost_utils

from udon_jax import errors

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


@dataclasses.dataclass
class StopRequest:
  """Whether the run is asked to stop.

  Attributes:
    message: of the StoppedError that a request raises where nothing is to be
      saved.
    requested: whether this process has been asked to.
  """

  message: str
  requested: bool = False
  _deferred: bool = False

  def is_due(self, step: int) -> bool:
    """Whether to stop after a step; asked after every one, where one may save.

    Several processes agree on a step that none of them has passed: JAX notes
    the SIGTERM that any of them gets.
    """
    if jax.process_count() == 1:
      return self.requested
    return multihost_utils.reached_preemption_sync_point(step)

  def note(self) -> None:
    """Notes the request."""
    first, self.requested = not self.requested, True
    if first and not self._deferred:
      raise errors.StoppedError(self.message)

  @contextlib.contextmanager
  def deferred(self) -> Iterator[None]:
    """Leaves it to its body to look at requests, and to save.

    Raises:
      StoppedError: at its end, if the body did not see the last request.
    """
    self._deferred = True
    try:
      yield
    finally:
      self._deferred = False
    if self.requested:
      raise errors.StoppedError(self.message)


@contextlib.contextmanager
def noted(
  message: str = "stopped; run the same command to continue",
) -> Iterator[StopRequest]:
  """Notes SIGTERM and Ctrl-C instead of dying of them.

  A second Ctrl-C interrupts as Python does. Only where one process runs alone,
  in its main thread: a handler in Python would silence the preemption notice
  that several processes share.
  """
  request = StopRequest(message)
  alone = jax.process_count() == 1
  if not alone or threading.current_thread() is not threading.main_thread():
    yield request
    return
  before = {number: signal.getsignal(number) for number in _SIGNALS}

  def note(number, _):
    if number == signal.SIGINT:
      signal.signal(number, signal.default_int_handler)
    request.note()

  for number in _SIGNALS:
    signal.signal(number, note)
  try:
    yield request
  finally:
    for number, handler in before.items():
      signal.signal(number, handler)
