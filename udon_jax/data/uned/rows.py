"""From the info file of a split to the examples of TensorFlow Datasets.

Everything that runs on workers of Apache Beam is here: this module has one name
in all processes, which the builder has not.
"""

import collections
from collections.abc import Iterator, Mapping, Sequence
from concurrent import futures
import itertools
from typing import Any, NamedTuple

import numpy as np

from udon_jax import domains, errors
from udon_jax.data import image_files, info, layout, order, preprocess

# What reading waits for are disks.
_NUM_THREADS = 16
_AHEAD = 4 * _NUM_THREADS
_NUM_KEYS = 2**128
_TRAIN_SEED = 0


class Row(NamedTuple):
  """An entry of an info file and its place among the records."""

  key: int
  path: str
  class_ids: Sequence[int]


def of_split(
  images: info.SplitInfo, *, domain: str, split: str
) -> Iterator[Row]:
  """Yields the rows of a split in the order of their keys.

  That is the order of the info file, or, of a training split, a random one
  that is always the same. TensorFlow Datasets sorts by keys what it does not
  shuffle, in memory, in 1,000 parts by the upper of 128 bits: keys are spread
  over all parts, where 0, 1, 2, ... would make one of everything.
  """
  total = len(images.paths)
  numbers = np.arange(total)
  if split == domains.TRAIN_SPLIT:
    numbers = order.permute(
      numbers, total, seed=_TRAIN_SEED, epoch=0, domain=domain
    )
  for place, number in enumerate(numbers.tolist()):
    ids = images.labels[number]
    key = place * (_NUM_KEYS // total)
    yield Row(key, images.paths[number], ids[ids >= 0].tolist())


def read(row: Row, place: layout.Layout) -> tuple[int, dict[str, Any]]:
  """Returns the key and the example of a row.

  Raises:
    UserError: the image is missing, or cannot be decoded.
  """
  file = image_files.find(place.images, row.path)
  if file is None:
    raise _missing(place, [row.path])
  try:
    data = file.read_bytes()
  except OSError as error:
    raise errors.UserError(
      f"{file} cannot be read ({error.strerror or error}); make it a readable"
      " file"
    ) from None
  if not preprocess.is_readable(data):
    raise errors.UserError(
      f"{file} is damaged, or no JPEG, PNG, GIF or WebP image; replace it, or"
      " drop its entry in info_files"
    )
  return row.key, {"image": data, "class_id": row.class_ids, "key": row.path}


def examples(
  place: layout.Layout, domain: str, split: str, images: info.SplitInfo
) -> Iterator[tuple[int, dict[str, Any]]]:
  """Yields key and example of every image, in the order of keys.

  Raises:
    UserError: see `read`.
  """
  with futures.ThreadPoolExecutor(_NUM_THREADS) as pool:
    running: collections.deque[futures.Future] = collections.deque()
    waiting = of_split(images, domain=domain, split=split)
    for row in itertools.islice(waiting, _AHEAD):
      running.append(pool.submit(read, row, place))
    while running:
      yield running.popleft().result()
      for row in itertools.islice(waiting, 1):
        running.append(pool.submit(read, row, place))


def transform(place: layout.Layout, domain: str, split: str) -> Any:
  """Returns a Beam transform to key and example of every image.

  The pipeline holds the name of the info file, not its millions of entries: a
  worker reads it, and all share what it lists.
  """
  import apache_beam as beam  # noqa: PLC0415 (optional)

  return (
    beam.Create([str(place.info_file(domain, split))])
    | "List" >> beam.FlatMap(_list, domain=domain, split=split)
    | "Share" >> beam.Reshuffle()
    | "Read" >> beam.Map(read, place=place)
  )


def _list(file: str, *, domain: str, split: str) -> Iterator[Row]:
  images = info.read_info(file, split=split)
  return of_split(images, domain=domain, split=split)


def require_images(
  place: layout.Layout, splits: Mapping[str, info.SplitInfo]
) -> None:
  """Raises a `UserError` if images are missing, before anything is written."""
  paths = [path for images in splits.values() for path in images.paths]

  def is_missing(path):
    return image_files.find(place.images, path) is None

  with futures.ThreadPoolExecutor(_NUM_THREADS) as pool:
    found = pool.map(is_missing, paths)
    missing = [
      path for path, absent in zip(paths, found, strict=True) if absent
    ]
  if missing:
    raise _missing(place, missing)


def _missing(place: layout.Layout, paths: Sequence[str]) -> errors.UserError:
  count = f"{len(paths)} images are" if len(paths) > 1 else "an image is"
  first = ", the first is" if len(paths) > 1 else ":"
  return errors.UserError(
    f"{count} missing{first} {place.images / paths[0]}; add them to"
    f" {place.images}, or drop their entries in {place.info_files}"
  )
