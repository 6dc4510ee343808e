"""Real processes, killed and asked to stop: the run ends as if nothing was."""

import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import pytest

from tests import compiling
from udon_jax import cli

LAST_STEP = 30
ROOT = pathlib.Path(__file__).parents[1]
# One device: what runs on eight of two cores takes long to start.
ENVIRONMENT = {
  **os.environ,
  "XLA_FLAGS": compiling.FLAGS,
  "JAX_PLATFORMS": "cpu",
}


def start(workdir, *, pause=0.0):
  return subprocess.Popen(
    [sys.executable, "-m", "tests.run_fake", str(workdir), str(pause)],
    cwd=ROOT,
    env=ENVIRONMENT,
    stderr=subprocess.PIPE,
    text=True,
  )


def finish(process):
  _, log = process.communicate(timeout=300)
  return process.returncode, log


def lines(workdir):
  """Returns the lines of metrics.jsonl without what the clock tells."""
  path = workdir / "metrics.jsonl"
  if not path.exists():
    return []
  found = [json.loads(line) for line in path.read_text().splitlines()]
  return [line for line in found if "speed/step_time" not in line]


def wait_for_step(process, workdir, step):
  """Waits until a run has logged a step, or has ended."""
  path = workdir / "metrics.jsonl"
  while process.poll() is None:
    text = path.read_text() if path.exists() else ""
    complete = [json.loads(x) for x in text.splitlines(True) if x[-1:] == "\n"]
    if complete and complete[-1]["step"] >= step:
      return
    time.sleep(0.02)


def assert_same(workdir, whole):
  assert lines(workdir) == lines(whole)
  for name in ("results.json", "config.json"):
    assert (workdir / name).read_text() == (whole / name).read_text()


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


@pytest.mark.slow
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


@pytest.mark.parametrize(
  "signal_",
  [
    signal.SIGTERM,
    pytest.param(signal.SIGINT, marks=pytest.mark.slow),
  ],
)
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


@pytest.fixture
def small_disk(tmp_path):
  """A file system of 4 MB."""
  folder = tmp_path / "disk"
  folder.mkdir()
  mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "none", str(folder)]
  if subprocess.run(mount, capture_output=True, check=False).returncode:
    pytest.skip("file systems cannot be mounted here")
  yield folder
  subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(folder):
  """Fills a disk to the last byte."""
  with pathlib.Path(folder / "filler").open("wb", buffering=0) as file:
    size = 2**16
    while size:
      try:
        file.write(os.urandom(size))
      except OSError:
        size //= 2


@pytest.mark.slow
def test_a_full_disk_ends_a_run_in_one_line(whole, small_disk):
  workdir = small_disk / "run"
  process = start(workdir, pause=0.1)
  wait_for_step(process, workdir, 8)
  fill(small_disk)
  code, log = finish(process)
  assert code == cli.EXIT_USAGE, log
  assert "Traceback" not in log
  last = log.splitlines()[-1]
  assert last.startswith(f"error: the disk of {workdir} is full")
  assert "free some space" in last
  names = [path.name for path in (workdir / "checkpoints").iterdir()]
  before = [int(name) for name in names if name.isdigit()]
  assert before
  (small_disk / "filler").unlink()
  code, log = finish(start(workdir))
  assert code == 0, log
  assert f"continuing after step {max(before)}" in log
  assert_same(workdir, whole)
