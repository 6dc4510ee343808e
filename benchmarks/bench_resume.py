"""From the command to the first step: a run continued against one begun.

  python -m benchmarks.bench_resume --data_dir=data/mini_uned

Starts `python -m udon_jax.main --config=configs/quickstart.py`, logging every
step, in turn in an empty workdir and in one that was stopped after 120 steps,
and takes the time until the first line of progress. Needs the `data` extra and
the data of `make quickstart`.
"""

from collections.abc import Sequence
import pathlib
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time

from absl import flags

from benchmarks import common
from udon_jax import cli

_DATA_DIR = flags.DEFINE_string("data_dir", "data/mini_uned", "The data.")
_HARDWARE = flags.DEFINE_string("hardware", "cpu2", "Named in the result file.")
_REPEATS = flags.DEFINE_integer("repeats", 5, "Rounds.", lower_bound=1)

_STOPPED_AT = 120  # in the phase in which the backbone is trained


def start(workdir: pathlib.Path, *settings: str) -> subprocess.Popen:
  """Starts the quickstart in a workdir."""
  return subprocess.Popen(
    [
      *(sys.executable, "-m", "udon_jax.main"),
      *("--config=configs/quickstart.py", f"--workdir={workdir}"),
      *(f"--config.data_dir={_DATA_DIR.value}", "--config.log_every=1"),
      *settings,
    ],
    stderr=subprocess.PIPE,
    text=True,
  )


def seconds_to_step(process: subprocess.Popen, step: int | None) -> float:
  """Returns the seconds until a step is logged; None is the first one."""
  begin = time.perf_counter()
  assert process.stderr is not None
  lines = []
  for line in process.stderr:
    lines.append(line)
    found = re.match(r"step +(\d+)/", line)
    if found and (step is None or int(found[1]) >= step):
      return time.perf_counter() - begin
  raise RuntimeError("the run ended before:\n" + "".join(lines))


def end(process: subprocess.Popen, how: signal.Signals) -> None:
  """Sends a signal and waits."""
  process.send_signal(how)
  process.communicate()


def main(_: Sequence[str]) -> None:
  """Measures, prints and writes the report."""
  root = pathlib.Path(tempfile.mkdtemp())
  frozen = "--config.frozen_steps=0"  # both compile the same program
  try:
    stopped = root / "stopped"
    process = start(stopped, frozen)
    seconds_to_step(process, _STOPPED_AT)
    end(process, signal.SIGTERM)
    times: dict[str, list[float]] = {"begun": [], "continued": []}
    for i in range(_REPEATS.value):
      for name, seconds in times.items():
        workdir = root / f"{name}{i}"
        if name == "continued":
          shutil.copytree(stopped, workdir)
        process = start(workdir, frozen)
        seconds.append(seconds_to_step(process, None))
        end(process, signal.SIGKILL)
        shutil.rmtree(workdir)
  finally:
    shutil.rmtree(root)
  medians = {
    name: statistics.median(seconds) for name, seconds in times.items()
  }
  rows = [
    {"run": name, "seconds": medians[name], "fastest": min(seconds)}
    for name, seconds in times.items()
  ]
  ratio = medians["continued"] / medians["begun"]
  table = [*rows, {"ratio": "continued / begun", "value": ratio}]
  head = common.header("jax", "orbax-checkpoint", "tensorflow-cpu")
  path = common.write(f"resume_{_HARDWARE.value}", head, table)
  print(common.markdown(table))
  print(f"written to {path}")


if __name__ == "__main__":
  cli.run(main)
