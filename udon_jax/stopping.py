"""SIGTERM, as schedulers send it before they take a machine away."""

from collections.abc import Iterator
import contextlib
import dataclasses
import signal
import threading

import jax


@dataclasses.dataclass
class StopRequest:
  """Whether the run is asked to stop; looked at between steps."""

  requested: bool = False


@contextlib.contextmanager
def noted() -> Iterator[StopRequest]:
  """Notes SIGTERM instead of dying of it.

  Only where one process runs alone, in its main thread: a handler in Python
  would silence the preemption notice that several processes share.
  """
  request = StopRequest()
  alone = jax.process_count() == 1
  if not alone or threading.current_thread() is not threading.main_thread():
    yield request
    return

  def note(*_):
    request.requested = True

  before = signal.signal(signal.SIGTERM, note)
  try:
    yield request
  finally:
    signal.signal(signal.SIGTERM, before)
