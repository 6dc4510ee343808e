"""Reads every image of a split: checksums, contents, and what they hash to.

Images come from the records where there are any, and from their files where
there are none. Needs TensorFlow, which decodes them.

Shape legend: n images of a split, r records of it, w a hash as two words.
"""

from collections.abc import Callable
from concurrent import futures
import contextlib
import dataclasses
from typing import NamedTuple

from jaxtyping import Bool, UInt64
import numpy as np

from udon_jax import domains, errors
from udon_jax.data import examples, image_files, keys, records
from udon_jax.data.verification import (
  agreement,
  digests,
  findings,
  infos,
  missing,
)

_CHUNK = 64
_NONE = bytes(digests.SIZE)
_UNDECODABLE = "is damaged, or no JPEG, PNG, GIF or WebP image"

Progress = Callable[[int], object]


@dataclasses.dataclass(frozen=True)
class Contents:
  """The hashes of a split's images.

  Attributes:
    hashes: of the encoded bytes of every image.
    known: of which images they are known.
    found: what was found while they were read.
  """

  hashes: UInt64[np.ndarray, "n w"]
  known: Bool[np.ndarray, "n"]
  found: list[findings.Group]


class _Item(NamedTuple):
  """What was read of one image; hashes are `_NONE` where it was not.

  Attributes:
    path: hash of its path.
    labelled: hash of its path and classes.
    contents: hash of the encoded image.
    problem: what is wrong, if anything.
  """

  path: bytes = _NONE
  labelled: bytes = _NONE
  contents: bytes = _NONE
  problem: findings.Finding | None = None


class _Items(NamedTuple):
  """What was read of all images of a split, likewise; zeros for `_NONE`."""

  path: UInt64[np.ndarray, "r w"]
  labelled: UInt64[np.ndarray, "r w"]
  contents: UInt64[np.ndarray, "r w"]
  problems: list[findings.Finding]


def read_records(
  split: infos.Split,
  files: records.RecordFiles,
  *,
  num_workers: int,
  progress: Progress,
) -> Contents:
  """Reads all records of a split, and compares them with its info file.

  Args:
    split: the split.
    files: its records.
    num_workers: threads that read and decode.
    progress: called with numbers of images that were read.
  """
  items = _read_all(
    lambda record: _read_record(split, files, record),
    len(files),
    num_workers=num_workers,
    progress=progress,
  )
  rows, found = agreement.check(
    split, files, paths=items.path, labelled=items.labelled
  )
  hashes = np.zeros((len(split.paths), 2), np.uint64)
  hashes[rows[rows >= 0]] = items.contents[rows >= 0]
  found = findings.several(items.problems) + found
  return Contents(hashes, _are_known(hashes), found)


def read_files(
  split: infos.Split, *, num_workers: int, progress: Progress
) -> Contents:
  """Reads all image files of a split.

  Args:
    split: the split.
    num_workers: threads that read and decode.
    progress: called with numbers of images that were read.
  """
  items = _read_all(
    lambda row: _read_file(split, row),
    len(split.paths),
    num_workers=num_workers,
    progress=progress,
  )
  absent = np.flatnonzero(~items.path.any(1))
  found = findings.several(items.problems) + missing.tell(split, absent)
  return Contents(items.contents, _are_known(items.contents), found)


def _are_known(hashes: UInt64[np.ndarray, "n w"]) -> Bool[np.ndarray, "n"]:
  """Returns which hashes are not `_NONE`."""
  return (hashes != 0).any(1)


