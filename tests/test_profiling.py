"""A profile: made of its steps alone, whatever ends them."""

import contextlib

import jax
import jax.numpy as jnp
import pytest

from tests import fakes, training
from udon_jax import errors
from udon_jax.logs import profiling


class Trace:
  """Stands for JAX's profiler, and notes what happens."""

  def __init__(self, monkeypatch):
    self.told = []
    for name in ("start_trace", "stop_trace"):
      monkeypatch.setattr(
        jax.profiler,
        name,
        lambda *_, name=name: self.told.append(name.removesuffix("_trace")),
      )
    monkeypatch.setattr(
      jax, "block_until_ready", lambda x: self.told.append(f"wait {x}")
    )

  @contextlib.contextmanager
  def paused(self):
    self.told.append("pause")
    yield
    self.told.append("go on")


@pytest.fixture
def trace(monkeypatch):
  return Trace(monkeypatch)


def take_steps(window, steps, trace):
  for step in steps:
    window.before(step, step - 1, paused=trace.paused)
    trace.told.append(step)
    window.after(step, step, paused=trace.paused)


OPENED = ["pause", "start", "go on"]
CLOSED = ["pause", "stop", "go on"]


def test_traces_its_steps_after_what_came_before_them(trace, tmp_path):
  window = profiling.Window(tmp_path, steps=(3, 5))
  take_steps(window, range(1, 7), trace)
  window.close()
  assert trace.told == [
    *(1, 2),
    *("wait 2", *OPENED),
    *(3, 4),
    *("wait 4", *CLOSED),
    *(5, 6),
  ]


@pytest.mark.parametrize("steps, start", [((), 1), ((3, 5), 5)])
def test_traces_nothing_where_nothing_is_left(trace, tmp_path, steps, start):
  window = profiling.Window(tmp_path, steps=steps)
  take_steps(window, range(start, 9), trace)
  window.close()
  assert trace.told == [*range(start, 9)]


def test_traces_what_is_left(trace, tmp_path):
  window = profiling.Window(tmp_path, steps=(3, 6))
  take_steps(window, range(5, 8), trace)
  assert trace.told == ["wait 4", *OPENED, 5, "wait 5", *CLOSED, 6, 7]


def test_writes_what_it_has_when_an_error_ends_the_run(trace, tmp_path):
  window = profiling.Window(tmp_path, steps=(3, 6))
  take_steps(window, range(3, 5), trace)
  window.close()
  window.close()
  assert trace.told == ["wait 2", *OPENED, 3, 4, "stop"]


def test_a_real_trace_can_be_read(tmp_path):
  window = profiling.Window(tmp_path, steps=(1, 3))
  double = jax.jit(lambda x: 2 * x)
  x = jnp.ones(3)
  for step in range(1, 4):
    window.before(step, x, paused=contextlib.nullcontext)
    x = double(x)
    window.after(step, x, paused=contextlib.nullcontext)
  (file,) = (tmp_path / profiling.FOLDER).glob("plugins/profile/*/*.xplane.pb")
  data = jax.profiler.ProfileData.from_file(str(file))
  found = [
    dict(event.stats)["step_num"]
    for plane in data.planes
    for line in plane.lines
    for event in line.events
    if event.name == "train"
  ]
  assert found == [1, 2]


@pytest.mark.parametrize("steps", [(), (1, 2), (1, 13), (12, 13)])
def test_steps_that_fit(steps):
  profiling.check(steps, num_steps=12)


@pytest.mark.parametrize(
  "steps", [(3,), (3, 3), (4, 3), (0, 2), (12, 14), (1, 2, 3), (1.5, 3)]
)
def test_steps_that_do_not_fit_are_named(steps, monkeypatch):
  with pytest.raises(
    errors.UserError, match=rf"profile_steps=\({steps[0]}.* end <= 13"
  ):
    training.set_up(
      fakes.changed(profile_steps=steps), num_devices=1, monkeypatch=monkeypatch
    )
