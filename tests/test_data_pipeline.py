"""Streams are functions of a position: laws, and how mistakes surface."""

import dataclasses
import itertools

import numpy as np
import pytest
import tensorflow as tf

from tests import data_files
from tests.oracles import preprocess as oracle
from udon_jax import errors
from udon_jax.data import examples, order, pipeline, preprocess, records

N = 11  # images of the training split
KEYS = [f"{i}.jpg" for i in range(N)]
LABELS = [i % 4 for i in range(N)]


def record(i, *, label=None, image=None):
  return examples.serialize(
    image_bytes=data_files.encode(i) if image is None else image,
    class_ids=[LABELS[i]] if label is None else label,
    key=KEYS[i],
  )


@pytest.fixture(scope="module")
def files(tmp_path_factory):
  folder = tmp_path_factory.mktemp("records")
  parts = [range(4), range(4, 4), range(4, N)]
  names = [folder / f"{i}.tfrecord" for i in range(3)]
  for name, part in zip(names, parts, strict=True):
    data_files.write_records(name, [record(i) for i in part])
  return records.RecordFiles(names)


def source(files, **changes):
  fields = {
    "num_classes": 4,
    "fingerprint": "",
    "batch_size": 4,
    "seed": 3,
  }
  options = {
    name: changes.pop(name)
    for name in ("num_threads", "prefetch", "process_index", "process_count")
    if name in changes
  }
  return pipeline.TrainSource(
    "cars",
    files=files,
    options=dataclasses.replace(data_files.OPTIONS, **options),
    **fields | changes,
  )


def take(files, position, count, **changes):
  stream = source(files, **changes).open(position)
  return list(itertools.islice(stream, count))


def assert_equal(batches, others):
  assert len(batches) == len(others)
  for batch, other in zip(batches, others, strict=True):
    np.testing.assert_array_equal(batch.images, other.images)
    np.testing.assert_array_equal(batch.labels, other.labels)


@pytest.fixture(scope="module")
def batches(files):
  """Twelve batches: more than four epochs."""
  return take(files, 0, 12)


@pytest.mark.parametrize("position", [1, 2, 3, 8])
def test_a_stream_opens_at_any_position(files, batches, position):
  opened = take(files, position, 12 - position)
  assert_equal(opened, batches[position:])


@pytest.mark.parametrize("threads", [1, 7])
def test_threads_and_prefetch_change_nothing(files, batches, threads):
  assert_equal(take(files, 0, 12, num_threads=threads, prefetch=5), batches)


@pytest.mark.parametrize("count", [2, 4])
def test_processes_share_a_batch(files, batches, count):
  parts = [
    take(files, 2, 4, process_index=i, process_count=count)
    for i in range(count)
  ]
  for k, batch in enumerate(batches[2:6]):
    for name in ("images", "labels"):
      rows = [getattr(part[k], name) for part in parts]
      np.testing.assert_array_equal(np.concatenate(rows), getattr(batch, name))


def test_batches_are_what_order_and_oracle_say(files, batches):
  positions = np.arange(12 * 4)
  epochs, numbers = order.records_at(positions, N, seed=3, domain="cars")
  offsets, flips = order.augmentations(
    epochs, numbers, seed=3, domain="cars", room=4
  )
  images = np.concatenate([batch.images for batch in batches])
  labels = np.concatenate([batch.labels for batch in batches])
  assert images.dtype == np.uint8
  assert labels.dtype == np.int32
  np.testing.assert_array_equal(labels, np.array(LABELS)[numbers])
  for k in range(len(positions)):
    expected = oracle.train_image(
      preprocess.decode(data_files.encode(int(numbers[k]))).numpy(),
      top=offsets[k, 0],
      left=offsets[k, 1],
      flip=flips[k],
      resize_size=20,
      crop_size=16,
    )
    assert np.abs(images[k] - expected).max() <= 0.501


def test_every_epoch_sees_every_image_once(files):
  labels = np.concatenate([b.labels for b in take(files, 0, N)])
  for epoch in labels.reshape(4, N):
    np.testing.assert_array_equal(np.sort(epoch), sorted(LABELS))


def test_the_seed_changes_the_batches(files, batches):
  other = take(files, 0, 3, seed=4)
  assert (other[0].images != batches[0].images).any()


def test_a_batch_may_exceed_an_epoch(files):
  (batch,) = take(files, 0, 1, batch_size=30)
  assert batch.images.shape == (30, 16, 16, 3)
  singles = take(files, 0, 30, batch_size=1)
  np.testing.assert_array_equal(
    batch.images, np.concatenate([single.images for single in singles])
  )


def evaluate(files, batch_size=4, **changes):
  options = dataclasses.replace(data_files.OPTIONS, **changes)
  return list(pipeline.open_eval(files, batch_size=batch_size, options=options))


