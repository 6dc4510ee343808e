"""Where metrics go: lines, events, and what a kill leaves behind."""

import contextlib
import itertools
import json
import pathlib
import types

import pytest
from tensorboard.backend.event_processing import event_accumulator
from tensorboard.summary.writer import event_file_writer

from udon_jax import errors, reporting
from udon_jax.logs import writers

MEANS = {"loss": 2.5, "grad_norm": 0.125}


def open_writer(folder, *, step=0, is_main=True, others=()):
  return writers.Writer(folder, is_main=is_main, step=step, others=others)


def write_steps(folder, steps, *, start=0, value=MEANS["loss"]):
  writer = open_writer(folder, step=start)
  means = {**MEANS, "loss": value}
  for step in steps:
    writer.write_training(step, "cars", steps=2, means=means)
    writer.write_scalars(step, {"speed/step_time": 0.5})
  writer.close()


def raw(folder):
  return (folder / reporting.METRICS_FILE).read_text()


def test_one_json_object_a_line_with_its_step_first(tmp_path):
  write_steps(tmp_path, (10, 20))
  lines = raw(tmp_path).splitlines()
  assert [next(iter(json.loads(line))) for line in lines] == ["step"] * 4
  assert [json.loads(line) for line in lines] == [
    {"step": 10, "domain": "cars", "steps": 2, **MEANS},
    {"step": 10, "speed/step_time": 0.5},
    {"step": 20, "domain": "cars", "steps": 2, **MEANS},
    {"step": 20, "speed/step_time": 0.5},
  ]
  assert reporting.read_metrics(tmp_path) == [json.loads(x) for x in lines]
  for line in reporting.read_metrics(tmp_path):
    assert ("loss" in line) == ("domain" in line)


def test_lines_are_there_before_the_run_ends(tmp_path):
  writer = open_writer(tmp_path)
  writer.write_scalars(1, {"a": 1.0})
  assert reporting.read_metrics(tmp_path) == [{"step": 1, "a": 1.0}]
  writer.close()


def read_events(folder):
  """Returns {tag: [(step, value), ...]} as TensorBoard shows them."""
  events = event_accumulator.EventAccumulator(
    str(folder), purge_orphaned_data=True
  ).Reload()
  return {
    tag: [(event.step, event.value) for event in events.Scalars(tag)]
    for tag in events.Tags()["scalars"]
  }


def test_tensorboard_reads_the_events(tmp_path):
  write_steps(tmp_path, (10, 20))
  assert read_events(tmp_path) == {
    "train/loss/cars": [(10, 2.5), (20, 2.5)],
    "train/grad_norm/cars": [(10, 0.125), (20, 0.125)],
    "speed/step_time": [(10, 0.5), (20, 0.5)],
  }


def test_tensorboard_shows_no_step_twice(tmp_path, monkeypatch):
  """Nor does it lose what was written at the step of the checkpoint."""
  now = itertools.count(1e9)  # files are read in the order of their seconds
  clock = types.SimpleNamespace(time=lambda: next(now))
  monkeypatch.setattr(event_file_writer, "time", clock)
  write_steps(tmp_path, (10, 20, 30), value=1.0)
  write_steps(tmp_path, (30, 40), start=20, value=2.0)
  loss = [(10, 1.0), (20, 1.0), (30, 2.0), (40, 2.0)]
  assert read_events(tmp_path)["train/loss/cars"] == loss


def test_events_are_there_before_the_run_ends(tmp_path):
  """A kill loses none: those before a checkpoint would not come again."""
  writer = open_writer(tmp_path)
  writer.write_scalars(1, {"a": 1.0})
  assert read_events(tmp_path) == {"a": [(1, 1.0)]}
  writer.close()


def test_only_the_first_process_writes(tmp_path):
  writer = open_writer(tmp_path, is_main=False)
  writer.write_training(1, "cars", steps=1, means=MEANS)
  writer.write_scalars(1, {"a": 1.0})
  writer.close()
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
  "step, kept", [(0, []), (9, []), (10, [10]), (25, [10, 20]), (99, [10, 20])]
)
def test_lines_after_the_restored_step_are_cut(tmp_path, step, kept):
  write_steps(tmp_path, (10, 20))
  before = raw(tmp_path).splitlines(keepends=True)
  open_writer(tmp_path, step=step).close()
  assert raw(tmp_path) == "".join(before[: 2 * len(kept)])


