"""Which libraries decode and resize training images.

  tensorflow   any image, with the pixels of the official code
  opencv       JPEGs by simplejpeg (the same libjpeg-turbo with the same
               options as TensorFlow: the same pixels) and OpenCV's resize,
               whose results are at most one grey level away; twice as fast

What `opencv` cannot read, TensorFlow or Pillow does. Evaluation images and
pixels that are not rounded are always TensorFlow's.

Shape legend: s side of the resized image.
"""

import functools
import importlib.util

from jaxtyping import UInt8
import numpy as np
import tensorflow as tf

from udon_jax import default_config, errors
from udon_jax.data import exif as orientations
from udon_jax.data import formats, preprocess

TENSORFLOW, OPENCV = default_config.DECODERS
_LIBRARIES = ("simplejpeg", "cv2")
_JPEG = b"\xff\xd8\xff"


def choose(name: str | None, *, key: str) -> str:
  """Returns the decoder to use.

  Args:
    name: of `default_config.DECODERS`; None takes the fastest one that is
      installed.
    key: what the user set it with, for the message.

  Raises:
    UserError: it is not installed.
  """
  missing = _missing()
  if name is None:
    return TENSORFLOW if missing else OPENCV
  if name == OPENCV and missing:
    raise errors.UserError(
      f"{key}={name} needs {' and '.join(missing)}; run"
      " `pip install 'udon_jax[data,fast]'`, or set tensorflow"
    )
  return name


@functools.cache
def _missing() -> list[str]:
  return [name for name in _LIBRARIES if not importlib.util.find_spec(name)]


def squash_in_graph(
  data: tf.Tensor, *, size: int, exif: bool, decoder: str
) -> tf.Tensor:
  """Returns a training image [size, size, 3] of uint8 pixels, before its crop.

  Args:
    data: the encoded image.
    size: height and width of the result; the aspect is not kept.
    exif: whether it is turned as its EXIF orientation tells.
    decoder: of `default_config.DECODERS`.

  Raises (when it runs):
    tf.errors.OpError: the image cannot be read.
  """
  if decoder == TENSORFLOW:
    pixels = formats.decode_in_graph(data, exif=exif)
    return preprocess.squash(pixels, size=size, round_pixels=True)

  def run(data):
    if isinstance(data, np.ndarray):  # outside of graphs
      data = data.item()
    return squash(data, size=size, exif=exif)

  pixels = tf.numpy_function(run, [data], tf.uint8, stateful=False)
  return tf.ensure_shape(pixels, [size, size, 3])


def squash(data: bytes, *, size: int, exif: bool) -> UInt8[np.ndarray, "s s 3"]:
  """Returns what `squash_in_graph` does, by OpenCV.

  Raises:
    UnreadableError: the image cannot be read.
  """
  resize = _resizer()
  pixels = _decode_jpeg(data) if data.startswith(_JPEG) else None
  if pixels is None:
    pixels = formats.decode(data)
  # The result is square, so that it can be turned instead of the image.
  pixels = resize(pixels, size)
  return (
    orientations.turn_array(pixels, orientations.orientation(data))
    if exif
    else pixels
  )


@functools.cache
def _resizer():
  """Returns OpenCV's resize; its own threads would fight the stream's."""
  import cv2

  cv2.setNumThreads(0)
  return lambda pixels, size: cv2.resize(
    pixels, (size, size), interpolation=cv2.INTER_LINEAR
  )


def _decode_jpeg(data: bytes) -> UInt8[np.ndarray, "h w 3"] | None:
  """Returns the pixels of a JPEG; None if others must try."""
  import simplejpeg

  try:
    height, width, colors, _ = simplejpeg.decode_jpeg_header(data)
    if height * width > formats.MAX_PIXELS or colors == "CMYK":
      return None
    return simplejpeg.decode_jpeg(data, "RGB", fastdct=True, fastupsample=False)
  except ValueError:  # damaged, or of an odd kind
    return None
