"""Whatever people call an image is trained on as it looks, or named."""

import dataclasses
import functools
import io
import itertools
import logging
import pathlib
import random

import numpy as np
from PIL import Image
import pytest
import tensorflow as tf

from tests import data_files, official_data, test_data_formats
from udon_jax import errors
from udon_jax.data import (
  dataset,
  decoders,
  examples,
  exif,
  files,
  formats,
  preprocess,
)

DECODERS = (decoders.TENSORFLOW, decoders.OPENCV)
SIDE, CROP = 24, 21  # as --store=raw24 has them
OPTIONS = dataclasses.replace(
  data_files.OPTIONS, resize_size=SIDE, crop_size=CROP
)
BATCH = 4


def animation(kind, **options):
  """An image whose second frame is red."""
  frames = [
    Image.fromarray(data_files.pixels(1)),
    Image.new("RGB", (40, 30), "red"),
  ]
  buffer = io.BytesIO()
  frames[0].save(
    buffer, kind, save_all=True, append_images=frames[1:], **options
  )
  return buffer.getvalue()


def wide(kind):
  """An image of 16 bits a pixel."""
  values = data_files.pixels(2)[..., 0].astype(np.uint16) * 257
  return test_data_formats.encode(Image.fromarray(values), kind)


def quantized(kind, **options):
  palette = Image.fromarray(data_files.pixels(3)).quantize(32)
  return test_data_formats.encode(palette, kind, **options)


def wrong_checksum():
  """A PNG that Pillow reads and TensorFlow does not."""
  data = bytearray(data_files.encode(9, kind="PNG"))
  data[data.index(b"IEND") - 5] ^= 1  # the checksum of the pixels
  return bytes(data)


def told(value, **options):
  block = Image.Exif()
  block[0x0112] = value
  return data_files.encode(5, exif=block, **options)


# By names as people give them, in any script.
IMAGES = {
  "grey.jpg": data_files.encode(0, mode="L"),
  "four inks.jpeg": data_files.encode(1, mode="CMYK"),
  "图像/progressive.JPG": data_files.encode(2, progressive=True),
  "ñandú 16 bit.png": wide("PNG"),
  "палитра.png": quantized("PNG"),
  "durchsichtig ß.png": data_files.encode(4, kind="PNG", mode="RGBA"),
  "grey alpha.png": data_files.encode(4, kind="PNG", mode="LA"),
  "شعار.gif": quantized("GIF", transparency=3),
  "動畫.gif": animation("GIF"),
  "moving.webp": animation("WEBP", lossless=True),
  "see-through.webp": data_files.encode(
    6, kind="WEBP", mode="RGBA", lossless=True, exact=True
  ),
  "old.bmp": quantized("BMP"),
  "scan#1.tif": data_files.encode(7, kind="TIFF", mode="CMYK"),
  "scan 16.tiff": wide("TIFF"),
  "turned.jpg": told(6),
  "turned.png": told(8, kind="PNG"),
  "turned.tiff": told(5, kind="TIFF"),
  "one pixel.png": data_files.encode(8, size=(1, 1), kind="PNG"),
  "thread.png": data_files.encode(8, size=(900, 2), kind="PNG"),
  "jpeg, they say.png": data_files.encode(8),
  "wrong checksum.png": wrong_checksum(),
  "%7e'\"[*]?.jpg": data_files.encode(9),
}
BROKEN = test_data_formats.DAMAGED | {
  "web page": b"<!DOCTYPE html><title>404</title>",
  "no first row": data_files.encode(0)[:30],
  "cut webp": data_files.encode(0, kind="WEBP")[:-60],
  "cut gif": data_files.encode(0, kind="GIF", mode="L")[:-100],
  "svg": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
}
BOMBS = test_data_formats.BOMBS


@pytest.fixture
def log(caplog, monkeypatch):
  monkeypatch.setattr(logging.getLogger("udon_jax"), "propagate", True)
  return caplog


