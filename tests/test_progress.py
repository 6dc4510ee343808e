"""The clock of a run, and the line that a person watches."""

import pytest

from udon_jax.logs import progress


class Time:
  """A clock that moves when told to."""

  def __init__(self, monkeypatch):
    self.now = 100.0
    monkeypatch.setattr(progress.time, "perf_counter", lambda: self.now)

  def pass_by(self, seconds):
    self.now += seconds


def cost(step):
  """Returns the operations of a step, for the tests."""
  return step * 10**12


def test_clock_counts_steps_and_waiting_but_no_pauses(monkeypatch):
  time = Time(monkeypatch)
  clock = progress.Clock(
    batch_size=32, step_flops=cost, num_devices=4, peak_flops=None
  )
  for _ in range(4):
    with clock.waiting():
      time.pass_by(0.5)
    time.pass_by(1.5)
    clock.count_step(1)
  with clock.paused():
    time.pass_by(1000.0)
  speed = clock.read_and_reset()
  assert speed["speed/step_time"] == pytest.approx(2.0)
  assert speed["speed/images_per_second"] == pytest.approx(16.0)
  assert speed["speed/data_wait"] == pytest.approx(0.25)
  assert 0.01 < speed["memory/peak_gb"] < 1000
  assert speed["speed/tflops_per_device"] == pytest.approx(1 / 2.0 / 4)
  assert "speed/mfu" not in speed


def test_use_of_the_chip_is_what_was_done_of_what_could_be(monkeypatch):
  """Steps of different cost count for what each of them is."""
  time = Time(monkeypatch)
  clock = progress.Clock(
    batch_size=32, step_flops=cost, num_devices=2, peak_flops=100e12
  )
  for step in (1, 3, 3):
    clock.count_step(step)
    time.pass_by(0.5)
  speed = clock.read_and_reset()
  assert speed["speed/tflops_per_device"] == pytest.approx(7 / 1.5 / 2)
  assert speed["speed/mfu"] == pytest.approx(7 / 1.5 / 2 / 100)


def test_clock_starts_anew_after_a_reading(monkeypatch):
  time = Time(monkeypatch)
  clock = progress.Clock(
    batch_size=10, step_flops=cost, num_devices=4, peak_flops=None
  )
  with clock.waiting():
    time.pass_by(7.0)
  clock.count_step(1)
  clock.read_and_reset()
  time.pass_by(3.0)
  clock.count_step(1)
  speed = clock.read_and_reset()
  assert speed["speed/step_time"] == pytest.approx(3.0)
  assert speed["speed/data_wait"] == 0.0


def test_progress_line():
  speed = {
    "speed/step_time": 0.5,
    "speed/images_per_second": 64.04,
    "speed/data_wait": 0.126,
  }
  line = progress.format_line(20, 400, loss=1.23456, domain="met", speed=speed)
  assert line == (
    "step  20/400  loss 1.235  met        64.0 images/s  data wait 13%  "
    "ETA 3:10"
  )
  speed["speed/mfu"] = 0.412
  line = progress.format_line(20, 400, loss=1.23456, domain="met", speed=speed)
  assert "data wait 13%  MFU 41%  ETA" in line
