"""In which order the records of an evaluation split are those of its list.

The official converter writes them in the order of the info file. To be sure of
it, the keys of all records are read: a few hundred bytes each and about 20 us,
15 s for the 0.76 million of UnED's largest index, 35 s for all 1.7 million
evaluation records, once they are in memory; from a cold disk one or two random
reads each, 16 at a time. What was found is kept beside the records (see
`sidecars`) and used while neither they nor the list change; then, as where
`prepare` wrote the records, 16 keys are looked at.

Shape legend: n records.
"""

import collections
from collections.abc import Sequence
import hashlib
import logging
from typing import NoReturn

from etils import epath
from jaxtyping import Int
import numpy as np

from udon_jax import errors
from udon_jax.data import keys, records, sidecars

logger = logging.getLogger(__name__)
_SAMPLES = 16


def find_order(
  files: records.RecordFiles,
  paths: Sequence[str],
  *,
  trusted: bool,
  where: epath.Path,
  cure: str,
) -> Int[np.ndarray, "n"] | None:
  """Returns which record is of every path, None if record i is of path i.

  Of a path that stands several times, the k-th is the k-th record with it.

  Args:
    files: the records, as many as paths and in the order of their files.
    paths: of the info file.
    trusted: whether they are known to be in order.
    where: the folder of the records, for messages.
    cure: what the user can do, likewise.

  Raises:
    UserError: the keys are not those paths, or a record is damaged.
  """
  if trusted and _sample_agrees(files, paths, None):
    return None
  version = _version(files, paths)
  kept = sidecars.read(
    files.files[0],
    sidecars.ORDER,
    fits=lambda x: x[0] == version and len(x) in (1, 1 + len(paths)),
  )
  if kept is not None:
    order = kept[1:] if len(kept) > 1 else None
    if _sample_agrees(files, paths, order):
      return order
  order = _match(files, paths, where=where, cure=cure)
  found = np.array([version], np.int64)
  if order is not None:
    found = np.append(found, order)
  sidecars.keep(files.files[0], sidecars.ORDER, found)
  return order


def _sample_agrees(
  files: records.RecordFiles,
  paths: Sequence[str],
  order: Int[np.ndarray, "n"] | None,
) -> bool:
  """Tells whether some keys, of the first to the last, are where they must."""
  if order is not None and not (np.sort(order) == np.arange(len(paths))).all():
    return False
  sample = np.linspace(0, len(paths) - 1, _SAMPLES).astype(np.int64)
  return all(
    keys.read(files, int(i if order is None else order[i])) == paths[i]
    for i in np.unique(sample)
  )


def _version(files: records.RecordFiles, paths: Sequence[str]) -> int:
  """Returns a number that changes with the records or the list."""
  digest = hashlib.sha256()
  for file in files.files:
    status = file.stat()
    digest.update(f"{file.name}\0{status.length}\0{status.mtime}\0".encode())
  for path in paths:
    digest.update(path.encode() + b"\0")
  return int.from_bytes(digest.digest()[:7], "big")


def _match(
  files: records.RecordFiles,
  paths: Sequence[str],
  *,
  where: epath.Path,
  cure: str,
) -> Int[np.ndarray, "n"] | None:
  """Does what `find_order` does by reading all keys."""
  found = keys.read_all(files)
  if found == list(paths):
    return None
  # Sorted stably, equal keys keep their order.
  by_key = sorted(range(len(found)), key=found.__getitem__)
  by_path = sorted(range(len(paths)), key=paths.__getitem__)
  for record, number in zip(by_key, by_path, strict=True):
    if found[record] != paths[number]:
      _blame(files, found, paths, where=where, cure=cure)
  order = np.empty(len(paths), np.int64)
  order[by_path] = by_key
  logger.info(
    "%s: the records are not in the order of the info file and are read by"
    " their keys",
    where,
  )
  return order


def _blame(
  files: records.RecordFiles,
  found: Sequence[str],
  paths: Sequence[str],
  *,
  where: epath.Path,
  cure: str,
) -> NoReturn:
  """Raises for keys that are not those of the list."""
  missing = collections.Counter(paths) - collections.Counter(found)
  extra = collections.Counter(found) - collections.Counter(paths)
  record = next(i for i, key in enumerate(found) if key in extra)
  files.read(record)  # or it is damaged
  file, number = files.locate(record)
  raise errors.UserError(
    f"{file}: record {number} is of image {found[record]!r}, which the info"
    f" file does not list as often; {missing.total()} of its"
    f" {len(paths)} images have no record in {where}, the first is"
    f" {next(iter(missing))!r}; {cure}"
  )
