"""A preparation that is killed goes on, and ends as if nothing had been."""

import collections
import errno
import os
import random
import shutil
import signal
import subprocess
import sys
import time

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest
import tensorflow as tf

from tests import data_files
from udon_jax import disk, errors
from udon_jax.data import (
  layout,
  metadata,
  offsets,
  pieces,
  replacing,
  writer,
)

SPLITS = {"train": 47, "val": 23}
PER_PIECE = 5


@pytest.fixture(scope="module")
def made(tmp_path_factory):
  """A data directory without records, and what records it gets."""
  root = tmp_path_factory.mktemp("data")
  for split, count in SPLITS.items():
    data_files.add_split(root, "cars", split, count)
  done = root.with_name("done")
  shutil.copytree(root, done)
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(writer, "_IMAGES_PER_PIECE", PER_PIECE)
    data_files.prepare(done, store="raw24", num_shards=None)
  return root, data_files.contents(done)


@pytest.fixture
def root(made, tmp_path, monkeypatch):
  monkeypatch.setattr(writer, "_IMAGES_PER_PIECE", PER_PIECE)
  shutil.copytree(made[0], tmp_path / "data")
  return tmp_path / "data"


def prepare(root, **changes):
  options = {"store": "raw24", "num_shards": None} | changes
  data_files.prepare(root, **options)


def test_pieces_leave_no_trace(made):
  """Evaluation has one file, as if it had been written as one."""
  names = sorted(str(path) for path in made[1])
  assert "tfds/cars/val/cars.val.tfrecord" in names
  assert not any("piece" in name or "progress" in name for name in names)
  assert sum("cars.train.tfrecord-" in name for name in names) == 20


def test_pieces_change_no_byte_of_an_evaluation_split(made, tmp_path):
  shutil.copytree(made[0], tmp_path / "data")
  prepare(tmp_path / "data")
  whole = data_files.contents(tmp_path / "data")
  for path, data in made[1].items():
    if "val" in path.parts:
      assert whole[path] == data


@pytest.mark.parametrize(
  "seed", [0, *(pytest.param(i, marks=pytest.mark.slow) for i in range(1, 6))]
)
def test_killed_at_any_time_it_goes_on(root, made, seed):
  drawn = random.Random(seed)
  command = [sys.executable, "-m", "tests.run_prepare", root, "raw24"]
  kills = 0
  for delay in (0.02, *(drawn.uniform(0, 0.25) for _ in range(3))):
    process = subprocess.Popen(
      [*map(str, command), str(PER_PIECE)],
      stdout=subprocess.PIPE,
      stderr=subprocess.DEVNULL,
      text=True,
    )
    assert process.stdout.readline() == "begun\n"
    time.sleep(delay)
    process.send_signal(signal.SIGKILL)
    kills += process.wait() == -signal.SIGKILL
    process.stdout.close()
    if not kills:
      break  # it was done before
  prepare(root)
  assert data_files.contents(root) == made[1]
  assert kills


def read_counts(monkeypatch):
  counts = collections.Counter()
  real = writer.read_image

  def read(job, number):
    counts[job.split, number] += 1
    return real(job, number)

  monkeypatch.setattr(writer, "read_image", read)
  return counts


def interrupt(root, monkeypatch, *, after):
  """Prepares until some pieces are written."""
  written = []
  real = pieces.Pieces.write

  def write(self, name, records):
    real(self, name, records)
    written.append(name)
    if len(written) == after:
      raise KeyboardInterrupt

  with monkeypatch.context() as patch:
    patch.setattr(pieces.Pieces, "write", write)
    with pytest.raises(KeyboardInterrupt):
      prepare(root)
  return written


@pytest.mark.parametrize("after", [1, 4, 10, 12, 15])
def test_what_is_finished_is_not_read_again(root, made, monkeypatch, after):
  interrupt(root, monkeypatch, after=after)
  monkeypatch.setattr(
    "udon_jax.data.preparation._estimate", lambda job: 0
  )  # it looks at some
  counts = read_counts(monkeypatch)
  prepare(root)
  assert data_files.contents(root) == made[1]
  # The pieces of both splits come in a row: shards of five, parts of five.
  sizes = [len(p) for p in np.array_split(np.arange(47), 10)]
  sizes += [len(p) for p in np.array_split(np.arange(23), 5)]
  assert sum(counts.values()) == sum(sizes[after:])
  assert max(counts.values(), default=1) == 1


