"""Speed of a run, and the line that a person watches."""

from collections.abc import Callable, Iterator, Mapping
import contextlib
import time

from udon_jax import reporting


class Clock:
  """Measures steps; what is done between them does not count."""

  def __init__(
    self,
    *,
    batch_size: int,
    step_flops: Callable[[int], int],
    num_devices: int,
    peak_flops: float | None,
  ):
    """Starts.

    Args:
      batch_size: images of a step, over all devices.
      step_flops: from the number of a step to its operations, likewise.
      num_devices: all devices of the run.
      peak_flops: operations a second of one of them; None if not known.
    """
    self._batch_size, self._step_flops = batch_size, step_flops
    self._num_devices, self._peak_flops = num_devices, peak_flops
    self._reset()

  def _reset(self):
    self._start = time.perf_counter()
    self._steps, self._flops, self._waited = 0, 0, 0.0

  @contextlib.contextmanager
  def waiting(self) -> Iterator[None]:
    """Counts its body as waiting for data."""
    start = time.perf_counter()
    yield
    self._waited += time.perf_counter() - start

  @contextlib.contextmanager
  def paused(self) -> Iterator[None]:
    """Does not count its body."""
    start = time.perf_counter()
    yield
    self._start += time.perf_counter() - start

  def count_step(self, step: int) -> None:
    """Counts a step as done."""
    self._steps += 1
    self._flops += self._step_flops(step)

  def read_and_reset(self) -> dict[str, float]:
    """Returns the speed since the last reading.

    Returns:
      speed/step_time in seconds, speed/images_per_second, speed/data_wait as
      a share of the time, speed/tflops_per_device, speed/mfu (their share of
      the peak, if that is known), memory/peak_gb of this process.
    """
    elapsed = max(time.perf_counter() - self._start, 1e-9)
    steps = max(self._steps, 1)
    flops = self._flops / elapsed / self._num_devices
    result = {
      "speed/step_time": elapsed / steps,
      "speed/images_per_second": steps * self._batch_size / elapsed,
      "speed/data_wait": min(self._waited / elapsed, 1.0),
      "speed/tflops_per_device": flops / 1e12,
      "memory/peak_gb": reporting.peak_memory_gb(),
    }
    if self._peak_flops is not None:
      result["speed/mfu"] = flops / self._peak_flops
    self._reset()
    return result


def format_line(
  step: int,
  num_steps: int,
  *,
  loss: float,
  domain: str,
  speed: Mapping[str, float],
) -> str:
  """Returns the progress line of a log point."""
  left = (num_steps - step) * speed["speed/step_time"]
  width = len(str(num_steps))
  mfu = f"MFU {speed['speed/mfu']:.0%}  " if "speed/mfu" in speed else ""
  return (
    f"step {step:{width}}/{num_steps}  loss {loss:.3f}  {domain:<7} "
    f"{speed['speed/images_per_second']:7.1f} images/s  "
    f"data wait {speed['speed/data_wait']:.0%}  {mfu}"
    f"ETA {reporting.format_duration(left)}"
  )
