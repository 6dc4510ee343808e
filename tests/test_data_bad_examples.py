"""Bad training examples end a run, or are passed over without a trace."""

import dataclasses
import logging
import shutil

import numpy as np
import pytest

from tests import data_files
from udon_jax import errors
from udon_jax.data import (
  dataset,
  examples,
  layout,
  offsets,
  records,
  splits,
)

COUNT = 40
BATCH = 6


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
  root = tmp_path_factory.mktemp("data")
  for split, count in (("train", COUNT), ("val", 3), ("test", 3)):
    data_files.add_split(root, "cars", split, count)
  data_files.prepare(root)
  return root


@pytest.fixture(autouse=True)
def log(caplog, monkeypatch):
  monkeypatch.setattr(logging.getLogger("udon_jax"), "propagate", True)
  return caplog


def source(root, *, share=0.5, decoder="tensorflow", **changes):
  options = dataclasses.replace(
    data_files.OPTIONS, max_bad_share=share, decoder=decoder, **changes
  )
  (found,), _ = dataset.load(
    root,
    domains=("cars",),
    batch_size=BATCH,
    eval_batch_size=4,
    seed=2,
    options=options,
  )
  return found


DAMAGES = {
  "checksum": lambda data, real: errors.BadExampleError("x: damaged"),
  "no example": lambda data, real: b"\xff\xff nothing",
  "no image": lambda data, real: again(data, image_bytes=b"\xff\xd8 no image"),
  "no label": lambda data, real: again(data, class_ids=[]),
  "two labels": lambda data, real: again(data, class_ids=[0, 1]),
  "label beyond": lambda data, real: again(data, class_ids=[99]),
}


def again(data, **changes):
  parts = examples.parse(data)
  fields = {
    "image_bytes": parts.images[0],
    "class_ids": parts.class_ids,
    "key": parts.key,
  }
  return examples.serialize(**{**fields, **changes})


@pytest.fixture
def break_records(monkeypatch):
  """Makes reading some records fail, each in its way."""

  def apply(kinds):
    real = records.RecordFiles.read

    def read(self, record):
      data = real(self, record)
      if record not in kinds or len(self) != COUNT:
        return data
      damaged = DAMAGES[kinds[record]](data, real)
      if isinstance(damaged, Exception):
        raise damaged
      return damaged

    monkeypatch.setattr(records.RecordFiles, "read", read)

  return apply


def take(stream, count):
  return [next(stream) for _ in range(count)]


def assert_same(ours, theirs):
  for a, b in zip(ours, theirs, strict=True):
    np.testing.assert_array_equal(a.images, b.images)
    np.testing.assert_array_equal(a.labels, b.labels)


@pytest.mark.parametrize("decoder", ["tensorflow", "opencv"])
@pytest.mark.parametrize("kind", DAMAGES)
def test_the_first_ends_a_run(clean, break_records, kind, decoder):
  given = source(clean, share=None, decoder=decoder)
  plan = given._plan(np.arange(COUNT), bad=frozenset())[0]
  break_records({int(plan[8]): kind})
  stream = given.open(0)
  next(stream)  # the batch before is whole
  with pytest.raises(errors.BadExampleError) as raised:
    next(stream)
  assert raised.value.record == plan[8]
  if kind != "checksum":
    assert "record" in str(raised.value) and "tfrecord" in str(raised.value)


