"""Threads change when batches come, and nothing of what they hold."""

import dataclasses
import threading

import numpy as np
import pytest

from tests import data_files
from udon_jax import errors
from udon_jax.data import dataset, formats, pipeline, threaded


@pytest.fixture(scope="module")
def root(tmp_path_factory):
  root = tmp_path_factory.mktemp("data")
  for split, count in (("train", 37), ("val", 3), ("test", 3)):
    data_files.add_split(root, "cars", split, count)
  data_files.prepare(root, store="raw24", exif=True)
  return root


OPTIONS = dataclasses.replace(data_files.OPTIONS, resize_size=24, crop_size=21)


def source(root, *, batch_size=12, **changes):
  (found,), _ = dataset.load(
    root,
    domains=("cars",),
    batch_size=batch_size,
    eval_batch_size=12,
    seed=5,
    options=dataclasses.replace(OPTIONS, **changes),
  )
  return found


def take(stream, count):
  return [next(stream) for _ in range(count)]


def assert_same(ours, theirs):
  for a, b in zip(ours, theirs, strict=True):
    np.testing.assert_array_equal(a.images, b.images)
    np.testing.assert_array_equal(a.labels, b.labels)


@pytest.mark.parametrize("num_threads", [1, 2, 5])
@pytest.mark.parametrize("prefetch", [0, 1, 4])
def test_threads_and_prefetch_change_nothing(root, num_threads, prefetch):
  wanted = take(source(root).open(0), 9)
  given = source(root, num_threads=num_threads, prefetch=prefetch)
  assert_same(take(given.open(0), 9), wanted)
  assert_same(take(given.open(4), 5), wanted[4:])  # from any position


@pytest.mark.parametrize("count", [2, 3, 4])
def test_processes_share_batches(root, count):
  wanted = take(source(root).open(2), 3)
  parts = [
    take(source(root, process_index=i, process_count=count).open(2), 3)
    for i in range(count)
  ]
  for batch, *rows in zip(wanted, *parts, strict=True):
    np.testing.assert_array_equal(
      np.concatenate([part.images for part in rows]), batch.images
    )


def test_few_batches_are_ahead(root, monkeypatch):
  """No more than are asked for, and the one that is waited for."""
  begun = []
  real = threaded.Stream._begin
  monkeypatch.setattr(
    threaded.Stream,
    "_begin",
    lambda self, number: begun.append(number) or real(self, number),
  )
  stream = source(root, prefetch=2).open(7)
  next(stream)
  assert begun == [7, 8, 9]
  next(stream)
  assert begun == [7, 8, 9, 10]


def test_the_first_bad_example_is_told(root, monkeypatch):
  """Whatever thread meets it first."""
  given = source(root, batch_size=30, num_threads=4)
  stream = threaded.Stream
  bad = {}

  def load(self, data, offset, flip):
    number = bad.get(data)
    if number is not None:
      if number == 3:  # the others fail before it
        threading.Event().wait(0.2)
      raise formats.UnreadableError(f"number {number}")
    return real(self, data, offset, flip)

  real = pipeline.TrainSource._load
  plan = given._plan(np.arange(30), bad=frozenset())[0]
  for place in (3, 17, 29):
    data = given.files.read(int(plan[place]))
    bad[stream._read(_reader(given), int(plan[place]))[1]] = place
    assert data
  monkeypatch.setattr(pipeline.TrainSource, "_load", load)
  with pytest.raises(errors.BadExampleError, match="number 3") as raised:
    next(given.open(0))
  assert raised.value.record == plan[3]


def _reader(given):
  return threaded.Stream(
    given.files,
    plan=None,
    load=None,
    batch_size=given.batch_size,
    options=given.options,
  )


def test_an_abandoned_stream_leaves_no_work(root):
  stream = source(root).open(0)
  next(stream)
  stream.close()
  with pytest.raises(StopIteration):
    next(stream)
  # The threads are free for others.
  assert len(take(source(root).open(0), 2)) == 2