def _read_all(
  read: Callable[[int], _Item],
  count: int,
  *,
  num_workers: int,
  progress: Progress,
) -> _Items:
  """Returns read(i) of all i, in order."""

  def read_some(start: int) -> tuple[list[bytes], list[findings.Finding]]:
    items = [read(i) for i in range(start, min(start + _CHUNK, count))]
    hashes = [b"".join(column) for column in list(zip(*items, strict=True))[:3]]
    return hashes, [item.problem for item in items if item.problem]

  columns: tuple[list[bytes], ...] = ([], [], [])
  problems: list[findings.Finding] = []
  with futures.ThreadPoolExecutor(num_workers) as pool:
    try:
      for hashes, some in pool.map(read_some, range(0, count, _CHUNK)):
        for column, part in zip(columns, hashes, strict=True):
          column.append(part)
        problems += some
        progress(len(hashes[0]) // digests.SIZE)
    except BaseException:  # or the rest would be read before this ends
      pool.shutdown(cancel_futures=True)
      raise
  path, labelled, contents = map(digests.pack, columns)
  return _Items(path, labelled, contents, problems)


def _read_record(
  split: infos.Split, files: records.RecordFiles, record: int
) -> _Item:
  try:
    data = files.read(record)
  except errors.UserError as error:
    key = ""
    with contextlib.suppress(errors.UserError):
      key = keys.read(files, record)
    problem = _of_record(
      findings.DAMAGED, split, files, record, key=key, message=str(error)
    )
    return _Item(path=digests.of_bytes(key.encode()), problem=problem)
  parts = examples.parse(data)
  if parts is None:
    says = "is no serialized tf.train.Example"
    return _Item(problem=_foreign(split, files, record, key="", says=says))
  item = _Item(
    path=digests.of_bytes(parts.key.encode()),
    labelled=agreement.hash_entry(parts.key, np.unique(parts.class_ids)),
  )
  if len(parts.images) != 1:
    says = f"holds {len(parts.images)} images"
    problem = _foreign(split, files, record, key=parts.key, says=says)
    return item._replace(problem=problem)
  if split.name == domains.TRAIN_SPLIT and len(parts.class_ids) != 1:
    says = f"has {len(parts.class_ids)} class ids; training needs one"
    problem = _foreign(split, files, record, key=parts.key, says=says)
    return item._replace(problem=problem)
  image = parts.images[0]
  if not examples.is_readable(image, num_bytes=files.num_bytes):
    file, number = files.locate(record)
    return item._replace(
      problem=_of_record(
        findings.UNREADABLE,
        split,
        files,
        record,
        key=parts.key,
        message=f"{file}: record {number} (key {parts.key!r}) {_UNDECODABLE}",
      )
    )
  return item._replace(contents=digests.of_bytes(image))


def _read_file(split: infos.Split, row: int) -> _Item:
  """Returns what was read of an image file; no path where there is none."""
  path = split.paths[row]
  file = image_files.find(split.place.images, path)
  if file is None:
    return _Item()
  item = _Item(path=digests.of_bytes(path.encode()))
  try:
    image = file.read_bytes()
    problem = None if examples.is_readable(image) else _UNDECODABLE
  except OSError as error:
    problem = f"cannot be read ({error.strerror or error})"
  if problem is None:
    return item._replace(contents=digests.of_bytes(image))
  return item._replace(
    problem=findings.Finding(
      findings.UNREADABLE,
      split.domain,
      split.name,
      split.file,
      row,
      path,
      f"{split.file}: entry {row}: {file} {problem}",
    )
  )


def _of_record(
  kind: str,
  split: infos.Split,
  files: records.RecordFiles,
  record: int,
  *,
  key: str,
  message: str,
) -> findings.Finding:
  file, number = files.locate(record)
  return findings.Finding(
    kind, split.domain, split.name, str(file), number, key or None, message
  )


def _foreign(
  split: infos.Split,
  files: records.RecordFiles,
  record: int,
  *,
  key: str,
  says: str,
) -> findings.Finding:
  """Returns the finding of a record that is not of the info file."""
  file, number = files.locate(record)
  message = f"{file}: record {number} (key {key!r}) {says}"
  return _of_record(
    findings.OTHER, split, files, record, key=key, message=message
  )
