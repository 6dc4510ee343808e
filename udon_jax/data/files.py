"""Image files and images in memory, as evaluation sees them."""

from collections.abc import Iterable, Iterator, Sequence
import concurrent.futures
import os
from typing import Any, TypeAlias

from etils import epath
from jaxtyping import UInt8
import numpy as np
import tensorflow as tf

from udon_jax import errors
from udon_jax.data import preprocess

SUFFIXES = (".jpg", ".jpeg", ".png", ".gif", ".webp")
# A path, the bytes of a file, uint8 pixels [h, w, 3], or a PIL image.
Image: TypeAlias = Any


def find(folder: epath.PathLike) -> list[str]:
  """Returns the images below a folder: relative paths, sorted.

  Raises:
    UserError: there is no such folder, or no image in it.
  """
  root = epath.Path(folder)
  if not root.is_dir():
    raise errors.UserError(f"--images={folder} is no folder; correct the path")
  found = sorted(
    os.path.relpath(os.path.join(place, name), root)
    for place, _, names in os.walk(root)
    for name in names
    if name.lower().endswith(SUFFIXES)
  )
  if not found:
    raise errors.UserError(
      f"--images={folder} holds no image; known are {', '.join(SUFFIXES)}"
    )
  return found


def read(
  images: Iterable[Image], *, crop_size: int, num_threads: int
) -> Iterator[UInt8[np.ndarray, "s s 3"] | None]:
  """Yields the centre of every image, in order; None for an unreadable one.

  Args:
    images: what to read; at most a few per thread are read ahead.
    crop_size: height and width of the result.
    num_threads: threads that read and decode.
  """

  def load(image):
    try:
      return _center(image, crop_size)
    except (OSError, tf.errors.OpError):
      return None

  with concurrent.futures.ThreadPoolExecutor(num_threads) as pool:
    ahead: list[concurrent.futures.Future] = []
    for image in images:
      ahead.append(pool.submit(load, image))
      if len(ahead) > 4 * num_threads:
        yield ahead.pop(0).result()
    for future in ahead:
      yield future.result()


def _center(image: Image, crop_size: int) -> UInt8[np.ndarray, "s s 3"]:
  """Returns the centre of one image."""
  if isinstance(image, str | os.PathLike):
    image = epath.Path(image).read_bytes()
  if isinstance(image, bytes):
    return preprocess.eval_image(image, crop_size=crop_size).numpy()
  if hasattr(image, "convert"):
    image = image.convert("RGB")
  pixels = np.asarray(image)
  if pixels.dtype != np.uint8 or pixels.shape[2:] != (3,):
    raise errors.UserError(
      f"an image is {pixels.dtype} {pixels.shape}; give a path, the bytes of a "
      "file, uint8 pixels [height, width, 3] or a PIL image"
    )
  return preprocess.center(pixels, crop_size=crop_size).numpy()


def pad(
  rows: Sequence[UInt8[np.ndarray, "s s 3"]], batch_size: int, crop_size: int
) -> UInt8[np.ndarray, "b s s 3"]:
  """Returns up to `batch_size` rows as one batch, filled up with zeros."""
  batch = np.zeros((batch_size, crop_size, crop_size, 3), np.uint8)
  for i, row in enumerate(rows):
    batch[i] = row
  return batch
