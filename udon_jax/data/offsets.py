"""Where the records of a TFRecord file start: sidecars and framing.

Beside each record file stands `<file>.offsets.npy`, int64 [n + 1]: where
every record starts (framing included) and, last, the size of the file. A
sidecar that is missing or does not fit its file is built again from the
framing. Needs no TensorFlow.

Source: the TFRecord framing (length, masked CRC of the length, data, masked
CRC of the data), as tensorflow/core/lib/io/record_writer.h writes it.

Shape legend: n records of a file.
"""

from collections.abc import Sequence
import contextlib
import io
import os
import struct

from etils import epath
from jaxtyping import Int
import numpy as np

from udon_jax import errors
from udon_jax.data import storage

HEADER_BYTES = 12  # uint64 length, uint32 CRC of the length
FOOTER_BYTES = 4  # uint32 CRC of the data
FRAMING_BYTES = HEADER_BYTES + FOOTER_BYTES
SIDECAR_SUFFIX = ".offsets.npy"


def load(file: epath.PathLike) -> Int[np.ndarray, "n+1"]:
  """Returns the offsets of a record file, from its sidecar where that fits.

  A sidecar that is missing or stale is written anew where the place allows.

  Raises:
    UserError: the file is missing, cut off, or holds no TFRecords.
  """
  file = epath.Path(file)
  size = _size(file)
  sidecar = file.parent / (file.name + SIDECAR_SUFFIX)
  offsets = _read_sidecar(sidecar)
  if offsets is not None and offsets[-1] == size:
    return offsets
  offsets = _scan(file, size)
  # In a read-only place the offsets are found again each time.
  with contextlib.suppress(OSError):
    write(file, offsets)
  return offsets


def write(file: epath.PathLike, offsets: Int[np.ndarray, "n+1"]) -> None:
  """Writes the sidecar of a record file, whole or not at all."""
  file = epath.Path(file)
  buffer = io.BytesIO()
  np.save(buffer, np.asarray(offsets, np.int64), allow_pickle=False)
  # Several processes may find the sidecar missing at the same time.
  temporary = file.parent / f".{file.name}{SIDECAR_SUFFIX}.{os.getpid()}.tmp"
  temporary.write_bytes(buffer.getvalue())
  temporary.replace(file.parent / (file.name + SIDECAR_SUFFIX))


def _size(file: epath.Path) -> int:
  try:
    return file.stat().length
  except FileNotFoundError:
    raise errors.UserError(
      f"{file} is missing; copy it again or prepare the data again"
    ) from None


def _read_sidecar(sidecar: epath.Path) -> Int[np.ndarray, "n+1"] | None:
  """Returns a sidecar's contents, or None if they cannot be offsets."""
  try:
    offsets = np.load(io.BytesIO(sidecar.read_bytes()), allow_pickle=False)
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
  offsets, headers = [0], list[bytes]()
  while offsets[-1] < size:
    header = reader.read(0, offsets[-1], HEADER_BYTES)
    headers.append(header.ljust(HEADER_BYTES, b"\0"))
    (length,) = struct.unpack_from("<Q", headers[-1])
    offsets.append(offsets[-1] + length + FRAMING_BYTES)
    if len(headers) == 1 and not _crcs_agree(headers):
      break
  reader.close()
  if headers and not _crcs_agree(headers[:-1] or headers):
    raise errors.UserError(
      f"{file} is not a TFRecord file (or is compressed, or damaged); delete"
      " it and prepare the data again"
    )
  if offsets[-1] != size or (headers and not _crcs_agree(headers[-1:])):
    raise errors.UserError(
      f"{file} is cut off or damaged: record {len(headers) - 1}, at byte"
      f" {offsets[-2]}, does not end with the file, at byte {size}; copy the"
      " file again, or delete it and prepare the data again"
    )
  return np.array(offsets, np.int64)


def _crcs_agree(headers: Sequence[bytes]) -> bool:
  """Tells whether the CRC of every header's length is right."""
  table: np.ndarray = np.arange(256, dtype=np.uint32)
  for _ in range(8):
    table = table >> 1 ^ (table & 1) * np.uint32(0x82F63B78)
  data = np.frombuffer(b"".join(headers), np.uint8).reshape(-1, HEADER_BYTES)
  crc = np.full(len(data), 2**32 - 1, np.uint32)
  for column in data.T[:8]:
    crc = table[(crc ^ column) & 0xFF] ^ crc >> 8
  crc ^= np.uint32(2**32 - 1)
  masked = (crc >> 15 | crc << 17) + np.uint32(0xA282EAD8)
  expected = np.frombuffer(data[:, 8:].tobytes(), "<u4")
  return bool((masked == expected).all())
