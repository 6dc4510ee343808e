"""Decoders give the same training images, to a grey level."""

import dataclasses
import functools
import io

import numpy as np
from PIL import Image, ImageOps
import pytest
import tensorflow as tf

from tests import data_files
from udon_jax import build, errors, trained
from udon_jax.data import dataset, decoders, formats, preprocess

# Pixels of both resizes are rounded; OpenCV's weights have 11 bits.
LEVEL = 1
SIZES = [(500, 375), (256, 256), (40, 30), (31, 700), (1, 1), (257, 3)]


def official(data, size):
  pixels = preprocess.decode(data)
  return preprocess.squash(pixels, size=size, round_pixels=True).numpy()


def photo(seed, size, **options):
  """A JPEG with detail at all scales."""
  rng = np.random.default_rng(seed)
  small = data_files.pixels(seed, size=size).astype(int)
  noisy = np.clip(small + rng.normal(0, 20, small.shape), 0, 255)
  file = io.BytesIO()
  Image.fromarray(noisy.astype(np.uint8)).save(file, "JPEG", **options)
  return file.getvalue()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("side", [256, 64])
@pytest.mark.parametrize("subsampling", [0, 1, 2])
def test_opencv_is_within_a_grey_level(size, side, subsampling):
  data = photo(sum(size), size, quality=90, subsampling=subsampling)
  found = decoders.squash(data, size=side, exif=False)
  difference = np.abs(found.astype(int) - official(data, side))
  assert found.dtype == np.uint8
  assert difference.max() <= LEVEL
  assert difference.mean() < 0.2


@pytest.mark.parametrize(
  "data",
  [
    data_files.encode(1, mode="L"),
    data_files.encode(1, mode="CMYK"),
    data_files.encode(1, kind="PNG"),
    photo(3, (60, 50), progressive=True),
    photo(4, (60, 50), optimize=True, restart_marker_blocks=2),
    data_files.encode(1, kind="WEBP"),
  ],
  ids=["grey", "cmyk", "png", "progressive", "restart", "webp"],
)
def test_other_images_too(data):
  found = decoders.squash(data, size=32, exif=False)
  expected = formats.decode(data)
  expected = preprocess.squash(expected, size=32, round_pixels=True).numpy()
  assert np.abs(found.astype(int) - expected).max() <= LEVEL


@pytest.mark.parametrize("orientation", range(1, 9))
def test_turned_as_exif_tells(orientation):
  exif = Image.Exif()
  exif[0x0112] = orientation
  data = photo(5, (61, 40), exif=exif)
  with Image.open(io.BytesIO(data)) as image:
    upright = ImageOps.exif_transpose(image)
  assert upright.size == ((40, 61) if orientation > 4 else (61, 40))
  pixels = preprocess.decode(data).numpy()
  turned = np.asarray(
    ImageOps.exif_transpose(_with(Image.fromarray(pixels), orientation))
  )
  expected = preprocess.squash(turned, size=32, round_pixels=True).numpy()
  for decoder in ("opencv", "tensorflow"):
    if decoder == "opencv":
      found = decoders.squash(data, size=32, exif=True)
    else:
      decode = tf.function(
        functools.partial(formats.decode_in_graph, exif=True)
      )
      found = decode(tf.constant(data))
      found = preprocess.squash(found, size=32, round_pixels=True).numpy()
    level = LEVEL if decoder == "opencv" else 0
    assert np.abs(found.astype(int) - expected).max() <= level


def _with(image, orientation):
  image.getexif()[0x0112] = orientation
  return image


@pytest.mark.parametrize("cut", [0, 3, 20, 200, -30])
def test_damaged_images_are_refused(cut):
  data = photo(6, (60, 50))[:cut]
  with pytest.raises(formats.UnreadableError):
    decoders.squash(data, size=32, exif=True)


def test_streams_agree(tmp_path):
  for split, count in (("train", 21), ("val", 3), ("test", 3)):
    data_files.add_split(tmp_path, "cars", split, count)
  data_files.prepare(tmp_path)

  def batches(decoder):
    options = dataclasses.replace(data_files.OPTIONS, decoder=decoder)
    (source,), _ = dataset.load(
      tmp_path,
      domains=("cars",),
      batch_size=8,
      eval_batch_size=4,
      seed=0,
      options=options,
    )
    stream = source.open(2)
    return [next(stream) for _ in range(6)]

  for ours, theirs in zip(
    batches("opencv"), batches("tensorflow"), strict=True
  ):
    np.testing.assert_array_equal(ours.labels, theirs.labels)
    difference = ours.images.astype(int) - theirs.images
    assert np.abs(difference).max() <= LEVEL
    assert ours.images.dtype == np.uint8


def test_what_is_not_installed_is_named(monkeypatch):
  monkeypatch.setattr(decoders, "_missing", lambda: ["cv2"])
  assert decoders.choose(None, key="config.data.decoder") == "tensorflow"
  with pytest.raises(errors.UserError, match=r"decoder=opencv needs cv2; run"):
    decoders.choose("opencv", key="config.data.decoder")
  monkeypatch.setattr(decoders, "_missing", list)
  assert decoders.choose(None, key="x") == "opencv"
  assert decoders.choose("tensorflow", key="x") == "tensorflow"


def test_a_run_is_used_where_its_decoder_is_not(tiny_run, monkeypatch):
  real = build.from_json

  def from_json(values):
    config = real(values)
    config.data.decoder = "opencv"
    return config

  monkeypatch.setattr(build, "from_json", from_json)
  monkeypatch.setattr(decoders, "_missing", lambda: ["simplejpeg"])
  config = trained.load(tiny_run).config
  assert trained.reading(config).decoder == "tensorflow"
