"""The files of a run: written at once, and read again."""

from collections.abc import Mapping, Sequence
import io
import json
import math
import os
import resource
import secrets
import sys
from typing import Any

from etils import epath

from udon_jax import errors

CONFIG_FILE = "config.json"
ENVIRONMENT_FILE = "environment.json"
METRICS_FILE = "metrics.jsonl"
RESULTS_FILE = "results.json"
EXAMPLES_FILE = "examples.json"
# With a line for each class of a domain, in the order of their labels.
CLASSES_FOLDER = "classes"


def write_atomically(path: epath.PathLike, text: str) -> None:
  """Replaces a file at once, so that no reader sees half of it."""
  path = epath.Path(path)
  temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
  with temporary.open("w") as file:
    file.write(text)
    sync(file)  # or a crash of the machine may leave an empty file
  temporary.replace(path)


def sync(file: Any) -> None:
  """Waits until what was written to a file would outlive a crash.

  Only local files can be asked to.
  """
  file.flush()
  try:
    descriptor = file.fileno()
  except (AttributeError, io.UnsupportedOperation):
    return
  os.fsync(descriptor)


def write_json(path: epath.PathLike, value: Any) -> None:
  """Writes indented JSON, at once."""
  write_atomically(path, json.dumps(value, indent=1) + "\n")


def read_json(path: epath.PathLike) -> Any:
  """Returns what a JSON file holds."""
  return json.loads(epath.Path(path).read_text())


def write_class_names(
  workdir: epath.PathLike, names: Mapping[str, Sequence[str]]
) -> None:
  """Writes the names of classes, by domain, in the order of their labels."""
  folder = epath.Path(workdir) / CLASSES_FOLDER
  for domain, found in names.items():
    folder.mkdir(parents=True, exist_ok=True)
    text = "".join(f"{name}\n" for name in found)
    write_atomically(folder / f"{domain}.txt", text)


def read_class_names(workdir: epath.PathLike, domain: str) -> list[str] | None:
  """Returns the names of a domain's classes, or None where nothing tells."""
  try:
    file = epath.Path(workdir) / CLASSES_FOLDER / f"{domain}.txt"
    return file.read_text().split("\n")[:-1]
  except (OSError, ValueError):
    return None


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
    # Processes of other machines, which may have the same number, do so too.
    probe = path / f".writable.{secrets.token_hex(8)}"
    probe.write_text("")
    probe.unlink()
  except OSError as error:
    raise errors.UserError(
      f"{key}={folder} cannot be written ({error.strerror or error}); choose "
      "another folder or change its permissions"
    ) from error
  return path


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