ENDINGS = [
  (pieces.Pieces, "_copy", "before", 3),
  (pieces.Pieces, "_copy", "after", 3),
  (pieces.Pieces, "_note", "before", 20),  # 2 folders, 15 pieces, 3 joined
  (pieces.Pieces, "_note", "after", 20),
  (metadata, "write", "before", 2),
  (metadata, "write", "after", 2),
  (replacing, "replace", "before", 2),
  (replacing, "replace", "after", 2),
]


@pytest.mark.parametrize(("where", "name", "when", "call"), ENDINGS)
def test_a_kill_at_the_end_costs_no_image(
  root, made, monkeypatch, where, name, when, call
):
  """While pieces are joined, described and put in place."""
  real = getattr(where, name)
  calls = []

  def stop(*args):
    calls.append(args)
    if len(calls) == call and when == "before":
      raise KeyboardInterrupt
    real(*args)
    if len(calls) == call:
      raise KeyboardInterrupt

  with monkeypatch.context() as patch:
    patch.setattr(where, name, stop)
    with pytest.raises(KeyboardInterrupt):
      prepare(root)
  monkeypatch.setattr("udon_jax.data.preparation._estimate", lambda job: 0)
  counts = read_counts(monkeypatch)
  prepare(root)
  assert data_files.contents(root) == made[1]
  assert not counts


