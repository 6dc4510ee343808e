"""What a run writes: its lines, its events, and what a kill leaves behind."""

import json
import os
import pathlib

from etils import epath
import pytest
from tensorboard.backend.event_processing import event_file_loader

from udon_jax import errors, progress, reporting, writers

MEANS = {"loss": 2.5, "grad_norm": 0.125}


def open_writer(folder, *, step=0, is_main=True):
  return writers.Writer(folder, is_main=is_main, step=step)


def write_steps(folder, steps, *, start=0):
  writer = open_writer(folder, step=start)
  for step in steps:
    writer.write_training(step, "cars", steps=2, means=MEANS)
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


def test_tensorboard_reads_the_events(tmp_path):
  write_steps(tmp_path, (10, 20))
  (path,) = tmp_path.glob("events.out.tfevents.*")
  events = event_file_loader.LegacyEventFileLoader(str(path)).Load()
  found = {
    (event.step, value.tag): value.simple_value
    for event in events
    for value in event.summary.value
  }
  assert found == {
    (step, tag): value
    for step in (10, 20)
    for tag, value in (
      ("train/loss/cars", 2.5),
      ("train/grad_norm/cars", 0.125),
      ("speed/step_time", 0.5),
    )
  }


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


def test_a_file_is_replaced_at_once(tmp_path, monkeypatch):
  """A reader meets the old file until the new one is whole."""
  path = tmp_path / "results.json"
  reporting.write_json(path, {"a": 1})

  def torn(self, text):
    pathlib.Path(self).write_bytes(text[: len(text) // 2].encode())
    raise OSError("disk full")

  monkeypatch.setattr(type(epath.Path(path)), "write_text", torn)
  with pytest.raises(OSError, match="disk full"):
    reporting.write_json(path, {"a": 2})
  assert reporting.read_json(path) == {"a": 1}


def test_json_comes_back_unrounded(tmp_path):
  value = {"student": {"merged": {"test": {"mean": {"recall@1": 1 / 3}}}}}
  reporting.write_json(tmp_path / "x.json", value)
  assert reporting.read_json(tmp_path / "x.json") == value
  assert os.listdir(tmp_path) == ["x.json"]


def test_a_folder_is_made_and_left_clean(tmp_path):
  folder = reporting.make_folder(tmp_path / "a" / "b", key="--workdir")
  assert folder.is_dir()
  assert not list(folder.iterdir())


@pytest.mark.parametrize("place", ["file", "file/x"])
def test_a_folder_that_cannot_be_written_is_named(tmp_path, place):
  (tmp_path / "file").write_text("")
  with pytest.raises(
    errors.UserError, match=rf"--workdir=.*{place} cannot be .*choose another"
  ):
    reporting.make_folder(tmp_path / place, key="--workdir")


def test_flatten():
  tree = {"a": {"x": 1.0, "b": {"y": 2.0}}, "c": 3.0}
  assert reporting.flatten(tree, "val") == {
    "val/a/x": 1.0,
    "val/a/b/y": 2.0,
    "val/c": 3.0,
  }


@pytest.mark.parametrize(
  "seconds, text",
  [
    (0, "0:00"),
    (4.4, "0:04"),
    (59.6, "1:00"),
    (245, "4:05"),
    (3599.9, "1:00:00"),
    (3845, "1:04:05"),
    (90_000, "25:00:00"),
    (float("inf"), "?"),
    (float("nan"), "?"),
  ],
)
def test_format_duration(seconds, text):
  assert reporting.format_duration(seconds) == text


class Time:
  """A clock that moves when told to."""

  def __init__(self, monkeypatch):
    self.now = 100.0
    monkeypatch.setattr(progress.time, "perf_counter", lambda: self.now)

  def pass_by(self, seconds):
    self.now += seconds


def test_clock_counts_steps_and_waiting_but_no_pauses(monkeypatch):
  time = Time(monkeypatch)
  clock = progress.Clock(batch_size=32, num_devices=4, peak_flops=None)
  for _ in range(4):
    with clock.waiting():
      time.pass_by(0.5)
    time.pass_by(1.5)
    clock.count_step(flops=0)
  with clock.paused():
    time.pass_by(1000.0)
  speed = clock.read_and_reset()
  assert speed["speed/step_time"] == pytest.approx(2.0)
  assert speed["speed/images_per_second"] == pytest.approx(16.0)
  assert speed["speed/data_wait"] == pytest.approx(0.25)
  assert 0.01 < speed["memory/peak_gb"] < 1000


def test_clock_starts_anew_after_a_reading(monkeypatch):
  time = Time(monkeypatch)
  clock = progress.Clock(batch_size=10, num_devices=4, peak_flops=None)
  with clock.waiting():
    time.pass_by(7.0)
  clock.count_step(flops=0)
  clock.read_and_reset()
  time.pass_by(3.0)
  clock.count_step(flops=0)
  speed = clock.read_and_reset()
  assert speed["speed/step_time"] == pytest.approx(3.0)
  assert speed["speed/data_wait"] == 0.0


def test_progress_line():
  speed = {
    "speed/step_time": 0.5,
    "speed/images_per_second": 64.04,
    "speed/data_wait": 0.126,
  }
  line = progress.format_line(20, 400, loss=1.23456, domain="met", speed=speed)
  assert line == (
    "step  20/400  loss 1.235  met        64.0 images/s  data wait 13%  "
    "ETA 3:10"
  )
