"""Which libraries decode and resize training images.

  tensorflow   any image, with the pixels of the official code
  opencv       JPEGs by simplejpeg (the same libjpeg-turbo with the same
               options as TensorFlow: the same pixels) and OpenCV's resize,
               whose results are at most one grey level away; twice as fast

What `opencv` cannot read, TensorFlow or Pillow does. Evaluation images and
pixels that are not rounded are always TensorFlow's; bare pixels need neither.

Shape legend: s side of the resized image.
"""

from collections.abc import Callable
import functools
import importlib.util
from typing import TypeAlias

from jaxtyping import Int, UInt8
import numpy as np

from udon_jax import default_config, errors
from udon_jax.data import exif as orientations
from udon_jax.data import formats, records, stores

TENSORFLOW, OPENCV = default_config.DECODERS
Loader: TypeAlias = Callable[[bytes], UInt8[np.ndarray, "s s 3"]]
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


def loader(
  files: records.RecordFiles, *, size: int, exif: bool, decoder: str
) -> Loader | None:
  """Returns what makes uint8 pixels of an encoded training image.

  Args:
    files: where images come from.
    size: height and width of the result; the aspect is not kept.
    exif: whether unchanged images are turned as their EXIF tells.
    decoder: of `default_config.DECODERS`.

  Returns:
    encoded image -> pixels before the crop, which raises an UnreadableError;
    None where TensorFlow is to do it.
  """
  if files.store.format == stores.RAW:
    return functools.partial(_from_raw, side=files.side)
  if decoder == TENSORFLOW:
    return None
  if not files.side:
    return functools.partial(squash, size=size, exif=exif)
  return functools.partial(_from_stored, side=files.side)


def _from_raw(data: bytes, *, side: int) -> UInt8[np.ndarray, "s s 3"]:
  """Returns bare pixels."""
  if len(data) != 3 * side**2:
    raise formats.UnreadableError(f"{len(data)} bytes are no {side} x {side}")
  return np.frombuffer(data, np.uint8).reshape(side, side, 3)


def _from_stored(data: bytes, *, side: int) -> UInt8[np.ndarray, "s s 3"]:
  """Returns the pixels of an image that was resized when records were made."""
  is_jpeg = data.startswith(_JPEG)
  pixels = _decode_jpeg(data) if is_jpeg else _decode_webp(data)
  if pixels is None:
    pixels = formats.decode(data)
  if pixels.shape != (side, side, 3):
    height, width, _ = pixels.shape
    raise formats.UnreadableError(f"{width} x {height} are no {side} x {side}")
  return pixels


def squash(data: bytes, *, size: int, exif: bool) -> UInt8[np.ndarray, "s s 3"]:
  """Returns a training image before its crop, by OpenCV.

  Args:
    data: the encoded image.
    size: height and width of the result; the aspect is not kept.
    exif: whether it is turned as its EXIF orientation tells.

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


def augment(
  image: UInt8[np.ndarray, "h w 3"],
  offset: Int[np.ndarray, "2"],
  flip: bool,
  *,
  crop_size: int,
) -> UInt8[np.ndarray, "s s 3"]:
  """Returns what `preprocess.augment` does, of an array."""
  top, left = offset
  image = image[top : top + crop_size, left : left + crop_size]
  return _mirror()(image) if flip else image


@functools.cache
def _mirror() -> Callable[[np.ndarray], np.ndarray]:
  """Returns what swaps left and right; OpenCV is 30 times as fast."""
  if importlib.util.find_spec("cv2"):
    import cv2

    return lambda image: cv2.flip(image, 1)
  return lambda image: image[:, ::-1]


def _decode_webp(data: bytes) -> UInt8[np.ndarray, "h w 3"] | None:
  """Returns the pixels of a WebP of our own making; None if others must try."""
  import cv2

  pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
  return None if pixels is None else pixels[..., ::-1]


def _decode_jpeg(data: bytes) -> UInt8[np.ndarray, "h w 3"] | None:
  """Returns the pixels of a JPEG; None if others must try."""
  import simplejpeg

  try:
    height, width, colors, _ = simplejpeg.decode_jpeg_header(data)
    if height * width > formats.MAX_PIXELS or colors == "CMYK":
      return None
    return simplejpeg.decode_jpeg(data, "RGB", fastdct=True, fastupsample=False)
  except (ValueError, KeyError):  # damaged, or of an odd kind
    return None
