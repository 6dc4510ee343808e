"""Records are written whole or not at all, and in the official layout."""

import json
import logging
import shutil

import numpy as np
import pytest
import tensorflow as tf

from tests import data_files
from udon_jax import errors
from udon_jax.data import (
  examples,
  metadata,
  offsets,
  replacing,
  splits,
  writer,
)

FEATURES = {
  "image_bytes": tf.io.FixedLenFeature([], tf.string),
  "class_id": tf.io.VarLenFeature(tf.int64),
  "key": tf.io.FixedLenFeature([], tf.string),
}


@pytest.fixture
def root(tmp_path):
  data_files.add_split(tmp_path, "cars", "train", 11)
  data_files.add_split(tmp_path, "cars", "val", 5)
  data_files.add_split(tmp_path, "mine", "train", 4)
  return tmp_path


@pytest.fixture(autouse=True)
def log(caplog, monkeypatch):
  monkeypatch.setattr(logging.getLogger("udon_jax"), "propagate", True)
  caplog.set_level(logging.INFO, "udon_jax")
  return caplog


def read_with_tensorflow(files):
  """(key, class ids, image bytes) of every record, CRCs checked."""
  parsed = [
    tf.io.parse_single_example(record, FEATURES)
    for record in tf.data.TFRecordDataset([str(file) for file in files])
  ]
  return [
    (
      p["key"].numpy().decode(),
      tf.sparse.to_dense(p["class_id"]).numpy().tolist(),
      p["image_bytes"].numpy(),
    )
    for p in parsed
  ]


def expected(root, entries):
  return [
    (
      entry["path"],
      np.atleast_1d(entry["class_id"]).tolist(),
      (root / "images" / entry["path"]).read_bytes(),
    )
    for entry in entries
  ]


def test_evaluation_records_keep_the_order_of_the_info_file(root):
  entries = json.loads((root / "info_files/cars/val.json").read_text())
  entries[2]["class_id"] = [4, 0, 9]
  data_files.write_info(root, "cars", "val", entries)
  data_files.prepare(root)
  folder = root / "tfds/cars/val"
  assert {path.name for path in folder.iterdir()} == {
    "cars.val.tfrecord",
    ".cars.val.tfrecord.offsets.npy",
    "metadata.json",
  }
  written = read_with_tensorflow([folder / "cars.val.tfrecord"])
  assert written == expected(root, entries)


def test_training_records_are_shuffled_over_shards(root):
  place = data_files.prepare(root)
  entries = json.loads((root / "info_files/cars/train.json").read_text())
  files = splits.open_records(place, "cars", "train").files
  assert [file.name[-15:] for file in files] == [
    f"-{i:05d}-of-00003" for i in range(3)
  ]
  written = read_with_tensorflow(files)
  assert written != expected(root, entries)
  assert sorted(written) == sorted(expected(root, entries))
  known = metadata.read(place.records("cars", "train"))
  assert (known.num_examples, known.num_classes) == (11, 3)


def test_sidecars_equal_those_found_by_scanning(root):
  data_files.prepare(root)
  for file in (root / "tfds").rglob("*.offsets.npy"):
    written = np.load(file)
    file.unlink()
    record_file = file.with_name(file.name[1:].removesuffix(".offsets.npy"))
    np.testing.assert_array_equal(offsets.load(record_file), written)


@pytest.mark.parametrize("seed", [0, 5])
def test_the_same_records_come_out_again(root, seed):
  data_files.prepare(root, seed=seed)
  first = data_files.contents(root)
  shutil.rmtree(root / "tfds")
  data_files.prepare(root, seed=seed, num_workers=1)
  assert data_files.contents(root) == first


@pytest.mark.parametrize("moment", ["image", "shard", "metadata", "swap"])
def test_interruptions_leave_nothing_half_done(root, monkeypatch, moment):
  target, name = {
    "image": (examples, "serialize"),
    "shard": (offsets, "write"),
    "metadata": (metadata, "write"),
    "swap": (replacing, "replace"),
  }[moment]
  real, calls = getattr(target, name), []

  def interrupt(*args, **kwargs):
    calls.append(1)
    if len(calls) == 3:
      raise KeyboardInterrupt
    return real(*args, **kwargs)

  with monkeypatch.context() as patch:
    patch.setattr(target, name, interrupt)
    with pytest.raises(KeyboardInterrupt):
      data_files.prepare(root)
  for folder in (root / "tfds").glob("*/[!.]*"):
    assert metadata.read(folder) is not None
  data_files.prepare(root)
  interrupted = data_files.contents(root)
  shutil.rmtree(root / "tfds")
  data_files.prepare(root)
  assert data_files.contents(root) == interrupted


def test_leftovers_of_a_killed_run_are_removed(root):
  data_files.prepare(root)
  first = data_files.contents(root)
  shutil.move(root / "tfds/cars/val", root / "tfds/cars/.val.old")
  (root / "tfds/cars/.val.tmp").mkdir()
  (root / "tfds/cars/.val.tmp/cars.val.tfrecord").write_bytes(b"half")
  data_files.prepare(root)
  assert data_files.contents(root) == first


def test_unusable_images_are_all_named_and_nothing_is_half_written(root, log):
  images = root / "images/cars/train"
  images.joinpath("3.jpg").write_bytes(b"")
  images.joinpath("4.jpg").write_bytes(data_files.encode(0)[:-20])
  images.joinpath("7.jpg").write_bytes(b"<html>not found</html>")
  images.joinpath("8.jpg").unlink()
  images.joinpath("8.jpg").mkdir()
  with pytest.raises(errors.UserError, match="4 images are unusable"):
    data_files.prepare(root)
  for text in (
    "3.jpg is empty",
    "4.jpg is damaged",
    "7.jpg is damaged",
    "8.jpg cannot be read",
  ):
    assert text in log.text
  names = {path.name for path in root.glob("tfds/cars/*")}
  assert names - {".train.tmp"} == {"val"}
  assert (root / "tfds/mine/train/metadata.json").exists()


def test_more_shards_than_images(root):
  place = data_files.prepare(root, num_shards=100)
  files = splits.open_records(place, "mine", "train")
  assert (len(files.files), len(files)) == (4, 4)
  first = data_files.snapshot(root)
  data_files.prepare(root, num_shards=100)
  assert data_files.snapshot(root) == first


def test_default_shards_hold_ten_thousand_images():
  counts = [writer.default_num_shards(n) for n in (1, 10_000, 10_001)]
  assert counts == [1, 1, 2]