@pytest.mark.parametrize(
  "torn", ['{"step": 20, "do', '{"step": 20}', "{", "\0\0\0\0\n", "[]\n", "7\n"]
)
def test_a_torn_last_line_is_cut(tmp_path, torn):
  """Whatever is no whole line: a kill may stop in it, a disk may fill it."""
  write_steps(tmp_path, (10,))
  before = raw(tmp_path)
  with (tmp_path / reporting.METRICS_FILE).open("a") as file:
    file.write(torn)
  write_steps(tmp_path, (20,), start=50)
  lines = reporting.read_metrics(tmp_path)
  assert raw(tmp_path).startswith(before)
  assert [x["step"] for x in lines] == [10, 10, 20, 20]


def test_a_run_cut_and_continued_reads_like_one_that_was_not(tmp_path):
  for name in ("whole", "killed"):
    (tmp_path / name).mkdir()
  write_steps(tmp_path / "whole", (10, 20, 30))
  write_steps(tmp_path / "killed", (10, 20))
  write_steps(tmp_path / "killed", (20, 30), start=10)
  assert raw(tmp_path / "killed") == raw(tmp_path / "whole")


class Remembered:
  """A sink that keeps what it was told."""

  def __init__(self, folder, step):
    self.told = [(folder, step)]

  def write(self, record):
    self.told.append((record.step, record.tags()))

  def close(self, *, failed):
    self.told.append(failed)


@pytest.mark.parametrize("failed", [False, True])
def test_other_sinks_are_told_everything(tmp_path, failed):
  sinks = []

  def open_sink(folder, step):
    sinks.append(Remembered(folder, step))
    return sinks[-1]

  with (
    contextlib.suppress(ZeroDivisionError),
    open_writer(tmp_path, step=7, others=[open_sink]) as writer,
  ):
    writer.write_training(10, "cars", steps=2, means=MEANS)
    writer.write_scalars(10, {"a": 1.0})
    if failed:
      raise ZeroDivisionError
  (sink,) = sinks
  tags = {"train/loss/cars": 2.5, "train/grad_norm/cars": 0.125}
  assert sink.told == [(tmp_path, 7), (10, tags), (10, {"a": 1.0}), failed]


def test_a_sink_that_refuses_leaves_the_files_alone(tmp_path):
  write_steps(tmp_path, (10, 20))
  before = {path: path.read_bytes() for path in tmp_path.iterdir()}

  def refuse(folder, step):
    raise errors.UserError("no")

  with pytest.raises(errors.UserError):
    open_writer(tmp_path, step=10, others=[refuse])
  assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


class RemoteFolder(pathlib.PurePosixPath):
  """A folder whose files open as those of object stores do in etils."""

  local: pathlib.Path

  def __truediv__(self, name):
    path = type(self)(name)
    path.local = self.local / name
    return path

  def exists(self):
    return self.local.exists()

  @contextlib.contextmanager
  def open(self, mode):
    with self.local.open(mode) as file:  # a writer without a descriptor
      yield types.SimpleNamespace(write=file.write, flush=file.flush)


def test_lines_go_to_files_that_open_as_contexts(tmp_path):
  folder = RemoteFolder("gs:/bucket")
  folder.local = tmp_path
  lines = writers.JsonLines(folder, 0)
  lines.write(writers.Record(3, {"a": 1.0}))
  lines.sync()
  lines.close(failed=False)
  assert json.loads(raw(tmp_path)) == {"step": 3, "a": 1.0}


def test_all_sinks_are_closed_if_one_fails(tmp_path):
  class Failing(Remembered):
    def close(self, *, failed):
      super().close(failed=failed)
      raise OSError("no room")

  sinks = [Failing(tmp_path, 0), Remembered(tmp_path, 0)]
  writer = open_writer(tmp_path, others=[lambda *_, s=s: s for s in sinks])
  with pytest.raises(OSError, match="no room"):
    writer.close()
  assert [sink.told[-1] for sink in sinks] == [False, False]
