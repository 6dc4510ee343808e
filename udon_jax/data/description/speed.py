"""How fast the images of a run can be read."""

import dataclasses
import os
import time

from udon_jax.data import pipeline

_WARM_UP = 2  # batches, in which buffers fill


@dataclasses.dataclass(frozen=True)
class Speed:
  """How fast one domain's training images come.

  Attributes:
    first: seconds until the first batch.
    images_per_second: after it, with all threads.
    images_per_core: a second of processor time.
  """

  first: float
  images_per_second: float
  images_per_core: float


def measure(source: pipeline.TrainSource, *, seconds: float) -> Speed:
  """Reads a domain for some seconds.

  Processor time counts whatever this process does meanwhile, also what is
  read ahead.
  """
  begin = time.perf_counter()
  batches = source.open(0)
  next(batches)
  first = time.perf_counter() - begin
  for _ in range(_WARM_UP):
    next(batches)
  count, start, cpu = 0, time.perf_counter(), _cpu_seconds()
  while time.perf_counter() - start < seconds:
    count += len(next(batches).labels)
  wall, used = time.perf_counter() - start, _cpu_seconds() - cpu
  return Speed(first, count / wall, count / used)


def _cpu_seconds() -> float:
  times = os.times()
  return times.user + times.system
