"""Pixels agree with a numpy oracle; every kind of image is decoded."""

import functools
import io

import numpy as np
from PIL import Image
import pytest
import tensorflow as tf

from tests import data_files
from tests.oracles import preprocess as oracle
from udon_jax.data import preprocess

# (45, 32) and (32, 45) leave an odd surplus to cut.
SIZES = [(45, 32), (32, 45), (40, 30), (30, 40), (33, 33), (300, 20)]
SIZES += [(21, 301), (500, 375), (1, 9)]


def decoded(data):
  return preprocess.decode(data).numpy()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("top", "left", "flip"), [(0, 0, 0), (8, 3, 1)])
def test_training_images_agree_with_numpy(size, top, left, flip):
  data = data_files.encode(1, size=size)
  sizes = {"resize_size": 40, "crop_size": 32}
  image = data_files.train_image(
    data,
    tf.constant([top, left]),
    tf.constant(bool(flip)),
    **sizes,
    round_pixels=True,
  ).numpy()
  assert image.dtype == np.uint8
  expected = oracle.train_image(
    decoded(data), top=top, left=left, flip=flip, **sizes
  )
  assert np.abs(image - expected).max() <= 0.501


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("crop_size", [32, 224])
def test_evaluation_images_agree_with_numpy(size, crop_size):
  data = data_files.encode(2, size=size)
  image = data_files.eval_image(
    data, crop_size=crop_size, round_pixels=True
  ).numpy()
  expected = oracle.eval_image(decoded(data), crop_size=crop_size)
  assert image.shape == (crop_size, crop_size, 3)
  assert np.abs(image - expected).max() <= 0.501


def test_the_oracle_resizes_a_ramp_exactly():
  ramp = np.arange(4.0)[None, :, None]
  np.testing.assert_allclose(
    oracle.resize(ramp, 1, 8)[0, :, 0],
    [0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3],
  )


@pytest.mark.parametrize(
  ("mode", "kind", "tolerance"),
  [
    ("RGB", "JPEG", 10),
    ("L", "JPEG", 10),
    ("RGB", "PNG", 0),
    ("L", "PNG", 0),
    ("RGB", "GIF", 60),
    ("RGB", "WEBP", 10),
  ],
)
def test_kinds_of_images(mode, kind, tolerance):
  data = data_files.encode(3, mode=mode, kind=kind)
  assert preprocess.is_readable(data)
  with Image.open(io.BytesIO(data)) as image:
    expected = np.asarray(image.convert("RGB"), int)
  assert np.abs(decoded(data) - expected).max() <= tolerance


def test_cmyk_is_converted():
  # Adobe's CMYK is stored inverted, as PIL writes it.
  data = data_files.encode(3, mode="CMYK", quality=95)
  with Image.open(io.BytesIO(data)) as image:
    cmyk = np.asarray(image, float)
  expected = (255 - cmyk[..., :3]) * (255 - cmyk[..., 3:]) / 255
  assert np.abs(decoded(data) - expected).mean() < 3


def test_exif_orientation_is_ignored():
  image = Image.fromarray(data_files.pixels(0))
  exif = Image.Exif()
  exif[0x0112] = 6
  buffer = io.BytesIO()
  image.save(buffer, "JPEG", exif=exif)
  assert decoded(buffer.getvalue()).shape == (30, 40, 3)


@pytest.mark.parametrize(
  "data",
  [
    b"",
    b"junk",
    data_files.encode(0)[:-2],
    data_files.encode(0)[:200],
    data_files.encode(0, progressive=True)[:-40],
    data_files.encode(0, kind="PNG")[:-80],
    data_files.encode(0, kind="BMP"),
    data_files.encode(0, kind="TIFF"),
  ],
  ids=[
    "empty",
    "junk",
    "cut",
    "cut early",
    "cut progressive",
    "cut png",
    "bmp",
    "tiff",
  ],
)
def test_damaged_images_are_found(data):
  assert not preprocess.is_readable(data)


LONG = [
  (3, 60, 16),
  (60, 3, 16),
  (1, 500, 224),
  (7, 1000, 224),
  (2000, 13, 224),
  (333, 6000, 224),
  (5, 401, 37),
  (2, 20_000, 64),  # positions that float32 rounds by a hundredth of a pixel
]


@pytest.mark.parametrize("height, width, crop_size", LONG)
def test_long_images_are_resized_where_they_are_seen(
  monkeypatch, height, width, crop_size
):
  """To the bit what the official code does, which resizes all of them."""
  image = np.random.default_rng(height).integers(0, 256, (height, width, 3))
  image = tf.constant(image.astype(np.uint8))
  found = {}
  for ratio in (0, 10**9):
    monkeypatch.setattr(preprocess, "_MAX_RATIO", ratio)
    center = tf.function(
      functools.partial(
        preprocess.center, crop_size=crop_size, round_pixels=False
      )
    )
    found[ratio] = center(image).numpy()
  np.testing.assert_array_equal(found[0], found[10**9])


@pytest.mark.parametrize("shape", [(2, 200_000), (200_000, 2), (1, 50_000_000)])
def test_no_length_takes_memory(shape):
  """All of the last one, resized, would be 30 TB."""
  image = np.zeros((*shape, 3), np.uint8)
  # float32 has the place of its middle to a few pixels.
  middle = [slice(max(0, n // 2 - 16), n // 2 + 16) for n in shape]
  image[tuple(middle)] = 200
  found = preprocess.center(
    tf.constant(image), crop_size=224, round_pixels=True
  )
  assert found.shape == (224, 224, 3)
  assert (found.numpy() == 200).any()
