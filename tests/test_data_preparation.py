"""Which splits are prepared, and how images are found and missed."""

import logging
import shutil
import subprocess
import sys

import pytest

from tests import data_files
from udon_jax import errors
from udon_jax.data import (
  examples,
  image_files,
  layout,
  metadata,
  records,
  splits,
)

CLASS_0 = {"class_id": 0}


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


def test_done_splits_are_left_alone(root, log):
  data_files.prepare(root)
  first = data_files.snapshot(root)
  data_files.prepare(root)
  data_files.prepare(root, num_shards=None)
  assert data_files.snapshot(root) == first
  assert "cars/train: done before, 11 images" in log.text


def test_a_changed_info_file_is_prepared_again(root, log):
  data_files.prepare(root)
  entries = data_files.add_split(root, "cars", "val", 7)
  place = data_files.prepare(root)
  assert "cars/val: its info file changed; preparing it again" in log.text
  files = splits.open_records(place, "cars", "val")
  assert len(files) == len(entries) == 7


def test_another_number_of_shards_is_prepared_again(root):
  data_files.prepare(root)
  place = data_files.prepare(root, num_shards=2)
  files = splits.open_records(place, "cars", "train")
  assert (len(files.files), len(files)) == (2, 11)


@pytest.mark.parametrize("damage", ["remove", "cut"])
def test_damaged_records_are_prepared_again(root, damage):
  data_files.prepare(root)
  first = data_files.contents(root)
  file = root / "tfds/cars/train/cars.train.tfrecord-00001-of-00003"
  if damage == "remove":
    file.unlink()
  else:
    file.write_bytes(file.read_bytes()[:-5])
  data_files.prepare(root)
  assert data_files.contents(root) == first


def test_records_of_the_official_converter_are_accepted(root, log):
  data_files.prepare(root)
  for file in (root / "tfds").rglob("*"):
    if file.suffix in (".npy", ".json"):
      file.unlink()
  first = data_files.snapshot(root)
  shutil.rmtree(root / "images")
  place = data_files.prepare(root)
  assert {
    k: v for k, v in data_files.snapshot(root).items() if k in first
  } == first
  assert "cars/train: found 11 records made before" in log.text
  assert metadata.read(place.records("cars", "train")).num_shards == 3


def test_records_made_elsewhere_are_not_resized(root, log):
  """They may be all that there is, and nothing tells what they hold."""
  data_files.prepare(root)
  for file in (root / "tfds").rglob("metadata.json"):
    file.unlink()
  first = data_files.contents(root)
  with pytest.raises(errors.UserError, match="--store=raw64 would replace"):
    data_files.prepare(root, store="raw64")
  assert data_files.contents(root) == first


def test_other_records_that_do_not_fit_are_prepared_again(root, log):
  data_files.write_records(root / "tfds/cars/val/cars.val.tfrecord", [b"x"])
  place = data_files.prepare(root)
  assert len(splits.open_records(place, "cars", "val")) == 5
  assert "cars/val: the records there cannot be used" in log.text


@pytest.mark.parametrize("mine", ["photo.jpg", "cats/photo.jpg"])
def test_what_is_no_record_is_never_replaced(root, mine):
  """As where --output is the folder of somebody's images."""
  file = root / "tfds/cars/val" / mine
  file.parent.mkdir(parents=True)
  file.write_bytes(b"dear")
  with pytest.raises(errors.UserError, match="would be lost; move it away"):
    data_files.prepare(root)
  assert file.read_bytes() == b"dear"
  assert not (root / "tfds/cars/train").exists()


def test_missing_images_are_all_named(root, log):
  for i in range(11):
    (root / f"images/cars/train/{i}.jpg").unlink()
  (root / "images/mine/train/2.jpg").unlink()
  with pytest.raises(errors.UserError, match="12 images are missing"):
    data_files.prepare(root)
  for i in range(11):
    assert f"cars/train/{i}.jpg" in log.text
  assert "mine/train/2.jpg" in log.text
  assert not (root / "tfds").exists()


def test_only_folders_that_lack_images_are_named(root, tmp_path_factory):
  elsewhere = tmp_path_factory.mktemp("elsewhere")
  shutil.move(root / "images/mine", elsewhere / "mine")
  (root / "info_files/mine/source.yaml").write_text(f"images: {elsewhere}\n")
  (elsewhere / "mine/train/2.jpg").unlink()
  with pytest.raises(errors.UserError, match=f"add them to {elsewhere} or"):
    data_files.prepare(root)


