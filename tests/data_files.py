"""Small images and data directories for the tests of udon_jax.data."""

import io
import json
import pathlib

import numpy as np
from PIL import Image
import tensorflow as tf

from udon_jax.data import jobs, layout, preparation, preprocess, stream

OPTIONS = stream.Options(
  resize_size=20, crop_size=16, round_pixels=True, num_threads=2
)


def train_image(data, offset, flip, *, resize_size, crop_size, round_pixels):
  """What the pipeline makes of an upright training image."""
  image = preprocess.squash(
    preprocess.decode(data), size=resize_size, round_pixels=round_pixels
  )
  return preprocess.augment(image, offset, flip, crop_size=crop_size)


def eval_image(data, **options):
  """What the pipeline makes of an upright evaluation image."""
  return preprocess.center(preprocess.decode(data), **options)


def pixels(seed, *, size=(40, 30), channels=3):
  """Smooth random pixels [h, w, channels] of size (w, h)."""
  rng = np.random.default_rng(seed)
  small = rng.integers(0, 256, (5, 6, channels)).astype(np.uint8)
  planes = [
    np.asarray(Image.fromarray(small[..., c]).resize(size, Image.BICUBIC))
    for c in range(channels)
  ]
  return np.stack(planes, -1)


def encode(seed, *, size=(40, 30), mode="RGB", kind="JPEG", **options):
  """An encoded image."""
  channels = len(Image.new(mode, (1, 1)).getbands())
  array = pixels(seed, size=size, channels=channels)
  image = Image.fromarray(array[..., 0] if channels == 1 else array, mode)
  buffer = io.BytesIO()
  image.save(buffer, kind, **options)
  return buffer.getvalue()


def write_info(root, domain, split, entries):
  file = pathlib.Path(root) / "info_files" / domain / f"{split}.json"
  file.parent.mkdir(parents=True, exist_ok=True)
  file.write_text(json.dumps(entries))
  return file


def add_split(root, domain, split, num_images, *, num_classes=3):
  """Writes images and the info file of a split; returns its entries."""
  entries = []
  for i in range(num_images):
    path = f"{domain}/{split}/{i}.jpg"
    file = pathlib.Path(root) / "images" / path
    file.parent.mkdir(parents=True, exist_ok=True)
    seed = sum(path.encode()) * 1000 + i
    file.write_bytes(encode(seed, size=(30 + i % 7, 44 - i % 5)))
    entries.append({"path": path, "class_id": i % num_classes})
  write_info(root, domain, split, entries)
  return entries


def prepare(root, **overrides):
  """Prepares a data directory; returns its layout."""
  place = overrides.pop("place", None) or layout.find(root)
  given = {"domain_names": None, "own": {}} | overrides
  others = {name: given.pop(name) for name in ("domain_names", "own")}
  options = {"num_shards": 3, "num_workers": 2, "seed": 0} | given
  preparation.prepare(place, options=jobs.Options(**options), **others)
  return place


def write_records(file, records):
  file.parent.mkdir(parents=True, exist_ok=True)
  with tf.io.TFRecordWriter(str(file)) as writer:
    for record in records:
      writer.write(record)


def snapshot(root):
  """Time and contents of every file under tfds/, by its path."""
  return {
    path.relative_to(root): (path.stat().st_mtime_ns, path.read_bytes())
    for path in sorted((pathlib.Path(root) / "tfds").rglob("*"))
    if path.is_file()
  }


def contents(root):
  """Contents of every file under tfds/, by its path."""
  return {path: data for path, (_, data) in snapshot(root).items()}
