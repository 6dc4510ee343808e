"""Real processes, killed and asked to stop: the run ends as if nothing was."""

import random
import signal
import time

import pytest

from tests.interruption import assert_same, finish, start, wait_for_step
from udon_jax import cli

LAST_STEP = 30


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
  workdir = tmp_path_factory.mktemp("whole")
  code, log = finish(start(workdir))
  assert code == 0, log
  return workdir


def wait_for_save(process, workdir):
  """Waits until a checkpoint is half-written, or the run has ended."""
  while process.poll() is None:
    if list(workdir.glob("checkpoints/*-tmp*")):
      return
    time.sleep(0.001)


def kill(workdir, *, moment, seed):
  """Kills a run at a kind of moment, and a random time more."""
  rng = random.Random(seed)
  process = start(workdir, pause=0.02)
  if moment == "start":  # imports, compilation, restoring
    time.sleep(rng.uniform(0, 10))
  elif moment == "step":
    wait_for_step(process, workdir, rng.choice([0, 1, 4, 8, 12, 16, 24, 28]))
    time.sleep(rng.uniform(0, 0.5))
  elif moment == "save":
    for _ in range(rng.randint(1, 4)):
      wait_for_save(process, workdir)
      time.sleep(rng.uniform(0, 0.05))
  elif moment == "evaluation":  # it follows the log line of step 20
    wait_for_step(process, workdir, 20)
    time.sleep(rng.uniform(0, 0.2))
  process.kill()
  finish(process)


MOMENTS = ("step", "save", "evaluation", "start", "save")


def test_killed_in_a_step_a_save_and_an_evaluation(whole, tmp_path):
  for seed, moment in enumerate(("step", "save", "evaluation")):
    kill(tmp_path, moment=moment, seed=seed)
  code, log = finish(start(tmp_path))
  assert code == 0, log
  assert_same(tmp_path, whole)


@pytest.mark.slow
def test_killed_fifty_times(whole, tmp_path):
  for round_ in range(10):
    workdir = tmp_path / str(round_)
    workdir.mkdir()
    for i, moment in enumerate(MOMENTS):
      kill(workdir, moment=moment, seed=100 + 5 * round_ + i)
    code, log = finish(start(workdir))
    assert code == 0, log
    assert_same(workdir, whole)
    assert not list(workdir.glob("checkpoints/*-tmp*"))


@pytest.mark.parametrize("signal_", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_the_run_continues(whole, tmp_path, signal_):
  process = start(tmp_path, pause=0.4)
  wait_for_step(process, tmp_path, 4)
  second = start(tmp_path)
  code, log = finish(second)
  assert code == cli.EXIT_USAGE
  assert f"process {process.pid}" in log.splitlines()[-1]

  assert process.poll() is None
  process.send_signal(signal_)
  code, log = finish(process)
  assert code == cli.EXIT_STOPPED, log
  assert "stopped and saved at step" in log.splitlines()[-1]
  steps = [int(p.name) for p in (tmp_path / "checkpoints").glob("[0-9]*")]
  assert max(steps) < LAST_STEP
  assert f"at step {max(steps)};" in log.splitlines()[-1]

  code, log = finish(start(tmp_path))
  assert code == 0, log
  assert f"continuing after step {max(steps)}" in log
  assert_same(tmp_path, whole)
