"""SIGTERM, which schedulers send before they take a machine, and Ctrl-C."""

from collections.abc import Iterator
import contextlib
import dataclasses
import signal
import threading

import jax

from udon_jax import errors

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


@dataclasses.dataclass
class StopRequest:
  """Whether the run is asked to stop.

  Attributes:
    requested: looked at between steps.
    at_once: whether there is nothing to save: the request then ends the run
      where it is, with a StoppedError.
  """

  requested: bool = False
  at_once: bool = True

  def note(self) -> None:
    """Notes the request."""
    first, self.requested = not self.requested, True
    if first and self.at_once:
      raise errors.StoppedError(
        "stopped; what was trained is saved: run the same command to continue"
      )

  @contextlib.contextmanager
  def waits_for_a_step(self) -> Iterator[None]:
    """Lets the step in progress end before the run stops, in its body."""
    self.at_once = False
    try:
      yield
    finally:
      self.at_once = True


@contextlib.contextmanager
def noted() -> Iterator[StopRequest]:
  """Notes SIGTERM and Ctrl-C instead of dying of them.

  A second Ctrl-C interrupts as Python does. Only where one process runs alone,
  in its main thread: a handler in Python would silence the preemption notice
  that several processes share.
  """
  request = StopRequest()
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
