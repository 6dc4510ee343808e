"""Writes the records of one split: all of them and then in place, or none.

What is finished when a writing is killed is kept for the next (see `pieces`).
"""

import collections
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent import futures
import dataclasses
from typing import Any
import zlib

from etils import epath
import numpy as np
import tensorflow as tf

from udon_jax import domains, errors
from udon_jax.data import (
  examples,
  formats,
  image_files,
  info,
  layout,
  metadata,
  offsets,
  order,
  pieces,
  records,
  replacing,
  stores,
  storing,
)

_IMAGES_PER_PIECE = 10_000


@dataclasses.dataclass(frozen=True)
class Job:
  """A split whose records are to be written.

  Attributes:
    domain: name of the domain.
    split: name of the split.
    images: contents of its info file.
    info_fingerprint: hash of its info file.
    folder: that of the images.
    files: every image, relative to it; None where it is missing.
    store: how records hold images.
  """

  domain: str
  split: str
  images: info.SplitInfo
  info_fingerprint: str
  folder: epath.Path
  files: Sequence[str | None]
  store: stores.Store

  @property
  def name(self) -> str:
    """Returns a name for messages."""
    return f"{self.domain}/{self.split}"


def default_num_shards(num_images: int) -> int:
  """Returns how many shards a training split is cut into by default."""
  return -(-num_images // _IMAGES_PER_PIECE)


def read_image(job: Job, number: int) -> tuple[bytes, str | None]:
  """Returns an image as its record holds it, and what is wrong with it, if so.

  Args:
    job: which images.
    number: of the image in the info file.
  """
  path = job.files[number]
  assert path is not None, "missing images are reported before"
  try:
    data = image_files.read(job.folder, path)
  except OSError as error:
    return b"", f"cannot be read ({error.strerror})"
  if not data:
    return data, "is empty"
  try:
    if job.store.format is None:
      formats.check(data)
      return data, None
    return storing.encode(data, job.store, split=job.split), None
  except formats.UnreadableError as error:
    return b"", f"is damaged, or no image that can be read ({error})"


def write_split(
  place: layout.Layout,
  job: Job,
  *,
  num_shards: int | None,
  pool: futures.Executor,
  num_workers: int,
  seed: int,
  on_image: Callable[[int], Any],
) -> list[str]:
  """Writes records, sidecars and metadata of a split.

  Everything is written into a hidden folder beside the split's own, which
  takes its place at the end. Training images are shuffled over the shards;
  evaluation images keep the order of the info file, in one file.

  Args:
    place: where the data lies.
    job: what to write.
    num_shards: shards of a training split; None for a default.
    pool: threads that read and check images.
    num_workers: how many these are.
    seed: seed of the shuffle.
    on_image: called with numbers of images that are done.

  Returns:
    Problems, each naming an image. If there are any, the split is not put in
    place.

  Raises:
    UserError: the place cannot be written.
  """
  folder = place.records(job.domain, job.split)
  try:
    return _write(
      folder,
      job,
      parts=_parts(job, num_shards=num_shards, seed=seed),
      pool=pool,
      window=4 * num_workers,
      on_image=on_image,
    )
  except (OSError, tf.errors.OpError) as error:
    raise errors.UserError(
      f"{folder} cannot be written ({_reason(error)}); make room and a folder"
      " there that you may write to, and run the same command again: it goes on"
      " from here"
    ) from error


def _reason(error: Exception) -> str:
  """Returns why a file could not be written, in the system's words."""
  if isinstance(error, tf.errors.OpError):
    return error.message
  return getattr(error, "strerror", None) or str(error)


def _parts(
  job: Job, *, num_shards: int | None, seed: int
) -> dict[str, np.ndarray]:
  """Returns the numbers of the images of every piece, by its file."""
  total = len(job.files)
  base = records.file_name(job.domain, job.split)
  if job.split == domains.TRAIN_SPLIT:
    numbers = order.permute(
      np.arange(total), total, seed=seed, epoch=0, domain=job.domain
    )
    count = min(num_shards or default_num_shards(total), total)
    names = [
      records.shard_name(base, shard=shard, num_shards=count)
      for shard in range(count)
    ]
  else:
    numbers = np.arange(total)
    names = [f"{base}.piece{i}" for i in range(default_num_shards(total))]
  return dict(zip(names, np.array_split(numbers, len(names)), strict=True))


def _write(
  folder: epath.Path,
  job: Job,
  *,
  parts: dict[str, np.ndarray],
  pool: futures.Executor,
  window: int,
  on_image: Callable[[int], Any],
) -> list[str]:
  """Writes all that is not done yet, and puts it in place; returns problems."""
  temporary = replacing.temporary_of(folder)
  done = pieces.Pieces(
    temporary,
    job=[
      job.info_fingerprint,
      dataclasses.asdict(job.store),
      str(job.folder),
      # All of their numbers, which other seeds order otherwise.
      {name: zlib.crc32(part.tobytes()) for name, part in parts.items()},
    ],
    whole=records.file_name(job.domain, job.split),
  )
  missing = {name: part for name, part in parts.items() if name not in done}
  on_image(len(job.files) - sum(map(len, missing.values())))
  contents = _map_in_order(
    pool,
    lambda number: read_image(job, number),
    (number for part in missing.values() for number in part.tolist()),
    window=window,
  )
  problems: list[str] = []
  for name, numbers in missing.items():
    records_of = _records(
      job, numbers, contents, problems=problems, on_image=on_image
    )
    try:
      done.write(name, records_of)
    except _BadPieceError:
      continue
  if problems:
    done.leave()
    return problems
  _complete(temporary, job, done, list(parts))
  replacing.replace(temporary, folder)
  pieces.finish(folder)
  return []


class _BadPieceError(Exception):
  """A piece cannot be finished, as images of it are unusable."""


def _records(
  job: Job,
  numbers: np.ndarray,
  contents: Iterator[tuple[bytes, str | None]],
  *,
  problems: list[str],
  on_image: Callable[[int], Any],
) -> Iterator[bytes]:
  """Yields the records of a piece until an image is unusable.

  Then all others are looked at too, so that the user sees every problem.

  Raises:
    _BadPieceError: there were problems; they were added to `problems`.
  """
  found = []
  for number in numbers.tolist():
    data, problem = next(contents)
    on_image(1)
    if problem:
      path = job.folder / str(job.files[number])
      found.append(f"{job.name}: {path} {problem}")
    if found:
      continue
    ids = job.images.labels[number]
    yield examples.serialize(
      image_bytes=data,
      class_ids=ids[ids >= 0].tolist(),
      key=job.images.paths[number],
    )
  problems += found
  if found:
    raise _BadPieceError


def _complete(
  folder: epath.Path, job: Job, done: pieces.Pieces, names: Sequence[str]
) -> None:
  """Makes what was written the folder of a split."""
  starts = {name: done.starts(name) for name in names}
  if job.split != domains.TRAIN_SPLIT:
    base = records.file_name(job.domain, job.split)
    done.join(list(names))
    starts = {base: _joined(list(starts.values()))}
  for name, each in starts.items():
    offsets.write(folder / name, each)
  written = records.RecordFiles([folder / name for name in starts])
  written.hold(job.store, split=job.split)
  description = metadata.describe(
    written,
    num_classes=job.images.num_classes,
    info_fingerprint=job.info_fingerprint,
    in_order=True,
  )
  metadata.write(folder, description)


def _joined(starts: Sequence[np.ndarray]) -> np.ndarray:
  """Returns where records start in files that were joined, and their size."""
  ends = np.cumsum([0] + [each[-1] for each in starts])
  moved = [each[:-1] + end for each, end in zip(starts, ends[:-1], strict=True)]
  return np.concatenate([*moved, ends[-1:]])


def _map_in_order(
  pool: futures.Executor,
  fn: Callable[[int], tuple[bytes, str | None]],
  items: Iterable[int],
  *,
  window: int,
) -> Iterator[tuple[bytes, str | None]]:
  """Yields fn(item) in order, with at most `window` items in flight."""
  pending: collections.deque[futures.Future] = collections.deque()
  for item in items:
    pending.append(pool.submit(fn, item))
    if len(pending) >= window:
      yield pending.popleft().result()
  while pending:
    yield pending.popleft().result()