@pytest.mark.parametrize("batch_size", [1, 4, N, 30])
def test_evaluation_yields_every_image_in_order(files, batch_size):
  found = evaluate(files, batch_size)
  assert len(found) == -(-N // batch_size)
  mask = np.concatenate([batch.mask for batch in found])
  images = np.concatenate([batch.images for batch in found])
  assert all(len(batch.images) == batch_size for batch in found)
  assert mask.tolist() == [True] * N + [False] * (len(mask) - N)
  assert not images[N:].any()
  for i in range(N):
    decoded = preprocess.decode(data_files.encode(i)).numpy()
    expected = oracle.eval_image(decoded, crop_size=16)
    assert np.abs(images[i] - expected).max() <= 0.501


@pytest.mark.parametrize("count", [2, 4])
def test_processes_share_an_evaluation(files, count):
  whole = evaluate(files, 8)
  parts = [
    evaluate(files, 8, process_index=i, process_count=count, num_threads=3)
    for i in range(count)
  ]
  for k, batch in enumerate(whole):
    for name in ("images", "mask"):
      rows = [getattr(part[k], name) for part in parts]
      np.testing.assert_array_equal(np.concatenate(rows), getattr(batch, name))
    assert all(len(part) == len(whole) for part in parts)


def test_batches_that_cannot_be_shared(files):
  with pytest.raises(errors.UserError, match=r"config\.batch_size=4.* 3 "):
    source(files, process_count=3)


def broken(tmp_path, data, *, at=2):
  """Records of which one holds other data."""
  file = tmp_path / "cars.train.tfrecord"
  contents = [record(i) for i in range(N)]
  contents[at] = data
  data_files.write_records(file, contents)
  return records.RecordFiles([file])


EMPTY = tf.train.Example().SerializeToString()
BROKEN = {
  "label too large": (record(2, label=[4]), "class_id 4, outside 0 .. 3"),
  "label negative": (record(2, label=[-1]), "class_id -1, outside"),
  "label beyond int32": (record(2, label=[2**40]), "class_id 1099511627776"),
  "two labels": (record(2, label=[1, 2]), "2 class ids"),
  "no label": (record(2, label=[]), "0 class ids"),
  "cut image": (record(2, image=data_files.encode(2)[:-9]), "be decoded"),
  "no example": (b"\xff\xff\xff", "no serialized tf.train.Example"),
  "no image": (EMPTY, "has no image_bytes"),
}


def test_a_flipped_bit_is_named_in_training_and_evaluation(tmp_path):
  files = broken(tmp_path, record(2))
  whole = bytearray(files.files[0].read_bytes())
  # Within an image: it would decode, to other pixels.
  whole[whole.index(record(2)) + len(record(2)) // 2] ^= 1
  files.files[0].write_bytes(whole)
  message = r"cars\.train\.tfrecord: record 2 \(key '2.jpg'\) is damaged"
  with pytest.raises(errors.UserError, match=message):
    list(itertools.islice(source(files).open(0), N))
  with pytest.raises(errors.UserError, match=message):
    evaluate(files)


def test_a_file_that_is_deleted_during_the_run_is_read_on(tmp_path):
  stream = source(broken(tmp_path, record(2)), batch_size=1).open(0)
  first = next(stream)
  (tmp_path / "cars.train.tfrecord").unlink()
  assert next(itertools.islice(stream, N - 1, None)).images.shape == (
    first.images.shape
  )


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_record_is_named_in_its_batch(tmp_path, name):
  data, message = BROKEN[name]
  files = broken(tmp_path, data)
  _, numbers = order.records_at(np.arange(N), N, seed=3, domain="cars")
  good_batches = numbers.tolist().index(2) // 4
  stream = source(files).open(0)
  for _ in range(good_batches):
    next(stream)
  with pytest.raises(errors.UserError, match=message) as caught:
    next(stream)
  assert "cars.train.tfrecord: record 2 " in str(caught.value)
  assert "\n" not in str(caught.value)
  assert caught.value.__cause__ is None
  with pytest.raises(StopIteration):
    next(stream)


def test_a_broken_image_of_an_evaluation_is_named(tmp_path):
  files = broken(tmp_path, record(6, image=b"junk"), at=6)
  stream = pipeline.open_eval(files, batch_size=4, options=data_files.OPTIONS)
  next(stream)
  with pytest.raises(errors.UserError, match=r"record 6 \(key '6.jpg'\)"):
    next(stream)


def test_a_file_cut_during_the_run_is_named(tmp_path):
  files = broken(tmp_path, record(2))
  stream = source(files, batch_size=1, num_threads=1, prefetch=1).open(0)
  next(stream)
  with open(files.files[0], "r+b") as file:
    file.truncate(10)
  with pytest.raises(errors.UserError, match=r"cars\.train\.tfrecord changed"):
    for _ in range(2 * N):
      next(stream)
