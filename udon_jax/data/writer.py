"""Writes the records of one split: all of them and then in place, or none."""

import collections
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent import futures
import contextlib
import dataclasses
import logging
import time

from etils import epath
import numpy as np
import tensorflow as tf

from udon_jax import domains, errors
from udon_jax.data import (
  examples,
  info,
  layout,
  metadata,
  offsets,
  order,
  preprocess,
  records,
)

_LOGGER = logging.getLogger("udon_jax.data.prepare")
_PROGRESS_SECONDS = 10.0
_IMAGES_PER_SHARD = 10_000


@dataclasses.dataclass(frozen=True)
class Job:
  """A split whose records are to be written.

  Attributes:
    domain: name of the domain.
    split: name of the split.
    images: contents of its info file.
    info_fingerprint: hash of its info file.
    files: where every image lies; None where it is missing.
  """

  domain: str
  split: str
  images: info.SplitInfo
  info_fingerprint: str
  files: Sequence[epath.Path | None]

  @property
  def name(self) -> str:
    """Returns a name for messages."""
    return f"{self.domain}/{self.split}"


def default_num_shards(num_images: int) -> int:
  """Returns how many shards a training split is cut into by default."""
  return -(-num_images // _IMAGES_PER_SHARD)


def write_split(
  place: layout.Layout,
  job: Job,
  *,
  num_shards: int | None,
  num_workers: int,
  seed: int,
) -> list[str]:
  """Writes records, sidecars and metadata of a split.

  Everything is written into a hidden folder beside the split's own, which
  takes its place at the end. Training images are shuffled over the shards;
  evaluation images keep the order of the info file, in one file.

  Args:
    place: where the data lies.
    job: what to write.
    num_shards: shards of a training split; None for a default.
    num_workers: threads that read and check images.
    seed: seed of the shuffle.

  Returns:
    Problems, each naming an image. If there are any, nothing is written.

  Raises:
    UserError: the place cannot be written.
  """
  folder = place.records(job.domain, job.split)
  temporary = folder.parent / f".{job.split}.tmp"
  try:
    temporary.rmtree(missing_ok=True)
    temporary.mkdir(parents=True)
    problems = _write_files(
      temporary,
      job,
      num_shards=num_shards,
      num_workers=num_workers,
      seed=seed,
    )
    if not problems:
      _replace_folder(temporary, folder)
  except (OSError, tf.errors.OpError) as error:
    raise errors.UserError(
      f"{folder} cannot be written ({_reason(error)}); make room and a folder"
      " there that you may write to, and run the same command again"
    ) from error
  finally:
    with contextlib.suppress(OSError):
      temporary.rmtree(missing_ok=True)
  return problems


def _reason(error: Exception) -> str:
  """Returns why a file could not be written, in the system's words."""
  if isinstance(error, tf.errors.OpError):
    return error.message
  return getattr(error, "strerror", None) or str(error)


def _replace_folder(source: epath.Path, target: epath.Path) -> None:
  """Puts a complete folder in the place of another, which may not exist."""
  old = target.parent / f".{target.name}.old"
  old.rmtree(missing_ok=True)
  if target.is_dir():
    target.rename(old)
  source.rename(target)
  old.rmtree(missing_ok=True)


def _write_files(
  folder: epath.Path,
  job: Job,
  *,
  num_shards: int | None,
  num_workers: int,
  seed: int,
) -> list[str]:
  """Writes all files of a split into a folder; returns the problems."""
  total = len(job.files)
  numbers = np.arange(total)
  base = records.file_name(job.domain, job.split)
  names = [base]
  if job.split == domains.TRAIN_SPLIT:
    numbers = order.permute(
      numbers, total, seed=seed, epoch=0, domain=job.domain
    )
    count = min(num_shards or default_num_shards(total), total)
    names = [
      records.shard_name(base, shard=shard, num_shards=count)
      for shard in range(count)
    ]
  shards = np.array_split(numbers, len(names))
  problems: list[str] = []
  with futures.ThreadPoolExecutor(num_workers) as pool:
    contents = _map_in_order(
      pool,
      lambda number: _read_image(job.files[number]),
      numbers,
      window=4 * num_workers,
    )
    stream = _with_progress(contents, job.name, total)
    for name, shard in zip(names, shards, strict=True):
      _write_shard(folder / name, job, shard, stream, problems)
  if not problems:
    written = records.RecordFiles([folder / name for name in names])
    description = metadata.describe(
      written,
      num_classes=job.images.num_classes,
      info_fingerprint=job.info_fingerprint,
      in_order=True,
    )
    metadata.write(folder, description)
  return problems


def _write_shard(
  file: epath.Path,
  job: Job,
  numbers: np.ndarray,
  contents: Iterator[tuple[bytes, str | None]],
  problems: list[str],
) -> None:
  """Writes one record file and its sidecar, or only collects problems."""
  starts = [0]
  with tf.io.TFRecordWriter(str(file)) as writer:
    for number, (image_bytes, problem) in zip(numbers, contents, strict=False):
      if problem:
        problems.append(f"{job.name}: {job.files[number]} {problem}")
      if problems:
        continue
      ids = job.images.labels[number]
      data = examples.serialize(
        image_bytes=image_bytes,
        class_ids=ids[ids >= 0].tolist(),
        key=job.images.paths[number],
      )
      writer.write(data)
      starts.append(starts[-1] + len(data) + offsets.FRAMING_BYTES)
  if not problems:
    offsets.write(file, np.array(starts))


def _read_image(file: epath.Path | None) -> tuple[bytes, str | None]:
  """Returns the bytes of an image and what is wrong with them, if anything."""
  assert file is not None, "missing images are reported before"
  try:
    data = file.read_bytes()
  except OSError as error:
    return b"", f"cannot be read ({error.strerror})"
  if not data:
    return data, "is empty"
  if not preprocess.is_readable(data):
    return data, "is damaged, or no JPEG, PNG, GIF or WebP image"
  return data, None


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


def _with_progress(contents: Iterator, name: str, total: int) -> Iterator:
  """Passes items on; says every few seconds how far it is."""
  begin = last = time.monotonic()
  for count, item in enumerate(contents, 1):
    yield item
    now = time.monotonic()
    if now - last >= _PROGRESS_SECONDS:
      last = now
      speed = count / (now - begin)
      _LOGGER.info(
        "%s: %d of %d images, %.0f images/s, %.0f s left",
        name,
        count,
        total,
        speed,
        (total - count) / speed,
      )