@pytest.mark.parametrize("change", ["flip", "cut", "gone", "more"])
def test_damage_among_joined_pieces_costs_what_follows(
  root, made, monkeypatch, change
):
  real = pieces.Pieces._note
  notes = []

  def note(self):
    real(self)
    notes.append(self)
    if len(notes) == 20:  # 3 of 5 are joined
      raise KeyboardInterrupt

  with monkeypatch.context() as patch:
    patch.setattr(pieces.Pieces, "_note", note)
    with pytest.raises(KeyboardInterrupt):
      prepare(root)
  file = root / "tfds/cars/.val.tmp/cars.val.tfrecord"
  data = bytearray(file.read_bytes())
  if change == "gone":
    file.unlink()
  else:
    data[len(data) // 2] ^= change == "flip"
    file.write_bytes(data[:-7] if change == "cut" else data + b"x" * 9)
  monkeypatch.setattr("udon_jax.data.preparation._estimate", lambda job: 0)
  counts = read_counts(monkeypatch)
  prepare(root)
  assert data_files.contents(root) == made[1]
  first = {"flip": 5, "cut": 10, "gone": 0, "more": 15}[change]
  assert sorted(counts) == [("val", i) for i in range(first, 15)]


def test_two_at_once_are_told(root, made):
  folder = layout.epath.Path(root / "tfds/cars")
  with replacing.alone(folder.parent / "met"), replacing.alone(folder):
    with pytest.raises(errors.UserError, match=r"another process.*cars; wait"):
      prepare(root)
    assert not list(folder.iterdir())
    # What vanishes as the other process goes on.
    (folder / ".train.tmp").mkdir(parents=True)
    (root / "tfds/cars/.train.tmp/gone").symlink_to("nothing")
    with pytest.raises(errors.UserError, match="another process"):
      prepare(root)
  with replacing.alone(folder.parent / "met"):  # which is not prepared here
    prepare(root)
  assert data_files.contents(root) == made[1]


@pytest.mark.parametrize("change", ["flip", "cut", "gone"])
def test_a_damaged_piece_is_written_again(root, made, monkeypatch, change):
  names = interrupt(root, monkeypatch, after=4)
  file = root / "tfds/cars/.train.tmp" / names[2]
  data = bytearray(file.read_bytes())
  if change == "flip":
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
  elif change == "cut":
    file.write_bytes(data[:-7])
  else:
    file.unlink()
  prepare(root)
  assert data_files.contents(root) == made[1]


@pytest.mark.parametrize("what", ["store", "seed", "list", "progress"])
def test_leftovers_of_another_job_are_dropped(
  root, made, monkeypatch, tmp_path, what
):
  names = interrupt(root, monkeypatch, after=4)
  folder = root / "tfds/cars/.train.tmp"
  assert {name for name in names} <= {path.name for path in folder.iterdir()}
  changes = {}
  if what == "store":
    changes["store"] = "raw32"
  elif what == "seed":
    changes["seed"] = 1
  elif what == "list":
    data_files.add_split(root, "cars", "train", 46)
  else:
    (folder / pieces.PROGRESS_FILE).write_text("{")
  fresh = tmp_path / "fresh"
  shutil.copytree(root, fresh, ignore=shutil.ignore_patterns("tfds"))
  prepare(root, **changes)
  prepare(fresh, **changes)
  assert data_files.contents(root) == data_files.contents(fresh)


def test_a_bad_image_costs_its_piece_alone(root, made, monkeypatch):
  image = root / "images/cars/val/13.jpg"
  good = image.read_bytes()
  image.write_bytes(b"no image")
  with pytest.raises(errors.UserError, match=r"1 images are unusable"):
    prepare(root)
  image.write_bytes(good)
  monkeypatch.setattr("udon_jax.data.preparation._estimate", lambda job: 0)
  counts = read_counts(monkeypatch)
  prepare(root)
  assert data_files.contents(root) == made[1]
  assert sorted(counts) == [("val", i) for i in range(10, 15)]


def test_a_full_disk_is_foreseen(root, monkeypatch):
  usage = shutil.disk_usage(root)
  monkeypatch.setattr(
    disk.shutil, "disk_usage", lambda _: usage._replace(free=50_000)
  )
  with pytest.raises(errors.DiskFullError, match="free some space"):
    prepare(root)
  assert not (root / "tfds").exists()


def test_what_is_finished_needs_no_room_again(root, made, monkeypatch):
  """A disk with room for the rest alone."""
  interrupt(root, monkeypatch, after=14)  # of 15 pieces
  usage = shutil.disk_usage(root)
  whole = sum(map(len, made[1].values()))
  monkeypatch.setattr(
    disk.shutil, "disk_usage", lambda _: usage._replace(free=whole // 4)
  )
  prepare(root)
  assert data_files.contents(root) == made[1]


def test_a_disk_that_fills_keeps_what_is_finished(root, made, monkeypatch):
  real = offsets.frame
  count = []

  def frame(data):
    count.append(data)
    if len(count) == 28:
      raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    return real(data)

  with monkeypatch.context() as patch:
    patch.setattr(offsets, "frame", frame)
    with pytest.raises(errors.UserError, match=r"No space left.*goes on"):
      prepare(root)
  monkeypatch.setattr("udon_jax.data.preparation._estimate", lambda job: 0)
  counts = read_counts(monkeypatch)
  prepare(root)
  assert data_files.contents(root) == made[1]
  assert 0 < sum(split == "train" for split, _ in counts) < 47


@given(
  st.lists(st.lists(st.binary(max_size=40), max_size=4), min_size=1, max_size=5)
)
@settings(max_examples=40, deadline=None)
def test_joined_offsets_are_those_of_the_joined_file(tmp_path_factory, parts):
  folder = layout.epath.Path(tmp_path_factory.mktemp("pieces"))
  done = pieces.Pieces(folder, job="x", whole="whole")
  names = [f"p{i}" for i in range(len(parts))]
  for name, records in zip(names, parts, strict=True):
    done.write(name, records)
  starts = [done.starts(name) for name in names]
  done.join(names)
  joined = writer._joined(starts)
  np.testing.assert_array_equal(joined, offsets.rebuild(folder / "whole"))
  found = tf.data.TFRecordDataset(str(folder / "whole"))
  assert list(found.as_numpy_iterator()) == [r for part in parts for r in part]
