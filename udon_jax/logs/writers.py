"""Where the metrics of a run go: metrics.jsonl, TensorBoard events, others.

metrics.jsonl is the record, and written first: one JSON object a line, `step`
first. Training lines carry `domain` and the means of a log window; only they
have `loss`. Everything else stands in lines of its own.
"""

from collections.abc import Callable, Mapping, Sequence
import contextlib
import dataclasses
import json
import os
import time
from typing import Any, Protocol

from etils import epath
from tensorboard.compat.proto import event_pb2, summary_pb2
from tensorboard.summary.writer import event_file_writer

from udon_jax import reporting


@dataclasses.dataclass(frozen=True)
class Record:
  """Values of a step.

  Attributes:
    step: the step, or the last one of a window.
    values: by name.
    domain: of training values: whose they are; "" stands for no domain.
    steps: of training values: how many steps they are means of.
  """

  step: int
  values: Mapping[str, float]
  domain: str = ""
  steps: int = 0

  def line(self) -> dict[str, Any]:
    """Returns the record as a line of metrics.jsonl."""
    if not self.domain:
      return {"step": self.step, **self.values}
    return {
      "step": self.step,
      "domain": self.domain,
      "steps": self.steps,
      **self.values,
    }

  def tags(self) -> dict[str, float]:
    """Returns the values under names that are unique in the run."""
    if not self.domain:
      return dict(self.values)
    return {f"train/{k}/{self.domain}": x for k, x in self.values.items()}


class Sink(Protocol):
  """A place where records go."""

  def write(self, record: Record) -> None:
    """Takes a record."""

  def close(self, *, failed: bool) -> None:
    """Writes what is buffered; `failed` tells that an error ended the run."""


# From (the run's folder, the step that it continues after) to a sink.
OpenSink = Callable[[epath.Path, int], Sink]


class JsonLines:
  """metrics.jsonl, flushed after every line."""

  def __init__(self, workdir: epath.Path, step: int):
    """Opens the file.

    Args:
      workdir: the run's folder.
      step: the run continues after it: later lines, and a torn last line, of
        an earlier start are cut off.
    """
    path = workdir / reporting.METRICS_FILE
    _cut(path, step)
    self._open = contextlib.ExitStack()
    self._file = self._open.enter_context(path.open("a"))

  def write(self, record: Record) -> None:
    """Appends a line."""
    self._file.write(json.dumps(record.line()) + "\n")
    self._file.flush()

  def sync(self) -> None:
    """Waits until the lines would outlive a crash of the machine."""
    reporting.sync(self._file)

  def close(self, *, failed: bool) -> None:
    """Closes the file."""
    del failed
    self._open.close()


class TensorBoard:
  """TensorBoard events, one more file for every start."""

  def __init__(self, workdir: epath.Path, step: int):
    """Opens a new file.

    Args:
      workdir: the run's folder.
      step: the run continues after it: readers drop later events of an earlier
        start.
    """
    self._writer = event_file_writer.EventFileWriter(os.fspath(workdir))
    self._add(
      step + 1,  # readers drop the events of this step and of later ones
      session_log=event_pb2.SessionLog(status=event_pb2.SessionLog.START),
    )

  def write(self, record: Record) -> None:
    """Adds the values of a record."""
    values = [
      summary_pb2.Summary.Value(tag=tag, simple_value=x)
      for tag, x in record.tags().items()
    ]
    self._add(record.step, summary=summary_pb2.Summary(value=values))

  def close(self, *, failed: bool) -> None:
    """Closes the file."""
    del failed
    self._writer.close()

  def _add(self, step, **content):
    event = event_pb2.Event(wall_time=time.time(), step=step, **content)
    self._writer.add_event(event)
    self._writer.flush()  # an event before a checkpoint never comes again


class Writer:
  """Writes the metrics of a run; only the first process writes."""

  def __init__(
    self,
    workdir: epath.PathLike,
    *,
    is_main: bool,
    step: int,
    others: Sequence[OpenSink] = (),
  ):
    """Opens all sinks.

    Args:
      workdir: the run's folder.
      is_main: whether this process writes.
      step: the run continues after it; what was written beyond is dropped.
      others: sinks besides metrics.jsonl and TensorBoard, opened first, as they
        may refuse.
    """
    self._sinks: list[Sink] = []
    self._lines: JsonLines | None = None
    if is_main:
      folder = epath.Path(workdir)
      opened = [open_sink(folder, step) for open_sink in others]
      self._lines = JsonLines(folder, step)
      self._sinks = [self._lines, TensorBoard(folder, step), *opened]

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
    self._write(Record(step, means, domain=domain, steps=steps))

  def write_scalars(self, step: int, values: Mapping[str, float]) -> None:
    """Writes one line of other values."""
    self._write(Record(step, values))

  def sync(self) -> None:
    """Makes metrics.jsonl last: no checkpoint may outlive its lines."""
    if self._lines is not None:
      self._lines.sync()

  def __enter__(self) -> "Writer":
    return self

  def __exit__(self, kind: Any, *_: Any) -> None:
    self.close(failed=kind is not None)

  def close(self, *, failed: bool = False) -> None:
    """Writes what is buffered; `failed` tells that an error ended the run."""
    with contextlib.ExitStack() as stack:  # all, even if one of them fails
      for sink in reversed(self._sinks):
        stack.callback(sink.close, failed=failed)

  def _write(self, record):
    for sink in self._sinks:
      sink.write(record)


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
    reporting.write_atomically(path, "".join(kept))
