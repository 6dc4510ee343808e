"""Records are opened only if they are those of their info file."""

import json

import numpy as np
import pytest

from tests import data_files
from udon_jax import errors
from udon_jax.data import info, layout, metadata, offsets, records, splits


@pytest.fixture
def root(tmp_path):
  data_files.add_split(tmp_path, "cars", "train", 7)
  data_files.add_split(tmp_path, "cars", "val", 5)
  return tmp_path


def test_metadata_of_other_making_is_not_trusted(tmp_path):
  folder = layout.find(tmp_path).root
  wrong = dict.fromkeys(metadata.Metadata.__annotations__, 3)
  for text in ("", "{}", "[]", '{"num_examples": 3}', json.dumps(wrong)):
    (folder / "metadata.json").write_text(text)
    assert metadata.read(folder) is None


def test_a_changed_info_file_is_noticed(root):
  place = data_files.prepare(root)
  data_files.add_split(root, "cars", "val", 4)
  with pytest.raises(errors.UserError, match=r"val\.json changed since.*run"):
    splits.open_records(place, "cars", "val")


def test_a_sidecar_that_hides_a_record_heals(root):
  """It fits the size of its file and holds true starts, but not all."""
  place = data_files.prepare(root)
  file = root / "tfds/cars/val/cars.val.tfrecord"
  starts = offsets.load(file)
  offsets.write(file, np.delete(starts, 2))
  assert len(records.RecordFiles([file])) == 4
  opened = splits.open_records(place, "cars", "val")
  assert len(opened) == 5
  np.testing.assert_array_equal(offsets.load(file), starts)


def test_fewer_records_than_were_prepared_are_named(root):
  place = data_files.prepare(root)
  file = root / "tfds/cars/val/cars.val.tfrecord"
  starts = offsets.load(file)
  file.write_bytes(file.read_bytes()[: starts[3]])  # cut between two records
  with pytest.raises(errors.UserError, match=r"3 records.* with 5; .*prepare"):
    splits.open_records(place, "cars", "val")


def test_training_records_of_other_making_are_counted(root):
  place = data_files.prepare(root, num_shards=1)
  folder = root / "tfds/cars/train"
  (folder / "metadata.json").unlink()
  files, num_classes = splits.open_train(place, "cars")
  assert (len(files), num_classes) == (7, 3)
  file = folder / "cars.train.tfrecord-00000-of-00001"
  starts = offsets.load(file)
  file.write_bytes(file.read_bytes()[: starts[4]])
  with pytest.raises(errors.UserError, match=r"4 records.* 7 images.*prepare"):
    splits.open_train(place, "cars")


def test_classes_are_counted_in_the_info_file_without_metadata(root):
  place = data_files.prepare(root)
  (root / "tfds/cars/train/metadata.json").unlink()
  assert splits.open_train(place, "cars")[1] == 3
  entries = json.loads(place.info_file("cars", "train").read_text())
  entries[2]["class_id"] = 4
  data_files.write_info(root, "cars", "train", entries)
  assert splits.open_train(place, "cars")[1] == 5


def test_classes_are_not_counted_again_with_metadata(root, monkeypatch):
  place = data_files.prepare(root)
  monkeypatch.setattr(info, "read_info", None)
  assert splits.open_train(place, "cars")[1] == 3


@pytest.mark.parametrize("data_dir", [None, ""])
def test_no_data_directory(data_dir):
  with pytest.raises(errors.UserError, match=r"^config\.data_dir is not set"):
    layout.find(data_dir)


def test_a_missing_data_directory_comes_with_its_cure(tmp_path):
  with pytest.raises(errors.UserError) as caught:
    layout.find(tmp_path / "nowhere")
  message = str(caught.value)
  assert message.startswith(f"config.data_dir={tmp_path}/nowhere is no folder")
  for command in ("udon_jax.data.synthetic --output", "udon_jax.data.prepare"):
    assert command in message


def test_a_data_directory_may_be_given_by_its_records(root):
  data_files.prepare(root)
  assert layout.find(root / "tfds") == layout.find(root)
  other = layout.find(root, info_files=root / "info_files" / "cars")
  assert other.info_file("a", "b") == layout.epath.Path(
    root / "info_files/cars/a/b.json"
  )
  with pytest.raises(errors.UserError, match="--info_files"):
    layout.find(root, info_files=root / "nowhere")
