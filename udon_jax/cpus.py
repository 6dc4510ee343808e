"""The processors that this process may use."""

import os


def count() -> int:
  """Returns how many there are, at least 1.

  Schedulers and containers give a job some of a machine's processors, which
  `os.cpu_count` counts all of.
  """
  try:
    return len(os.sched_getaffinity(0))
  except AttributeError:  # not on macOS
    return os.cpu_count() or 1
