"""From the bytes of any common image format to pixels.

TensorFlow decodes what it can, JPEGs alone, so that an image has the pixels of
the official code; Pillow decodes the rest: BMP, TIFF, animations (their first
frame), WebP with alpha, PNGs of wrong checksums. Both drop transparency: the
colours stored beneath it count, and in GIFs, which store none, black. 16 bits
become 8 by their upper byte. EXIF orientation is ignored.

Shape legend: h, w height and width of an image.
"""

import io
import warnings

from jaxtyping import UInt8
import numpy as np
from PIL import Image
import tensorflow as tf

from udon_jax.data import exif as orientations
from udon_jax.data import preprocess

# Pillow's own limit, for all: a small file can unpack to any size.
MAX_PIXELS = 178_956_970
SUFFIXES = (
  ".jpg",
  ".jpeg",
  ".jpe",
  ".jfif",
  ".png",
  ".gif",
  ".webp",
  ".bmp",
  ".dib",
  ".tif",
  ".tiff",
)
_FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "DIB", "TIFF")
# TensorFlow's BMP decoder shows palette numbers as grey.
_OF_TENSORFLOW = ("PNG", "GIF", "WEBP")
_JPEG = b"\xff\xd8\xff"

Image.init()  # before threads come
# It tells of sizes below the limit, and of odd metadata.
warnings.filterwarnings("ignore", module=r"PIL\.")
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


class UnreadableError(ValueError):
  """An image cannot be decoded; says why in a few words."""


def decode(data: bytes) -> UInt8[np.ndarray, "h w 3"]:
  """Returns the pixels of an encoded image.

  Raises:
    UnreadableError: it is damaged, too large, or of an unknown kind.
  """
  if not data:
    raise UnreadableError("the file is empty")
  if data.startswith(_JPEG):
    return _decode_jpeg(data)
  try:
    with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
      check_size(*image.size)
      if _is_for_tensorflow(image):
        try:
          return preprocess.decode(data).numpy()
        except (tf.errors.OpError, UnicodeDecodeError):
          pass  # messages may quote the file, and then be no text
      return to_rgb(image)
  except UnreadableError:
    raise
  except Image.UnidentifiedImageError as error:
    raise UnreadableError("no known image format") from error
  except Image.DecompressionBombError as error:
    raise UnreadableError(f"more than {MAX_PIXELS} pixels") from error
  except Exception as error:
    # Pillow's readers raise whatever a damaged file leads them to.
    message = " ".join(str(error).split()) or type(error).__name__
    raise UnreadableError(message) from error


def _decode_jpeg(data: bytes) -> UInt8[np.ndarray, "h w 3"]:
  """Returns the pixels that streams see, which decode it without Python."""
  try:
    height, width, _ = tf.io.extract_jpeg_shape(data).numpy().tolist()
    check_size(width, height)
    return preprocess.decode(data).numpy()
  except (tf.errors.OpError, UnicodeDecodeError):
    # Messages may quote the file, and then be no text.
    raise UnreadableError("a JPEG that is cut off or broken") from None


def check(data: bytes) -> None:
  """Raises the UnreadableError that `decode` does, sooner for a JPEG."""
  if not (_is_small_jpeg(data) and preprocess.is_readable(data)):
    decode(data)


def is_readable(data: bytes) -> bool:
  """Tells whether `decode` can read an image, to its last byte."""
  try:
    check(data)
    return True
  except UnreadableError:
    return False


def _is_small_jpeg(data: bytes) -> bool:
  """Tells whether an image is a JPEG whose header's size is within the limit.

  What it claims beyond would be allocated before it turns out to be missing.
  """
  if not data.startswith(_JPEG):
    return False
  try:
    height, width, _ = tf.io.extract_jpeg_shape(data).numpy().tolist()
  except (tf.errors.OpError, UnicodeDecodeError):
    return False
  return 0 < width * height <= MAX_PIXELS


def decode_in_graph(data: tf.Tensor, *, exif: bool) -> tf.Tensor:
  """Returns what `decode` does, as a tensor; of JPEGs without Python.

  Args:
    data: the encoded image.
    exif: whether it is turned as its EXIF orientation tells.

  Raises (when it runs):
    tf.errors.OpError: `decode` may know a way, or the reason.
  """
  pixels = tf.cond(
    tf.equal(tf.strings.substr(data, 0, len(_JPEG)), _JPEG),
    lambda: _decode_small(data, tf.io.extract_jpeg_shape(data)[:2]),
    lambda: tf.numpy_function(decode, [data], tf.uint8),
  )
  pixels = tf.ensure_shape(pixels, [None, None, 3])
  if exif:
    return orientations.turn(pixels, orientations.orientation_in_graph(data))
  return pixels


def _decode_small(data: tf.Tensor, size: tf.Tensor) -> tf.Tensor:
  """Decodes with TensorFlow if the header's size is within the limit."""
  pixels = tf.reduce_prod(tf.cast(size, tf.int64))
  check = tf.debugging.Assert((pixels > 0) & (pixels <= MAX_PIXELS), [pixels])
  with tf.control_dependencies([check]):
    return preprocess.decode(tf.identity(data))


def kind(data: bytes) -> str | None:
  """Returns the format of an encoded image, as Pillow names it, if known."""
  try:
    with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
      return image.format
  except Exception:  # Pillow's readers raise anything
    return None


def check_size(width: int, height: int) -> None:
  """Raises an UnreadableError for an image of too many pixels."""
  if width * height > MAX_PIXELS:
    raise UnreadableError(
      f"{width} x {height} are more than {MAX_PIXELS} pixels"
    )


def _is_for_tensorflow(image: Image.Image) -> bool:
  # Of an animated GIF it would unpack every frame, only to refuse it.
  animated = image.format == "GIF" and getattr(image, "is_animated", False)
  return image.format in _OF_TENSORFLOW and not animated


def to_rgb(image: Image.Image) -> UInt8[np.ndarray, "h w 3"]:
  """Returns the pixels of (the first frame of) a Pillow image.

  Raises:
    UnreadableError: its values have no known range.
  """
  if image.format == "TIFF":
    # Pillow turns these alone by itself.
    turned = orientations.of_image(image)
    return orientations.turn_array(
      _to_rgb(image), orientations.INVERSE.get(turned, turned)
    )
  return _to_rgb(image)


def _to_rgb(image: Image.Image) -> UInt8[np.ndarray, "h w 3"]:
  if image.mode in ("I", "F"):
    raise UnreadableError("32 bits a pixel have no known range; convert it")
  if image.mode.startswith("I;16"):
    grey = (np.asarray(image) >> 8).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=2)
  if image.format == "GIF":
    rgba = np.asarray(image.convert("RGBA"))
    return np.where(rgba[..., 3:] > 0, rgba[..., :3], np.uint8(0))
  if image.mode in ("La", "RGBa"):
    image = image.convert({"La": "LA", "RGBa": "RGBA"}[image.mode])
  return np.asarray(image.convert("RGB"))