def test_paths_that_lead_to_no_image_are_named(root, log):
  data_files.write_info(root, "cars", "val", [{"path": "cars/train"} | CLASS_0])
  with pytest.raises(errors.UserError, match="1 images are unusable"):
    data_files.prepare(root, domain_names=["cars"])
  assert "images/cars/train cannot be read (Is a directory)" in log.text
  data_files.write_info(root, "cars", "val", [{"path": "a" * 9000} | CLASS_0])
  with pytest.raises(errors.UserError, match="1 images are missing"):
    data_files.prepare(root, domain_names=["cars"])


def test_links_of_the_owner_are_followed(root, tmp_path_factory):
  """Large sets of images often lie elsewhere, linked into images/."""
  elsewhere = tmp_path_factory.mktemp("elsewhere")
  shutil.move(root / "images/cars", elsewhere / "cars")
  (root / "images/cars").symlink_to(elsewhere / "cars")
  place = data_files.prepare(root)
  assert len(splits.open_records(place, "cars", "train")) == 11


def test_repeated_images_are_told_of(root, log):
  entries = [{"path": "cars/train/0.jpg"} | CLASS_0] * 2
  data_files.write_info(root, "cars", "val", entries)
  data_files.prepare(root)
  assert "lists 1 images more than once, the first is cars/train/0.jpg" in (
    log.text
  )


@pytest.mark.parametrize("place", ["tfds", "tfds/cars", "tfds/cars/train"])
def test_a_file_in_the_place_of_a_folder_is_named(root, place):
  (root / place).parent.mkdir(parents=True, exist_ok=True)
  (root / place).write_text("precious")
  with pytest.raises(errors.UserError, match=f"{place}.* cannot be written"):
    data_files.prepare(root)
  assert (root / place).read_text() == "precious"


def test_long_lists_are_cut(root, log):
  data_files.add_split(root, "cars", "test", 30)
  shutil.rmtree(root / "images/cars/test")
  with pytest.raises(errors.UserError, match="30 images are missing"):
    data_files.prepare(root)
  assert "... and 10 more" in log.text


def test_escaped_names_are_found(root):
  entries = [
    {"path": "rp2k/康师傅/é.jpg", "class_id": 0},
    {"path": "rp2k/王/ok.jpg", "class_id": 1},
  ]
  on_disk = ["rp2k/#U5eb7#U5e08#U5085/#U00e9.jpg", "rp2k/王/ok.jpg"]
  for i, name in enumerate(on_disk):
    file = root / "images" / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(data_files.encode(i))
  data_files.write_info(root, "rp2k", "train", entries)
  data_files.prepare(root, domain_names=["rp2k"], num_shards=1)
  file = root / "tfds/rp2k/train/rp2k.train.tfrecord-00000-of-00001"
  files = records.RecordFiles([file])
  keys = {examples.key(files.read(i)) for i in range(len(files))}
  assert keys == {entry["path"] for entry in entries}


def test_only_splits_that_are_read_are_prepared(root):
  data_files.add_split(root, "cars", "unused", 2)
  data_files.add_split(root, "mine", "other", 2)
  data_files.prepare(root)
  names = {f"{p.parent.name}/{p.name}" for p in root.glob("tfds/*/*")}
  assert names == {"cars/train", "cars/val", "mine/train", "mine/other"}


def test_unknown_domains_are_named(root):
  with pytest.raises(errors.UserError, match=r"sop is missing.*cars, mine"):
    data_files.prepare(root, domain_names=["sop"])


def test_a_folder_without_info_files_is_named(tmp_path):
  with pytest.raises(errors.UserError, match="info_files holds no"):
    data_files.prepare(tmp_path)


def test_an_image_is_looked_for_under_its_own_name_first(tmp_path):
  images = layout.find(tmp_path).images
  images.mkdir()
  assert image_files.find_name(images, "ü.jpg") is None
  (images / "#U00fc.jpg").write_bytes(b"")
  assert image_files.find_name(images, "ü.jpg") == "#U00fc.jpg"
  (images / "#L01f600.jpg").write_bytes(b"")
  assert image_files.find_name(images, "😀.jpg") == "#L01f600.jpg"
  (images / "ü.jpg").write_bytes(b"")
  assert image_files.find_name(images, "ü.jpg") == "ü.jpg"


def test_the_command_line(root):
  (root / "images/mine/train/1.jpg").write_bytes(b"")
  command = [sys.executable, "-m", "udon_jax.data.prepare"]
  done = subprocess.run(
    [*command, f"--data_dir={root}", "--num_workers=1"],
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 2
  lines = [
    line
    for line in done.stderr.replace("\r", "\n").splitlines()
    if line.strip() and "images/s]" not in line and "? images" not in line
  ]
  assert "images to write, about 0.0 GB, into" in lines[0]
  assert lines[1:3] == [
    "cars/train: done, 11 images",
    "cars/val: done, 5 images",
  ]
  assert len(lines) == 5
  assert lines[3].endswith("mine/train/1.jpg is empty")
  assert lines[4].startswith("error: 1 images are unusable")
