"""The orientation that cameras note in an image, and turning pixels by it.

Source: Exif 2.3, tag 0x0112 (Orientation), values 1 to 8.

Shape legend: h, w height and width of an image.
"""

import io

from jaxtyping import UInt8
import numpy as np
from PIL import Image
import tensorflow as tf

_TAG = 0x0112
UPRIGHT = 1
INVERSE = {6: 8, 8: 6}  # all others are their own
_FORMATS = ("JPEG", "PNG", "WEBP", "TIFF")  # that hold Exif
# A JPEG that has these markers after its first segment holds no Exif, which
# comes before tables, frames and scans.
_JPEG_JFIF, _AFTER_JFIF = b"\xff\xd8\xff\xe0\x00\x10", 20
_NO_EXIF = (b"\xff\xdb", b"\xff\xc0", b"\xff\xc2", b"\xff\xc4", b"\xff\xda")
# Pillow unpacks all of a PNG to look; it finds nothing but in these chunks.
_PNG, _IN_PNG = b"\x89PNG", (b"eXIf", b"Raw profile type exif", b"xmp", b"XMP")


def orientation(data: bytes) -> int:
  """Returns the orientation of an encoded image; 1, upright, if none is told.

  What is no image is upright: whoever decodes it tells.
  """
  if data.startswith(_JPEG_JFIF) and data[20:22] in _NO_EXIF:
    return UPRIGHT
  if data[:2] == b"\xff\xd8" and data[2:4] in _NO_EXIF:
    return UPRIGHT
  if data.startswith(_PNG) and not any(name in data for name in _IN_PNG):
    return UPRIGHT
  try:
    with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
      return _valid(image.getexif().get(_TAG))
  except Exception:  # Pillow's readers raise anything
    return UPRIGHT


def of_image(image: Image.Image) -> int:
  """Returns the orientation of a Pillow image."""
  try:
    return _valid(image.getexif().get(_TAG))
  except Exception:
    return UPRIGHT


def _valid(value: object) -> int:
  return value if isinstance(value, int) and 1 <= value <= 8 else UPRIGHT


def orientation_in_graph(data: tf.Tensor) -> tf.Tensor:
  """Returns what `orientation` does, of most JPEGs without Python."""

  def is_in(start, values):
    found = tf.strings.substr(data, start, 2)
    return tf.reduce_any(tf.equal(found, tf.constant(values)))

  def look():
    value = tf.numpy_function(
      lambda x: np.int32(orientation(x)), [data], tf.int32, stateful=False
    )
    return tf.ensure_shape(value, [])

  # A substring that starts beyond the end is an error.
  is_long = tf.strings.length(data) > _AFTER_JFIF + 2
  head = tf.strings.substr(data, 0, len(_JPEG_JFIF))
  plain = tf.cond(
    is_long,
    lambda: (
      (tf.equal(head, _JPEG_JFIF) & is_in(_AFTER_JFIF, _NO_EXIF))
      | (
        tf.equal(tf.strings.substr(data, 0, 2), b"\xff\xd8")
        & is_in(2, _NO_EXIF)
      )
    ),
    lambda: tf.constant(False),
  )
  return tf.cond(plain, lambda: tf.constant(UPRIGHT), look)


def turn(pixels: tf.Tensor, orientation: tf.Tensor) -> tf.Tensor:
  """Returns pixels [h, w, 3] as they are meant to be seen.

  Args:
    pixels: as they are stored.
    orientation: int32, 1 to 8.
  """

  def turned():
    # From 5 on rows and columns are swapped; then each value says which of
    # the axes run backwards.
    result = tf.cond(
      orientation >= 5,
      lambda: tf.transpose(pixels, [1, 0, 2]),
      lambda: tf.identity(pixels),
    )
    flip_rows = _one_of(orientation, (3, 4, 7, 8))
    flip_columns = _one_of(orientation, (2, 3, 6, 7))
    result = tf.cond(
      flip_rows, lambda: tf.reverse(result, [0]), lambda: tf.identity(result)
    )
    return tf.cond(
      flip_columns, lambda: tf.reverse(result, [1]), lambda: tf.identity(result)
    )

  upright = tf.equal(orientation, UPRIGHT)
  result = tf.cond(upright, lambda: tf.identity(pixels), turned)
  return tf.ensure_shape(result, [None, None, 3])


def turn_array(
  pixels: UInt8[np.ndarray, "h w 3"], orientation: int
) -> UInt8[np.ndarray, "h w 3"]:
  """Returns what `turn` does, of an array."""
  if orientation >= 5:
    pixels = pixels.transpose(1, 0, 2)
  if orientation in (3, 4, 7, 8):
    pixels = pixels[::-1]
  if orientation in (2, 3, 6, 7):
    pixels = pixels[:, ::-1]
  return np.ascontiguousarray(pixels)


def _one_of(value: tf.Tensor, values: tuple[int, ...]) -> tf.Tensor:
  return tf.reduce_any(tf.equal(value, tf.constant(values)))
