"""Small arrays that are found once for a record file, and then kept.

They lie beside the file, as `.<file>.<kind>.npy`: hidden, as the official code
reads whatever begins with the file's name. Where that place is read-only, they
lie in a cache, as `<kind>/<hash of the file's path, size and time>.npy`. Four
bytes after the array are the CRC32C of all before. Needs no TensorFlow.

Shape legend: n entries.
"""

from collections.abc import Callable
import contextlib
import functools
import hashlib
import io
import logging
import os
import struct
import uuid

from etils import epath
import google_crc32c
from jaxtyping import Int
import numpy as np

from udon_jax import caches

logger = logging.getLogger(__name__)
OFFSETS = "offsets"
ORDER = "order"
_CRC = struct.Struct("<I")


def beside(file: epath.Path, kind: str) -> epath.Path:
  """Returns where an array lies beside its file."""
  return file.parent / f".{file.name}.{kind}.npy"


def read(
  file: epath.Path, kind: str, *, fits: Callable[[np.ndarray], bool]
) -> Int[np.ndarray, "n"] | None:
  """Returns the array that was kept for a file, or None.

  Args:
    file: the record file.
    kind: OFFSETS or ORDER.
    fits: tells whether an array (one axis, at least one entry) can be of this
      file; others are passed.
  """
  # One in the cache was found for this very version of the file.
  for path in (_cached(file, kind), beside(file, kind)):
    found = None if path is None else _read(path)
    if found is not None and fits(found):
      return found
  return None


def keep(file: epath.Path, kind: str, array: Int[np.ndarray, "n"]) -> None:
  """Writes an array beside its file, or into the cache if that cannot be.

  Where neither can be written, a line of the log says so, once.
  """
  cached = _cached(file, kind)
  try:
    write(file, kind, array)
  except OSError:
    try:
      if cached is None:
        raise
      cached.parent.mkdir(parents=True, exist_ok=True)
      _write(cached, array)
    except OSError:
      _tell_once()
    return
  if cached is not None:
    with contextlib.suppress(OSError):
      cached.unlink(missing_ok=True)


def write(file: epath.Path, kind: str, array: Int[np.ndarray, "n"]) -> None:
  """Writes an array beside its file, whole or not at all.

  Raises:
    OSError: it cannot be written.
  """
  _write(beside(file, kind), array)


def _cached(file: epath.Path, kind: str) -> epath.Path | None:
  """Returns where an array of a file lies in the cache."""
  try:
    if "://" in os.fspath(file):
      status = file.stat()
      path, version = os.fspath(file), f"{status.length}\0{status.mtime}"
    else:
      found = os.stat(file)
      path = os.path.abspath(file)
      version = f"{found.st_size}\0{found.st_mtime_ns}"
  except OSError:
    return None
  digest = hashlib.sha256(os.fsencode(f"{path}\0{version}")).hexdigest()[:32]
  return epath.Path(caches.folder() / kind / f"{digest}.npy")


@functools.cache
def _tell_once() -> None:
  logger.warning(
    "offsets of records cannot be kept, neither beside them nor in %s, and are"
    " found again each time; set %s to a folder that can be written",
    caches.folder(),
    caches.VARIABLE,
  )


def _write(path: epath.Path, array: np.ndarray) -> None:
  buffer = io.BytesIO()
  np.save(buffer, np.asarray(array, np.int64), allow_pickle=False)
  data = buffer.getvalue()
  # Several processes may find the array missing at the same time.
  temporary = path.parent / f".{path.name.lstrip('.')}.{uuid.uuid4().hex}.tmp"
  try:
    temporary.write_bytes(data + _CRC.pack(google_crc32c.value(data)))
    temporary.replace(path)
  except OSError:
    with contextlib.suppress(OSError):
      temporary.unlink(missing_ok=True)
    raise


def _read(path: epath.Path) -> Int[np.ndarray, "n"] | None:
  """Returns what a file holds, or None if that is no such array."""
  try:
    data = path.read_bytes()
    whole, crc = data[: -_CRC.size], data[-_CRC.size :]
    if crc != _CRC.pack(google_crc32c.value(whole)):
      return None
    array = np.load(io.BytesIO(whole), allow_pickle=False)
  except (OSError, ValueError, EOFError):
    return None
  if array.dtype != np.int64 or array.ndim != 1 or not array.size:
    return None
  return array
