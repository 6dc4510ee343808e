"""From encoded images to pixels in 0..255, for training and for evaluation.

JPEGs are decoded as TensorFlow does by default; resizing is bilinear with
half-pixel centres, without antialiasing, in float32; at the end pixels are
rounded to uint8, or not, as is chosen. Normalisation is left to the device.

Source: official implementation, datasets.py (`_process_train_split`,
`_process_test_split`), which keeps float32 unrounded.

Shape legend: h, w height and width of an image.
"""

from jaxtyping import Float, Int, UInt8
import numpy as np

from udon_jax import errors

try:
  import tensorflow as tf
except ImportError as error:
  raise errors.UserError(
    "TensorFlow, which reads the images, is not installed; run"
    " `pip install 'udon_jax[data]'`"
  ) from error

try:
  # The accelerators belong to JAX.
  tf.config.set_visible_devices([], "GPU")
except RuntimeError as error:
  raise RuntimeError("TensorFlow was set up before udon_jax.data") from error


# Longer images, whose resized form would take 10 MB and more, are only resized
# where it is seen.
_MAX_RATIO = 16


def decode(image_bytes: tf.Tensor) -> tf.Tensor:
  """Returns the uint8 pixels [h, w, 3] of a JPEG, PNG, GIF or WebP image.

  Grey and CMYK images are converted to RGB; EXIF orientation is ignored.

  Raises:
    tf.errors.InvalidArgumentError: the image is damaged or of another kind.
  """
  image = tf.io.decode_jpeg(image_bytes, channels=3)
  # Some formats come with a leading axis of frames.
  return tf.reshape(image, tf.shape(image)[-3:])


def is_readable(image_bytes: bytes) -> bool:
  """Tells whether `decode` can read an image, down to its last row.

  JPEGs are decoded at an eighth of their size, which reads all their bytes.
  """
  try:
    # Its size is known: operations on it would take a third of the time.
    return 0 not in tf.io.decode_jpeg(image_bytes, channels=3, ratio=8).shape
  except (tf.errors.OpError, UnicodeDecodeError):
    return False  # messages may quote the file, and then be no text


def squash(image: tf.Tensor, *, size: int, round_pixels: bool) -> tf.Tensor:
  """Returns an image [size, size, 3] of uint8 pixels; its aspect is not kept.

  Args:
    image: [h, w, 3].
    size: height and width of the result.
    round_pixels: whether pixels are uint8, or float32 and not rounded.
  """
  image = tf.image.resize(image, [size, size])
  return _finish(image, size, round_pixels=round_pixels)


def augment(
  image: tf.Tensor, offset: tf.Tensor, flip: tf.Tensor, *, crop_size: int
) -> tf.Tensor:
  """Returns a crop of a resized training image, mirrored or not.

  Args:
    image: what `squash` returns.
    offset: int32 [2], top and left edge of the crop, in pixels.
    flip: bool, whether to mirror left and right.
    crop_size: height and width of the crop.
  """
  image = image[
    offset[0] : offset[0] + crop_size, offset[1] : offset[1] + crop_size
  ]
  image = tf.cond(
    flip, lambda: tf.reverse(image, [1]), lambda: tf.identity(image)
  )
  return tf.ensure_shape(image, [crop_size, crop_size, 3])


def center(
  image: tf.Tensor, *, crop_size: int, round_pixels: bool
) -> tf.Tensor:
  """Returns the centre of an image, [crop_size, crop_size, 3].

  The smaller side becomes `crop_size`, the other one
  int(ratio * crop_size); the surplus d is cut off from d // 2 on.

  Args:
    image: uint8 pixels [h, w, 3].
    crop_size: height and width of the result.
    round_pixels: whether pixels are uint8, or float32 and not rounded.
  """
  size = tf.shape(image)[:2]
  smaller = tf.reduce_min(size)
  # The division is in float64, as in the official implementation.
  ratios = tf.cast(size, tf.float64) / tf.cast(smaller, tf.float64)
  # int64, as a line of pixels would become longer than int32 counts.
  new_size = tf.cast(ratios * crop_size, tf.int64)
  start = (new_size - crop_size) // 2

  def all_of_it():
    resized = tf.image.resize(image, tf.cast(new_size, tf.int32))
    top, left = tf.unstack(start)
    return resized[top : top + crop_size, left : left + crop_size]

  image = tf.cond(
    tf.reduce_max(new_size) <= _MAX_RATIO * crop_size,
    all_of_it,
    lambda: tf.numpy_function(
      _resized_window,
      [image, new_size, start, crop_size],
      tf.float32,
      stateful=False,
    ),
  )
  return _finish(image, crop_size, round_pixels=round_pixels)


def _resized_window(
  image: UInt8[np.ndarray, "h w 3"],
  new_size: Int[np.ndarray, "2"],
  start: Int[np.ndarray, "2"],
  side: int,
) -> Float[np.ndarray, "s s 3"]:
  """Returns a square of what `tf.image.resize` returns, and makes no more.

  Its arithmetic is that of TensorFlow's resize_bilinear_op.cc, to the bit; in
  NumPy, as TensorFlow rounds otherwise where it rewrites a graph.

  Args:
    image: pixels.
    new_size: height and width of the whole.
    start: top and left edge of the square.
    side: s, its height and width.
  """
  half = np.float32(0.5)
  ends, shares = [], []
  for axis in (0, 1):
    length = image.shape[axis]
    scale = np.float32(length) / np.float32(new_size[axis])
    numbers = (start[axis] + np.arange(side)).astype(np.float32)
    place = (numbers + half) * scale - half
    below = np.floor(place)
    low = np.clip(below.astype(np.int64), 0, length - 1)
    high = np.clip(np.ceil(place).astype(np.int64), 0, length - 1)
    ends.append((low, high))
    shares.append(place - below)
  (top, bottom), (left, right) = ends

  def row(numbers):
    here, there = (
      image[numbers[:, None], columns].astype(np.float32)
      for columns in (left, right)
    )
    return here + (there - here) * shares[1][None, :, None]

  upper = row(top)
  return upper + (row(bottom) - upper) * shares[0][:, None, None]


def _finish(image: tf.Tensor, size: int, *, round_pixels: bool) -> tf.Tensor:
  """Rounds pixels, which lie in 0 .. 255, if wanted; states their shape."""
  if round_pixels:
    image = tf.cast(tf.round(image), tf.uint8)
  return tf.ensure_shape(image, [size, size, 3])


def pixel_type(*, round_pixels: bool) -> np.dtype:
  """Returns the type of pixels, rounded or not."""
  return np.dtype(np.uint8 if round_pixels else np.float32)
