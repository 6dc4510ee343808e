"""Pictures of a report are of the images that it names, wherever they lie."""

import base64
import io
import json
import shutil

import numpy as np
from PIL import Image
import pytest

from tests import data_files, official_data
from udon_jax.data import exif, formats
from udon_jax.report import gallery, page

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


def image(number, key=None, *, domain="cars"):
  return {
    "domain": domain,
    "split": "test",
    "position": number,
    "key": key or f"{domain}/test/{number}.jpg",
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


@pytest.fixture
def stored(root, tmp_path, request):
  """The images of `root`, held by another store."""
  store = request.param
  data_files.add_split(tmp_path / store, "cars", "test", COUNT)
  for i in range(COUNT):
    colour = Image.new("RGB", (30, 20), (50 * i, 200 - 40 * i, 90))
    colour.save(tmp_path / store / f"images/cars/test/{i}.jpg", quality=95)
  data_files.prepare(tmp_path / store, store=store)
  shutil.rmtree(tmp_path / store / "images")
  return tmp_path / store


@pytest.mark.parametrize("stored", ["raw64", "webp64", "jpeg64"], indirect=True)
@pytest.mark.parametrize("with_lists", [True, False])
def test_pictures_of_records_that_hold_resized_images(stored, with_lists):
  if not with_lists:
    shutil.rmtree(stored / "info_files")
  pictures = gallery.Pictures(stored)
  assert shown(pictures) == list(range(COUNT))
  assert pictures.problem is None


def seen(source):
  data = base64.b64decode(source.split(",")[1])
  return np.asarray(Image.open(io.BytesIO(data)))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_thumbnails_are_turned_as_the_run_turned(tmp_path, kind, orientation):
  told = Image.Exif()
  told[0x0112] = orientation
  data = data_files.encode(2, size=(90, 60), kind=kind, exif=told)
  data_files.add_split(tmp_path, "cars", "test", 1)
  (tmp_path / "images/cars/test/0.jpg").write_bytes(data)
  data_files.prepare(tmp_path)
  pictures = gallery.Pictures(tmp_path, exif=True)
  turned = exif.turn_array(formats.decode(data), orientation)
  expected = np.asarray(Image.fromarray(turned).convert("RGB"))
  picture = seen(pictures.read(image(0)))
  assert picture.shape == expected.shape
  assert np.abs(picture.astype(int) - expected).mean() < 6
  if kind != "TIFF":  # which Pillow turns in any case
    picture = seen(gallery.Pictures(tmp_path).read(image(0)))
    distance = picture.astype(int) - formats.decode(data)
    assert np.abs(distance).mean() < 6


def test_pictures_of_own_domains_lie_where_these_do(root, tmp_path):
  """One with records of its own, beside one of UnED."""
  other = tmp_path / "elsewhere"
  data_files.add_split(other, "shop", "test", COUNT)
  for i in range(COUNT):
    colour = Image.new("RGB", (30, 20), (50 * (COUNT - 1 - i), 60, 90))
    colour.save(other / f"images/shop/test/{i}.jpg", quality=95)
  data_files.prepare(other)
  own = {"shop": {"records": str(other)}}
  pictures = gallery.Pictures(root, own=own)
  assert shown(pictures) == list(range(COUNT))
  found = [
    position(pictures.read(image(i, domain="shop"))) for i in range(COUNT)
  ]
  assert pictures.problem is None
  assert found == list(range(COUNT))[::-1]
  # Without its description it is looked for beside the others.
  assert gallery.Pictures(root).read(image(0, domain="shop")) is None


@pytest.mark.parametrize(
  "config, turned",
  [
    ({}, False),  # of a run before there was the key
    ({"data": {"exif": None}, "semantics": "default"}, True),
    ({"data": {"exif": None}, "semantics": "official"}, False),
    ({"data": {"exif": True}, "semantics": "official"}, True),
    ({"data": {"exif": False}, "semantics": "default"}, False),
  ],
)
def test_a_report_knows_whether_the_run_turned(config, turned):
  assert page._honours_exif(config) is turned
