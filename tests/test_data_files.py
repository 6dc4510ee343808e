"""Images are read in order, few at a time, whatever else lies among them."""

import numpy as np
from PIL import Image
import pytest

from tests import data_files
from udon_jax.data import files, formats, preprocess

SIZE = 16
OPTIONS = {"crop_size": SIZE, "round_pixels": True, "exif": True}
NUM_FILES = 53
UNREADABLE = {0: "gone", 7: "text", 8: "empty", 30: "large", 52: "text"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """Returns a folder and its files: JPEG, BMP, and some that are unreadable."""
  root = tmp_path_factory.mktemp("files")
  paths = []
  for i in range(NUM_FILES):
    kind = "bmp" if i % 5 == 4 else "jpg"
    paths.append(f"{i:02}.{kind}")
    data = data_files.encode(i, kind="JPEG" if kind == "jpg" else "BMP")
    match UNREADABLE.get(i):
      case "gone":
        continue
      case "text":
        data = b"no image"
      case "empty":
        data = b""
      case "large":  # on paper: the file has no content
        with open(root / paths[-1], "wb") as file:
          file.truncate(files.MAX_BYTES + 1)
        continue
    (root / paths[-1]).write_bytes(data)
  return root, paths


def read_folder(folder, start, *, batch_size=8, num_threads=2):
  root, paths = folder
  return list(
    files.read_folder(
      root,
      paths,
      start=start,
      crop_size=SIZE,
      round_pixels=True,
      exif=True,
      batch_size=batch_size,
      num_threads=num_threads,
    )
  )


def joined(batches):
  """Returns images and failures by position."""
  images, failures = [], {}
  for batch in batches:
    for row, failure in batch.failures.items():
      failures[len(images) + row] = failure
    images += list(batch.images[: batch.num_images])
  return np.stack(images), failures


def test_positions_are_those_of_the_paths(folder):
  root, paths = folder
  images, failures = joined(read_folder(folder, 0))
  assert failures.keys() == UNREADABLE.keys()
  for i, path in enumerate(paths):
    if i in UNREADABLE:
      assert failures[i].name == path
      assert not images[i].any()
      continue
    pixels = formats.decode((root / path).read_bytes())
    expected = preprocess.center(
      pixels, crop_size=SIZE, round_pixels=True
    ).numpy()
    np.testing.assert_array_equal(images[i], expected)


@pytest.mark.parametrize("start", [1, 8, 30, 31, 52])
def test_opened_at_a_position_it_goes_on_as_one_that_came_there(folder, start):
  images, failures = joined(read_folder(folder, 0))
  rest, rest_failures = joined(
    read_folder(folder, start, batch_size=5, num_threads=3)
  )
  np.testing.assert_array_equal(rest, images[start:])
  moved = {start + i: failure for i, failure in rest_failures.items()}
  assert moved == {i: f for i, f in failures.items() if i >= start}


def test_all_ways_to_read_are_one(folder):
  root, paths = folder
  images, failures = joined(read_folder(folder, 0))
  full = [root / path for path in paths]
  options = OPTIONS | {"batch_size": 8, "num_threads": 2}
  others, other_failures = joined(files.read(iter(full), **options))
  np.testing.assert_array_equal(others, images)
  assert {i: f.reason for i, f in other_failures.items()} == {
    i: f.reason for i, f in failures.items()
  }


def test_few_images_are_in_memory():
  taken = 0

  def images():
    nonlocal taken
    for i in range(1000):
      taken += 1
      yield np.full((20, 20, 3), i % 256, np.uint8)

  given, most = 0, 0
  options = OPTIONS | {"batch_size": 8, "num_threads": 2}
  for batch in files.read(images(), **options):
    given += batch.num_images
    most = max(most, taken - given)
    assert batch.images[0, 0, 0, 0] == (given - 8) % 256
  assert given == 1000
  assert most <= 4 * 2 + 1


def test_few_files_are_read_ahead(folder, monkeypatch):
  root, _ = folder
  asked = []

  class Paths:
    """A million names of one file; notes which were asked for."""

    def __len__(self):
      return 1_000_000

    def __getitem__(self, key):
      if isinstance(key, slice):
        asked.append(key.stop)
        return ["01.jpg"] * (min(key.stop, len(self)) - key.start)
      raise AssertionError("the graph gave a file up")

  options = OPTIONS | {"batch_size": 8, "num_threads": 2}
  batches = files.read_folder(root, Paths(), start=0, **options)
  for i in range(100):
    assert next(batches).num_images == 8
    ahead = max(asked) - 8 * (i + 1)
    # Two batches ready, two in the making, and names in chunks.
    assert ahead <= 5 * 8 + 2 * files._PATHS_AT_A_TIME
  batches.close()


def test_no_images_are_one_empty_batch():
  options = OPTIONS | {"batch_size": 8, "num_threads": 2}
  (batch,) = files.read([], **options)
  assert batch.num_images == 0
  assert batch.images.shape == (8, SIZE, SIZE, 3)


def test_pillow_images_too_large_are_unreadable():
  image = Image.new("1", (20_000, 20_000))
  options = OPTIONS | {"batch_size": 1, "num_threads": 1}
  (batch,) = files.read([image], **options)
  assert "pixels" in batch.failures[0].reason