def write(root, images, split):
  entries = []
  for i, (name, data) in enumerate(images.items()):
    path = f"cars/{split}/{name}"
    file = pathlib.Path(root) / "images" / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(data)
    entries.append({"path": path, "class_id": i})
  data_files.write_info(root, "cars", split, entries)


@pytest.fixture(scope="module")
def roots(tmp_path_factory):
  """{store: images of all kinds, each a class}."""
  found = {}
  for store in ("original", "raw24"):
    root = found[store] = tmp_path_factory.mktemp(store)
    for split in ("train", "val", "test"):
      write(root, IMAGES, split)
    data_files.prepare(root, store=store)
  return found


def load(root, **changes):
  (source,), tasks = dataset.load(
    root,
    domains=["cars"],
    batch_size=BATCH,
    eval_batch_size=BATCH,
    seed=1,
    options=dataclasses.replace(OPTIONS, **changes),
  )
  return source, tasks


def shown(data):
  """Returns the pixels of an image as it is meant to be seen."""
  return exif.turn_array(formats.decode(data), exif.orientation(data))


@pytest.mark.parametrize("store", ["original", "raw24"])
@pytest.mark.parametrize("decoder", DECODERS)
def test_all_kinds_are_trained_on(roots, decoder, store):
  source, _ = load(roots[store], decoder=decoder)
  count = -(-len(IMAGES) // BATCH)
  numbers, offsets, flips = source._plan(
    np.arange(count * BATCH), bad=frozenset()
  )
  batches = list(itertools.islice(source.open(0), count))
  images = np.concatenate([batch.images for batch in batches])
  labels = np.concatenate([batch.labels for batch in batches])
  assert set(labels) == set(range(len(IMAGES)))
  names = list(IMAGES)
  for i, record in enumerate(numbers.tolist()):
    parts = examples.parse(source.files.read(record))
    assert parts.key == f"cars/train/{names[labels[i]]}"
    pixels = preprocess.squash(
      tf.constant(shown(IMAGES[names[labels[i]]])), size=SIDE, round_pixels=True
    )
    expected = preprocess.augment(pixels, offsets[i], flips[i], crop_size=CROP)
    distance = np.abs(images[i].astype(int) - expected.numpy())
    # OpenCV rounds otherwise when it resizes; bare pixels are not.
    exact = decoder == decoders.TENSORFLOW or store != "original"
    assert distance.max() <= (not exact), names[labels[i]]


@pytest.mark.parametrize("store", ["original", "raw24"])
def test_all_kinds_are_evaluated_as_they_are_extracted(roots, store):
  _, tasks = load(roots[store])
  (task,) = tasks["test"]()
  batches = list(task.query.open())
  images = np.concatenate([batch.images for batch in batches])
  (batch,) = files.read(
    list(IMAGES.values()),
    crop_size=CROP,
    round_pixels=True,
    exif=True,
    batch_size=len(IMAGES),
    num_threads=2,
  )
  assert not batch.failures
  np.testing.assert_array_equal(images[: len(IMAGES)], batch.images)
  paths = [f"cars/test/{name}" for name in IMAGES]
  assert task.query.keys == paths
  (batch,) = files.read_folder(
    roots["original"] / "images",
    paths,
    start=0,
    crop_size=CROP,
    round_pixels=True,
    exif=True,
    batch_size=len(IMAGES),
    num_threads=2,
  )
  assert not batch.failures
  np.testing.assert_array_equal(images[: len(IMAGES)], batch.images)


@pytest.fixture
def peak():
  """Returns by how much memory has grown at most since the test began."""

  def status(key):
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return int(next(x for x in lines if x.startswith(key)).split()[1]) / 1024

  try:
    pathlib.Path("/proc/self/clear_refs").write_text("5")
  except OSError:
    pytest.skip("the peak cannot be reset here")
  before = status("VmRSS")
  return lambda: status("VmHWM") - before


def test_the_peak_is_seen(peak):
  np.ones(200 * 2**17).sum()  # float64
  assert peak() > 190


@pytest.mark.parametrize("store", ["original", "raw24"])
def test_what_is_no_image_is_named_and_never_unpacked(
  tmp_path, log, store, peak
):
  bad = BROKEN | BOMBS
  write(tmp_path, {"good.jpg": data_files.encode(0)} | bad, "val")
  with pytest.raises(
    errors.UserError, match=f"^{len(bad)} images are unusable"
  ) as caught:
    data_files.prepare(tmp_path, store=store)
  assert "\n" not in str(caught.value)
  for name in bad:
    assert f"cars/val/{name} is " in log.text
  assert peak() < 150  # MB; one alone would be 270 or more


@pytest.mark.parametrize("decoder", DECODERS)
def test_training_names_what_another_converter_took(
  tmp_path, log, decoder, peak
):
  bad = BROKEN | BOMBS
  good = {f"{i}.jpg": data_files.encode(i) for i in range(len(bad) + 3)}
  for split in ("train", "val", "test"):
    write(tmp_path, good | bad, split)
  official_data.convert(tmp_path, "cars", splits=("train", "val", "test"))
  source, tasks = load(tmp_path, decoder=decoder)
  with pytest.raises(errors.BadExampleError, match="holds no image that can"):
    list(itertools.islice(source.open(0), len(good)))
  (task,) = tasks["val"]()
  with pytest.raises(errors.UserError, match="holds no image that can"):
    list(task.query.open())
  passing, _ = load(tmp_path, decoder=decoder, max_bad_share=0.5)
  batches = list(itertools.islice(passing.open(0), len(good)))
  labels = np.concatenate([batch.labels for batch in batches])
  assert set(labels) == set(range(len(good)))
  for name in bad:
    said = f"(key 'cars/train/{name}') holds no image that can be decoded"
    assert log.text.count(said) == 1, name
  assert peak() < 150


def damaged(data, drawn):
  data = bytearray(data)
  for _ in range(drawn.randint(1, 3)):
    data[drawn.randrange(min(len(data), 3000))] = drawn.randrange(256)
  if drawn.random() < 0.2:
    data = data[: drawn.randrange(len(data))]
  return bytes(data)


KINDS = {
  "jpeg": data_files.encode(1, size=(60, 50)),
  "progressive": data_files.encode(1, size=(60, 50), progressive=True),
  "grey jpeg": data_files.encode(1, size=(60, 50), mode="L"),
  "cmyk": data_files.encode(1, size=(60, 50), mode="CMYK"),
  "turned": told(6),
  "png": data_files.encode(1, size=(60, 50), kind="PNG"),
  "webp": data_files.encode(1, size=(60, 50), kind="WEBP"),
  "gif": data_files.encode(1, size=(60, 50), kind="GIF", mode="L"),
  "tiff": data_files.encode(1, size=(60, 50), kind="TIFF"),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_all_ways_of_reading_agree_on_what_is_damaged(kind):
  """What is prepared can be trained on, with either decoder, and extracted."""
  drawn = random.Random(kind)
  graph = tf.function(
    functools.partial(formats.decode_in_graph, exif=True),
    input_signature=[tf.TensorSpec([], tf.string)],
  )
  ways = {
    "checked": formats.check,
    "decoded": formats.decode,
    "graph": graph,
    "opencv": functools.partial(decoders.squash, size=8, exif=True),
  }
  outcomes = set()
  for _ in range(400):
    data = damaged(KINDS[kind], drawn)
    outcome = set()
    for way in ways.values():
      try:
        way(data)
        outcome.add(True)
      except (formats.UnreadableError, tf.errors.OpError, UnicodeDecodeError):
        outcome.add(False)
    assert len(outcome) == 1, data
    outcomes |= outcome
    if True in outcome:
      np.testing.assert_array_equal(graph(data), shown(data))
  assert False in outcomes
  assert True in outcomes or kind == "png"  # whose checksums see everything
