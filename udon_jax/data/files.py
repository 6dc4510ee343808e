"""Image files and images in memory, as evaluation sees them.

Shape legend: b images of a batch, s side of an image, h, w height and width.
"""

import collections
from collections.abc import Iterable, Iterator, Mapping, Sequence
import concurrent.futures
import dataclasses
import functools
import itertools
import os
from typing import Any, NamedTuple, TypeAlias

from etils import epath
from jaxtyping import Real
import numpy as np
import tensorflow as tf

from udon_jax import errors
from udon_jax.data import exif as orientations
from udon_jax.data import formats, preprocess

# A path, the bytes of a file, uint8 pixels [h, w, 3], or a PIL image.
Image: TypeAlias = Any
# A larger file is no photograph, and would have to fit in memory.
MAX_BYTES = 2**31
_PATHS_AT_A_TIME = 64


class _View(NamedTuple):
  """What is seen of an image."""

  crop_size: int
  round_pixels: bool
  exif: bool

  def center(self, pixels: tf.Tensor) -> tf.Tensor:
    """Returns the centre of pixels [h, w, 3]."""
    return preprocess.center(
      pixels, crop_size=self.crop_size, round_pixels=self.round_pixels
    )


class Failure(NamedTuple):
  """An image that cannot be read, and why."""

  name: str
  reason: str


@dataclasses.dataclass(frozen=True)
class Batch:
  """Images of consecutive positions.

  Attributes:
    images: their centres; zeros where an image is unreadable, and in rows
      beyond the last one.
    num_images: positions that the batch stands for, at most b.
    failures: the unreadable ones, by row.
  """

  images: Real[np.ndarray, "b s s 3"]
  num_images: int
  failures: Mapping[int, Failure]


def read(
  images: Iterable[Image],
  *,
  crop_size: int,
  round_pixels: bool,
  exif: bool,
  batch_size: int,
  num_threads: int,
) -> Iterator[Batch]:
  """Yields the centre of every image, in order, at least one batch.

  Args:
    images: what to read; at most a few per thread and a batch are in memory.
    crop_size: height and width of the result.
    round_pixels: whether pixels are uint8, or float32 and not rounded.
    exif: whether images are turned as their EXIF orientation tells; arrays
      have none.
    batch_size: rows of every batch.
    num_threads: threads that read and decode.
  """
  view = _View(crop_size, round_pixels, exif)

  def load(numbered):
    number, image = numbered
    try:
      return _center(image, view)
    except formats.UnreadableError as error:
      is_path = isinstance(image, str | os.PathLike)
      name = os.fspath(image) if is_path else f"image {number}"
      return Failure(name, str(error))

  with concurrent.futures.ThreadPoolExecutor(num_threads) as pool:
    found = _in_order(pool, load, enumerate(images), ahead=4 * num_threads)
    for i in itertools.count():
      rows = list(itertools.islice(found, batch_size))
      if rows or not i:
        yield _to_batch(rows, batch_size, view)
      if len(rows) < batch_size:
        return


def _in_order(pool, function, items, *, ahead):
  """Yields function(item) in order, with few items begun or waiting."""
  running: collections.deque[concurrent.futures.Future] = collections.deque()
  for item in items:
    running.append(pool.submit(function, item))
    if len(running) > ahead:
      yield running.popleft().result()
  while running:
    yield running.popleft().result()


def _to_batch(
  rows: Sequence[np.ndarray | Failure], batch_size: int, view: _View
) -> Batch:
  size = view.crop_size
  kind = preprocess.pixel_type(round_pixels=view.round_pixels)
  images = np.zeros((batch_size, size, size, 3), kind)
  failures = {}
  for i, row in enumerate(rows):
    if isinstance(row, Failure):
      failures[i] = row
    else:
      images[i] = row
  return Batch(images, len(rows), failures)


def _center(image: Image, view: _View) -> Real[np.ndarray, "s s 3"]:
  """Returns the centre of one image."""
  if isinstance(image, str | os.PathLike):
    return _center_of_bytes(_read_bytes(image), view)
  if isinstance(image, bytes):
    return _center_of_bytes(image, view)
  if hasattr(image, "convert"):
    formats.check_size(*image.size)
    orientation = orientations.of_image(image)  # before it is loaded
    pixels = formats.to_rgb(image)
    if view.exif:
      pixels = orientations.turn_array(pixels, orientation)
  else:
    pixels = np.asarray(image)
  if pixels.dtype != np.uint8 or pixels.shape[2:] != (3,) or not pixels.size:
    raise errors.UserError(
      f"an image is {pixels.dtype} {pixels.shape}; give a path, the bytes of a "
      "file, uint8 pixels [height, width, 3] or a PIL image"
    )
  return _graphs(view)[1](pixels).numpy()