@pytest.mark.parametrize("decoder", ["tensorflow", "opencv"])
@pytest.mark.parametrize("kind", DAMAGES)
def test_the_next_one_takes_its_place(clean, break_records, log, kind, decoder):
  given = source(clean, decoder=decoder)
  # In a row, and at the end, after which the first one comes.
  bad = dict.fromkeys((7, 8, 9, COUNT - 1), kind)
  numbers, offsets, flips = given._plan(np.arange(60), bad=frozenset())
  swap = {7: 10, 8: 10, 9: 10, COUNT - 1: 0}
  numbers = np.array([swap.get(n, n) for n in numbers.tolist()])
  expected = [
    given.augmented(int(n), epoch=i // COUNT) for i, n in enumerate(numbers)
  ]
  labels = [examples.labels(given.files.read(int(n)))[0] for n in numbers]
  del offsets, flips
  break_records(bad)
  found = take(given.open(0), 60 // BATCH)
  np.testing.assert_array_equal(
    np.concatenate([batch.images for batch in found]), expected
  )
  np.testing.assert_array_equal(
    np.concatenate([batch.labels for batch in found]), labels
  )
  said = [r for r in log.records if "passed over" in r.getMessage()]
  assert len(said) == len(bad)  # each is told of once
  assert "bad example 4" in said[-1].getMessage()


@pytest.mark.parametrize("decoder", ["tensorflow", "opencv"])
def test_a_restart_reads_the_same(clean, break_records, decoder):
  kinds = list(DAMAGES)
  break_records({3 + 5 * i: kind for i, kind in enumerate(kinds)})
  whole = take(source(clean, decoder=decoder).open(0), 14)
  for start in (1, 5, 9):  # what was bad before is not known yet
    found = take(source(clean, decoder=decoder).open(start), 14 - start)
    assert_same(found, whole[start:])


@pytest.mark.parametrize("decoder", ["tensorflow", "opencv"])
def test_files_that_were_damaged_on_disk(clean, tmp_path, log, decoder):
  """Flipped bits of images and lengths, a wrong label, at both ends."""
  root = tmp_path / "data"
  shutil.copytree(clean, root)
  given = source(root)
  numbers, _, _ = given._plan(np.arange(60), bad=frozenset())
  wrong = [0, 1, 17, COUNT - 1, 25]
  swap = {0: 2, 1: 2, 17: 18, COUNT - 1: 2, 25: 26}
  expected = [
    given.augmented(swap.get(n, n), epoch=i // COUNT)
    for i, n in enumerate(numbers.tolist())
  ]
  for record in wrong:
    file, number = given.files.locate(record)
    whole = bytearray(file.read_bytes())
    starts = offsets.rebuild(file)
    start = starts[number] + offsets.HEADER_BYTES
    end = starts[number + 1] - offsets.FOOTER_BYTES
    if record == 17:
      label = again(bytes(whole[start:end]), class_ids=[77])
      assert len(label) == end - start
      whole[starts[number] : starts[number + 1]] = offsets.frame(label)
    elif record == 25:
      whole[starts[number]] ^= 1
    else:
      whole[drawn(record, start, end)] ^= 1 << record % 8
    file.write_bytes(whole)
  damaged = source(root, decoder="tensorflow")
  found = take(damaged.open(0), 10)
  np.testing.assert_array_equal(
    np.concatenate([batch.images for batch in found]), expected
  )
  log.clear()
  damaged = source(root, decoder=decoder)
  restarted = take(damaged.open(4), 6)
  for batch, other in zip(restarted, found[4:], strict=True):
    np.testing.assert_array_equal(batch.labels, other.labels)
    assert np.abs(batch.images.astype(int) - other.images).max() <= 1
  said = [
    r.getMessage() for r in log.records if "passed over" in r.getMessage()
  ]
  assert 0 < len(said) <= len(wrong)
  assert all("\n" not in line and "tfrecord" in line for line in said)
  with pytest.raises(errors.BadExampleError):
    take(source(root, share=None, decoder=decoder).open(0), 10)


def drawn(record, start, end):
  """Returns a byte of a record: of its image, or its very last one."""
  return end - 1 if record else (start + end) // 2


def test_processes_read_what_one_does(clean, break_records):
  break_records({4: "no image", 5: "checksum", 20: "label beyond"})
  whole = take(source(clean).open(0), 8)
  parts = [
    take(source(clean, process_index=i, process_count=2).open(0), 8)
    for i in range(2)
  ]
  for batch, *rows in zip(whole, *parts, strict=True):
    joined = np.concatenate([part.images for part in rows])
    np.testing.assert_array_equal(joined, batch.images)


def test_too_many_end_a_run(clean, break_records):
  break_records(dict.fromkeys(range(5), "no image"))
  with pytest.raises(
    errors.UserError,
    match=r"5 of the 40 training examples of 'cars' are bad, more than "
    r"config.data.max_bad_share=0.1 allows",
  ):
    take(source(clean, share=0.1).open(0), 14)
  assert len(take(source(clean, share=0.13).open(0), 14)) == 14


def test_one_may_always_be_bad(clean, break_records):
  break_records({0: "no image"})
  assert len(take(source(clean, share=0.0).open(0), 14)) == 14


def test_all_bad_ends_a_run(clean, break_records):
  break_records(dict.fromkeys(range(COUNT), "no image"))
  with pytest.raises(errors.UserError, match="are bad, more than"):
    next(source(clean, share=0.99).open(0))


def test_a_file_that_vanishes_still_ends_it(clean, tmp_path):
  root = tmp_path / "data"
  shutil.copytree(clean, root)
  given = source(root)
  for file in splits.open_records(layout.find(root), "cars", "train").files:
    file.unlink()
  with pytest.raises(errors.UserError) as raised:
    take(given.open(0), 20)
  assert not isinstance(raised.value, errors.BadExampleError)


def test_evaluation_passes_nothing_over(clean, monkeypatch):
  options = dataclasses.replace(data_files.OPTIONS, max_bad_share=0.9)
  _, tasks = dataset.load(
    clean,
    domains=("cars",),
    batch_size=BATCH,
    eval_batch_size=4,
    seed=2,
    options=options,
  )
  real = records.RecordFiles.read
  monkeypatch.setattr(
    records.RecordFiles,
    "read",
    lambda self, record: again(real(self, record), image_bytes=b"\xff\xd8"),
  )
  (task,) = tasks["val"]()
  with pytest.raises(errors.UserError, match="no image that can be decoded"):
    next(iter(task.query.open()))
