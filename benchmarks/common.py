"""What all benchmarks share: interleaved timing, the header, result files."""

from collections.abc import Callable, Mapping, Sequence
import datetime
import importlib.metadata
import json
import os
import pathlib
import platform
import shlex
import statistics
import subprocess
import sys
import time
from typing import Any

from udon_jax import cpus

RESULTS = pathlib.Path(__file__).parent / "results"
_ENVIRONMENT = ("OMP_NUM_THREADS", "OPENBLAS_CORETYPE", "XLA_FLAGS")


def interleave(
  variants: Mapping[str, Callable[[], Any]],
  *,
  repeats: int,
  prepare: Callable[[], Any] | None = None,
) -> dict[str, dict[str, float]]:
  """Times variants in turn, so that a busy machine slows all alike.

  Args:
    variants: functions that return when their work is done.
    repeats: timed rounds; one round before them is not counted.
    prepare: called before every variant, not timed.

  Returns:
    Medians over the rounds by variant: seconds of the clock ("wall_s") and of
    this process's processors ("cpu_s"), and the fastest round ("best_s").
  """
  walls: dict[str, list[float]] = {name: [] for name in variants}
  cpus: dict[str, list[float]] = {name: [] for name in variants}
  for repeat in range(repeats + 1):
    for name, run in variants.items():
      if prepare is not None:
        prepare()
      wall, cpu = time.perf_counter(), time.process_time()
      run()
      cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
      if repeat:
        walls[name].append(wall)
        cpus[name].append(cpu)
  return {
    name: {
      "wall_s": statistics.median(walls[name]),
      "cpu_s": statistics.median(cpus[name]),
      "best_s": min(walls[name]),
    }
    for name in variants
  }


def header(*packages: str) -> dict[str, Any]:
  """Returns what a reader needs to repeat a run; names of packages in use."""
  commit = _git("rev-parse", "--short", "HEAD")
  changed = _git("status", "--porcelain", "--", "udon_jax", "benchmarks")
  settings = [f"{k}={os.environ[k]}" for k in _ENVIRONMENT if k in os.environ]
  spec = sys.modules["__main__"].__spec__  # None unless run by `python -m`
  program = ["-m", spec.name] if spec else [sys.argv[0]]
  command = ["python", *program, *sys.argv[1:]]
  return {
    "command": " ".join([*settings, shlex.join(command)]),
    "commit": commit + (" (with local changes)" if changed else ""),
    "date": datetime.date.today().isoformat(),
    "hardware": f"{_processor()}, {cpus.count()} cores",
    "load_at_start": round(os.getloadavg()[0], 1),
    "python": platform.python_version(),
    **{name: importlib.metadata.version(name) for name in packages},
  }


def write(
  name: str, head: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]
) -> pathlib.Path:
  """Adds a run to results/<name>_<date>.jsonl and .md; returns the latter.

  Args:
    name: "<what>_<hardware>", such as "retrieval_cpu2".
    head: of the run, as `header` returns it.
    rows: results; those with equal keys form a table.
  """
  RESULTS.mkdir(exist_ok=True)
  path = RESULTS / f"{name}_{head['date']}.md"
  with path.with_suffix(".jsonl").open("a") as file:
    for row in rows:
      file.write(json.dumps({**row, "run": head}) + "\n")
  lines = [f"- {key}: {value}" for key, value in head.items()]
  with path.open("a") as file:
    file.write(f"# {head['command']}\n\n" + "\n".join(lines) + "\n\n")
    file.write(markdown(rows) + "\n")
  return path


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
  """Returns markdown tables of rows, a table for every set of keys."""
  tables: dict[tuple[str, ...], list[str]] = {}
  for row in rows:
    cells = [
      f"{x:.4g}" if isinstance(x, float) else str(x) for x in row.values()
    ]
    tables.setdefault(tuple(row), []).append("| " + " | ".join(cells) + " |\n")
  return "\n".join(
    f"| {' | '.join(keys)} |\n|{'---|' * len(keys)}\n{''.join(lines)}"
    for keys, lines in tables.items()
  )


def _git(*arguments: str) -> str:
  done = subprocess.run(
    ["git", *arguments],
    cwd=RESULTS.parent,
    capture_output=True,
    text=True,
    check=True,
  )
  return done.stdout.strip()


def _processor() -> str:
  """Returns the name of the processor."""
  cpuinfo = pathlib.Path("/proc/cpuinfo")
  if cpuinfo.exists():
    for line in cpuinfo.read_text().splitlines():
      if line.startswith("model name"):
        return line.split(":", 1)[1].strip()
  return platform.processor() or platform.machine()
