"""Where the records of a TFRecord file start: sidecars and framing.

Beside each record file stands `<file>.offsets.npy`, int64 [n + 1]: where
every record starts (framing included) and, last, the size of the file; four
bytes after the array are the CRC32C of all before. A sidecar that is missing,
damaged or does not fit its file is built again from the framing. Needs no
TensorFlow.

Source: the TFRecord framing (length, masked CRC of the length, data, masked
CRC of the data), as tensorflow/core/lib/io/record_writer.h writes it.

Shape legend: n records of a file.
"""

from collections.abc import Iterator
import contextlib
import io
import os
import struct

from etils import epath
import google_crc32c
from jaxtyping import Int
import numpy as np

from udon_jax import errors
from udon_jax.data import storage

HEADER_BYTES = 12  # uint64 length, uint32 CRC of the length
FOOTER_BYTES = 4  # uint32 CRC of the data
FRAMING_BYTES = HEADER_BYTES + FOOTER_BYTES
SIDECAR_SUFFIX = ".offsets.npy"
_HEADER = struct.Struct("<QI")
_CRC = struct.Struct("<I")


def load(file: epath.PathLike) -> Int[np.ndarray, "n+1"]:
  """Returns the offsets of a record file, from its sidecar where that fits.

  A sidecar that is missing, damaged or stale is written anew where the place
  allows.

  Raises:
    UserError: the file is missing, cut off, or holds no TFRecords.
  """
  file = epath.Path(file)
  with _readable(file):
    size = file.stat().length
  offsets = _read_sidecar(file.parent / (file.name + SIDECAR_SUFFIX))
  if offsets is not None and offsets[-1] == size:
    return offsets
  return rebuild(file)


def rebuild(file: epath.PathLike) -> Int[np.ndarray, "n+1"]:
  """Returns the offsets that the file itself tells; writes its sidecar anew.

  Raises:
    UserError: the file is missing, cut off, or holds no TFRecords.
  """
  file = epath.Path(file)
  with _readable(file):
    offsets = _scan(file, file.stat().length)
  # In a read-only place the offsets are found again each time.
  with contextlib.suppress(OSError):
    write(file, offsets)
  return offsets


def write(file: epath.PathLike, offsets: Int[np.ndarray, "n+1"]) -> None:
  """Writes the sidecar of a record file, whole or not at all."""
  file = epath.Path(file)
  buffer = io.BytesIO()
  np.save(buffer, np.asarray(offsets, np.int64), allow_pickle=False)
  data = buffer.getvalue()
  # Several processes may find the sidecar missing at the same time.
  temporary = file.parent / f".{file.name}{SIDECAR_SUFFIX}.{os.getpid()}.tmp"
  temporary.write_bytes(data + _CRC.pack(google_crc32c.value(data)))
  temporary.replace(file.parent / (file.name + SIDECAR_SUFFIX))


def header_length(header: bytes) -> int | None:
  """Returns the length of a record's data; None if this is no header."""
  if len(header) < HEADER_BYTES:
    return None
  length, crc = _HEADER.unpack_from(header)
  return length if crc == masked_crc(header[:8]) else None


def masked_crc(data: bytes) -> int:
  """Returns the CRC32C of data as TFRecord files store it."""
  crc = google_crc32c.value(data)
  return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


@contextlib.contextmanager
def _readable(file: epath.Path) -> Iterator[None]:
  """Turns errors of the file system into a `UserError` that names the file."""
  try:
    yield
  except FileNotFoundError:
    raise errors.UserError(
      f"{file} is missing; copy it again or prepare the data again"
    ) from None
  except OSError as error:
    raise errors.UserError(
      f"{file} cannot be read ({error.strerror or error}); make it a readable"
      " file, or delete it and prepare the data again"
    ) from None


def _read_sidecar(sidecar: epath.Path) -> Int[np.ndarray, "n+1"] | None:
  """Returns a sidecar's contents, or None if they cannot be offsets."""
  try:
    data = sidecar.read_bytes()
    whole, crc = data[: -_CRC.size], data[-_CRC.size :]
    if crc != _CRC.pack(google_crc32c.value(whole)):
      return None
    offsets = np.load(io.BytesIO(whole), allow_pickle=False)
  except (OSError, ValueError, EOFError):
    return None
  if offsets.dtype != np.int64 or offsets.ndim != 1 or not offsets.size:
    return None
  if offsets[0] != 0 or (np.diff(offsets) < FRAMING_BYTES).any():
    return None
  return offsets


def _scan(file: epath.Path, size: int) -> Int[np.ndarray, "n+1"]:
  """Returns the offsets of a record file, from the lengths in its framing."""
  reader = storage.PieceReader([file])
  offsets = [0]
  with contextlib.closing(reader):
    while offsets[-1] < size:
      length = header_length(reader.read(0, offsets[-1], HEADER_BYTES))
      if length is None and len(offsets) == 1:
        raise errors.UserError(
          f"{file} is not a TFRecord file (or is compressed, or damaged);"
          " delete it and prepare the data again"
        )
      end = offsets[-1] + FRAMING_BYTES + (length or 0)
      if length is None or end > size:
        raise errors.UserError(
          f"{file} is cut off or damaged: record {len(offsets) - 1}, at byte"
          f" {offsets[-1]} of {size}, is not whole; copy the file again, or"
          " delete it and prepare the data again"
        )
      offsets.append(end)
  return np.array(offsets, np.int64)
