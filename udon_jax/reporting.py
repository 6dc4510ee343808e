"""What a run writes down: metrics.jsonl, TensorBoard events, results.json.

One JSON object a line, `step` first. Training lines carry `domain` and the
means of a log window; only they have `loss`. Everything else stands in lines
of its own.
"""

from collections.abc import Mapping
import json
import math
import os
import resource
import sys
import time
from typing import Any

from etils import epath
from tensorboard.compat.proto import event_pb2, summary_pb2
from tensorboard.summary.writer import event_file_writer

from udon_jax import errors

CONFIG_FILE = "config.json"
ENVIRONMENT_FILE = "environment.json"
METRICS_FILE = "metrics.jsonl"
RESULTS_FILE = "results.json"
EXAMPLES_FILE = "examples.json"


def write_atomically(path: epath.PathLike, text: str) -> None:
  """Replaces a file at once, so that no reader sees half of it."""
  path = epath.Path(path)
  temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
  temporary.write_text(text)
  temporary.replace(path)


def write_json(path: epath.PathLike, value: Any) -> None:
  """Writes indented JSON, at once."""
  write_atomically(path, json.dumps(value, indent=1) + "\n")


def read_json(path: epath.PathLike) -> Any:
  """Returns what a JSON file holds."""
  return json.loads(epath.Path(path).read_text())


def make_folder(folder: epath.PathLike, *, key: str) -> epath.Path:
  """Creates a folder to write to.

  Args:
    folder: its path.
    key: what the user set it with, for the message.

  Raises:
    UserError: it cannot be created or written.
  """
  path = epath.Path(folder)
  try:
    path.mkdir(parents=True, exist_ok=True)
    probe = path / f".writable.{os.getpid()}"
    probe.write_text("")
    probe.unlink()
  except OSError as error:
    raise errors.UserError(
      f"{key}={folder} cannot be written ({error.strerror or error}); choose "
      "another folder or change its permissions"
    ) from error
  return path


class Writer:
  """Writes the metrics of a run; only the first process writes."""

  def __init__(self, workdir: epath.PathLike, *, is_main: bool, step: int):
    """Opens the files of a workdir.

    Args:
      workdir: the run's folder.
      is_main: whether this process writes.
      step: the run continues after it: later lines, and a torn last line, of
        an earlier start are cut off.
    """
    self._file = self._events = None
    if not is_main:
      return
    path = epath.Path(workdir) / METRICS_FILE
    _cut(path, step)
    self._file = path.open("a")
    self._events = event_file_writer.EventFileWriter(str(workdir))

  def write_training(
    self, step: int, domain: str, *, steps: int, means: Mapping[str, float]
  ) -> None:
    """Writes what one domain did in a log window.

    Args:
      step: the last of the window.
      domain: its name.
      steps: how many of the window's steps trained it.
      means: of their values.
    """
    self._write_line({"step": step, "domain": domain, "steps": steps, **means})
    self._write_events(
      step, {f"train/{name}/{domain}": x for name, x in means.items()}
    )

  def write_scalars(self, step: int, values: Mapping[str, float]) -> None:
    """Writes one line of other values."""
    self._write_line({"step": step, **values})
    self._write_events(step, values)

  def close(self) -> None:
    """Writes what is buffered."""
    if self._file is not None:
      self._file.close()
    if self._events is not None:
      self._events.close()

  def _write_line(self, line):
    if self._file is not None:
      self._file.write(json.dumps(line) + "\n")
      self._file.flush()

  def _write_events(self, step, values):
    if self._events is None:
      return
    summary = summary_pb2.Summary(
      value=[
        summary_pb2.Summary.Value(tag=tag, simple_value=x)
        for tag, x in values.items()
      ]
    )
    self._events.add_event(
      event_pb2.Event(wall_time=time.time(), step=step, summary=summary)
    )


def _cut(path: epath.Path, step: int) -> None:
  """Drops lines after a step, the test's, and one torn by a kill."""
  if not path.exists():
    return
  kept = []
  text = path.read_text()
  for line in text.splitlines(keepends=True):
    try:
      values = json.loads(line) if line.endswith("\n") else {}
      if values["step"] > step or any(k.startswith("test/") for k in values):
        continue
    except (json.JSONDecodeError, KeyError, TypeError):
      continue
    kept.append(line)
  if "".join(kept) != text:
    write_atomically(path, "".join(kept))


def read_metrics(workdir: epath.PathLike) -> list[dict[str, Any]]:
  """Returns the lines of a run's metrics."""
  text = (epath.Path(workdir) / METRICS_FILE).read_text()
  return [json.loads(line) for line in text.splitlines()]


def flatten(tree: Mapping[str, Any], prefix: str) -> dict[str, float]:
  """Returns {"prefix/a/b": x} of a nested dict."""
  flat = {}
  for key, value in tree.items():
    name = f"{prefix}/{key}"
    if isinstance(value, Mapping):
      flat.update(flatten(value, name))
    else:
      flat[name] = value
  return flat


def peak_memory_gb() -> float:
  """Returns the largest resident size of this process so far, in GB."""
  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  return peak * (1 if sys.platform == "darwin" else 1024) / 1e9


def format_duration(seconds: float) -> str:
  """Returns "4:05" or "1:04:05"."""
  if not math.isfinite(seconds):
    return "?"
  minutes, seconds = divmod(round(seconds), 60)
  hours, minutes = divmod(minutes, 60)
  if hours:
    return f"{hours}:{minutes:02}:{seconds:02}"
  return f"{minutes}:{seconds:02}"
