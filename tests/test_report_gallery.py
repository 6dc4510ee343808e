"""Pictures of a report are of the images that it names, wherever they lie."""

import base64
import io
import json
import shutil

import numpy as np
from PIL import Image
import pytest

from tests import data_files, official_data
from udon_jax.report import gallery

COUNT = 5


@pytest.fixture
def root(tmp_path):
  """Data of which every image has a colour of its own, without its images."""
  data_files.add_split(tmp_path, "cars", "test", COUNT)
  for i in range(COUNT):
    colour = Image.new("RGB", (30, 20), (50 * i, 200 - 40 * i, 90))
    colour.save(tmp_path / f"images/cars/test/{i}.jpg", quality=95)
  official_data.convert(tmp_path, "cars", splits=["test"])
  shutil.rmtree(tmp_path / "images")
  return tmp_path


def position(source):
  """Returns which image a picture shows."""
  data = base64.b64decode(source.split(",")[1])
  red = np.asarray(Image.open(io.BytesIO(data)))[..., 0].mean()
  return round(red / 50)


def image(number, key=None):
  return {
    "domain": "cars",
    "split": "test",
    "position": number,
    "key": key or f"cars/test/{number}.jpg",
  }


def shown(pictures):
  return [position(pictures.read(image(i))) for i in range(COUNT)]


def test_pictures_of_records_as_they_lie_need_no_list(root):
  shutil.rmtree(root / "info_files")
  assert shown(gallery.Pictures(root)) == list(range(COUNT))


@pytest.mark.parametrize("elsewhere", [False, True])
@pytest.mark.parametrize("num_shards", [None, 3])
def test_pictures_of_records_in_another_order(root, num_shards, elsewhere):
  file = official_data.place(root, "cars", "test")
  contents = official_data.read(root, "cars", "test")[::-1]
  file.unlink()
  if num_shards:
    official_data.write_shards(file, contents, num_shards=num_shards)
  else:
    official_data.write(file, contents)
  info_files = None
  if elsewhere:
    info_files = root.parent / f"{root.name} lists"
    shutil.move(root / "info_files", info_files)
  pictures = gallery.Pictures(root / "tfds", info_files=info_files)
  assert shown(pictures) == list(range(COUNT))
  assert pictures.problem is None


@pytest.mark.parametrize("key", ["../secret.jpg", "/secret.jpg", "other.jpg"])
def test_a_key_is_a_name_and_opens_nothing(root, key, monkeypatch):
  """Even where a list, a record and examples.json agree on it."""
  (root / "secret.jpg").write_bytes(data_files.encode(0))
  pictures = gallery.Pictures(root)
  assert pictures.read(image(2, key)) is None
  assert "is not the image" in pictures.problem
  contents = official_data.read(root, "cars", "test")
  contents[2] = official_data.example(data_files.encode(7), 0, key)
  official_data.write(official_data.place(root, "cars", "test"), contents)
  pictures = gallery.Pictures(root)
  expected = gallery.thumbnail(data_files.encode(7))
  assert pictures.read(image(2, key)) == expected


def test_the_list_says_what_is_wrong(root):
  """Where the order must be found and cannot be."""
  file = official_data.place(root, "cars", "test")
  official_data.write(file, official_data.read(root, "cars", "test")[::-1])
  entries = json.loads((root / "info_files/cars/test.json").read_text())
  data_files.write_info(root, "cars", "test", entries[:-1])
  pictures = gallery.Pictures(root)
  assert pictures.read(image(0)) is None
  assert "5 records" in pictures.problem and "4 images" in pictures.problem
