"""Images as records hold them: made from files, and back to pixels.

Which ways there are is told in `stores`.

Shape legend: h, w height and width.
"""

import functools
import io
from typing import Any

from jaxtyping import UInt8
import numpy as np
from PIL import Image
import tensorflow as tf

from udon_jax import domains
from udon_jax.data import exif as orientations
from udon_jax.data import formats, preprocess, records, stores

_QUALITY = 95
# Effort of the compression: more makes files a little smaller, much slower.
_WEBP_EFFORT = 0


def encode(data: bytes, store: stores.Store, *, split: str) -> bytes:
  """Returns an image as records hold it.

  Args:
    data: the image file.
    store: how.
    split: its size is that of training, or that of evaluation.

  Raises:
    formats.UnreadableError: it cannot be decoded.
  """
  if store.format is None:
    return data
  is_train = split == domains.TRAIN_SPLIT
  pixels = _resize_fn(is_train, store.side(split), store.exif)(data)
  if store.format == stores.RAW:
    return pixels.tobytes()
  if store.format == stores.JPEG:
    return tf.io.encode_jpeg(
      pixels, quality=_QUALITY, chroma_downsampling=False
    ).numpy()
  file = io.BytesIO()
  Image.fromarray(pixels).save(
    file, "WEBP", lossless=True, quality=0, method=_WEBP_EFFORT
  )
  return file.getvalue()


@functools.cache
def _resize_fn(is_train: bool, side: int, honour_exif: bool | None) -> Any:
  """Returns a function from an image file to resized pixels."""

  def resize(pixels):
    if is_train:
      return preprocess.squash(pixels, size=side, round_pixels=True)
    return preprocess.center(pixels, crop_size=side, round_pixels=True)

  def encoded(data):
    return resize(formats.decode_in_graph(data, exif=bool(honour_exif)))

  from_file = tf.function(
    encoded, input_signature=[tf.TensorSpec([], tf.string)]
  )
  from_pixels = tf.function(
    resize, input_signature=[tf.TensorSpec([None, None, 3], tf.uint8)]
  )

  def run(data: bytes) -> UInt8[np.ndarray, "h w 3"]:
    try:
      return from_file(data).numpy()
    except (tf.errors.OpError, UnicodeDecodeError):
      pixels = formats.decode(data)  # or raises, and says why
      if honour_exif:
        pixels = orientations.turn_array(pixels, orientations.orientation(data))
      return from_pixels(pixels).numpy()

  return run


def decode_in_graph(
  data: tf.Tensor, files: records.RecordFiles, *, exif: bool
) -> tf.Tensor:
  """Returns the pixels [h, w, 3] that a record holds.

  Args:
    data: the image of the record.
    files: where it comes from.
    exif: whether an unchanged image is turned as its EXIF tells.
  """
  side = files.side
  if not side:
    return formats.decode_in_graph(data, exif=exif)
  if files.store.format == stores.RAW:
    return tf.reshape(tf.io.decode_raw(data, tf.uint8), [side, side, 3])
  # Of a WebP it has four axes, which a graph does not know before it runs.
  pixels = tf.io.decode_jpeg(data, channels=3)
  return tf.reshape(pixels, [side, side, 3])


def to_file(data: bytes, files: records.RecordFiles) -> bytes:
  """Returns the image of a record as a file that any program opens."""
  if files.store.format != stores.RAW:
    return data
  side = files.side
  file = io.BytesIO()
  pixels = np.frombuffer(data, np.uint8).reshape(side, side, 3)
  Image.fromarray(pixels).save(file, "PNG", compress_level=1)
  return file.getvalue()
