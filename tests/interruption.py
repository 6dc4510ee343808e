"""Real processes that train the tiny config, to be killed and filled up."""

import json
import os
import pathlib
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).parents[1]
# One device: what runs on eight of two cores takes long to start.
ENVIRONMENT = {**os.environ, "XLA_FLAGS": "", "JAX_PLATFORMS": "cpu"}


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