def _read_bytes(path: epath.PathLike) -> bytes:
  """Returns what a file holds.

  Raises:
    UnreadableError: it cannot be read, or is too large.
  """
  path = epath.Path(path)
  try:
    length = path.stat().length
    if length > MAX_BYTES:
      raise formats.UnreadableError(f"{length} bytes are too many")
    return path.read_bytes()
  except OSError as error:
    raise formats.UnreadableError(error.strerror or str(error)) from error


def _center_of_bytes(data: bytes, view: _View) -> Real[np.ndarray, "s s 3"]:
  """Returns the centre of an encoded image."""
  try:
    return _graphs(view)[0](data).numpy()
  except (tf.errors.OpError, UnicodeDecodeError):
    pixels = formats.decode(data)  # or raises, and says why
    if view.exif:
      pixels = orientations.turn_array(pixels, orientations.orientation(data))
    return _graphs(view)[1](pixels).numpy()


@functools.cache
def _graphs(view: _View) -> tuple[Any, Any]:
  """Returns functions that find the centre of encoded and decoded images."""

  def encoded(data):
    return view.center(formats.decode_in_graph(data, exif=view.exif))

  def decoded(pixels):
    return view.center(pixels)

  return (
    tf.function(encoded, input_signature=[tf.TensorSpec([], tf.string)]),
    tf.function(
      decoded, input_signature=[tf.TensorSpec([None, None, 3], tf.uint8)]
    ),
  )


def read_folder(
  folder: epath.PathLike,
  paths: Sequence[str],
  *,
  start: int,
  crop_size: int,
  round_pixels: bool,
  exif: bool,
  batch_size: int,
  num_threads: int,
) -> Iterator[Batch]:
  """Yields what `read` does of files from a position on, faster.

  Args:
    folder: a local one.
    paths: relative to it.
    start: position of the first file.
    crop_size: height and width of the result.
    round_pixels: whether pixels are uint8, or float32 and not rounded.
    exif: whether images are turned as their EXIF orientation tells; arrays
      have none.
    batch_size: rows of every batch.
    num_threads: threads that read and decode.
  """
  folder = os.fspath(folder)
  view = _View(crop_size, round_pixels, exif)
  found = _readable(
    _dataset(
      folder,
      paths,
      start=start,
      view=view,
      batch_size=batch_size,
      num_threads=num_threads,
    )
  )
  ahead = next(found, None)
  for first in range(start, len(paths), batch_size):
    rows: list[np.ndarray | Failure] = []
    for i in range(first, min(first + batch_size, len(paths))):
      if ahead is not None and ahead[0] == i:
        rows.append(ahead[1])
        ahead = next(found, None)
      else:
        rows.append(_read_slowly(folder, paths[i], view))
    yield _to_batch(rows, batch_size, view)


def _readable(dataset: tf.data.Dataset) -> Iterator[tuple[int, np.ndarray]]:
  for positions, images in dataset.as_numpy_iterator():
    yield from zip(positions.tolist(), images, strict=True)


def _read_slowly(folder: str, path: str, view: _View) -> np.ndarray | Failure:
  """Returns the centre of a file that the graph gave up, or why."""
  try:
    return _center(os.path.join(folder, path), view)
  except formats.UnreadableError as error:
    return Failure(path, str(error))


def _dataset(
  folder: str,
  paths: Sequence[str],
  *,
  start: int,
  view: _View,
  batch_size: int,
  num_threads: int,
) -> tf.data.Dataset:
  """Returns positions and centres of the files that can be read, in batches."""

  def names(begin):
    chunk = [
      os.path.join(folder, path)
      for path in paths[begin : begin + _PATHS_AT_A_TIME]
    ]
    # Names need not be valid text.
    return np.arange(begin, begin + len(chunk)), np.array(
      [os.fsencode(path) if _fits(path) else b"" for path in chunk], object
    )

  def read_names(begin):
    numbers, chunk = tf.numpy_function(
      names, [begin], [tf.int64, tf.string], stateful=False
    )
    return tf.ensure_shape(numbers, [None]), tf.ensure_shape(chunk, [None])

  def load(number, name):
    pixels = formats.decode_in_graph(tf.io.read_file(name), exif=view.exif)
    return number, view.center(pixels)

  dataset = tf.data.Dataset.range(start, len(paths), _PATHS_AT_A_TIME)
  dataset = dataset.map(read_names).unbatch().map(load, num_threads)
  dataset = dataset.ignore_errors().batch(batch_size).prefetch(2)
  settings = tf.data.Options()
  settings.autotune.enabled = False
  settings.deterministic = True
  settings.threading.private_threadpool_size = num_threads
  settings.threading.max_intra_op_parallelism = 1
  return dataset.with_options(settings)


def _fits(path: str) -> bool:
  try:
    return os.stat(path).st_size <= MAX_BYTES
  except OSError:
    return False
