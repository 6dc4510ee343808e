"""Where the records of a TFRecord file start.

The offsets are int64 [n + 1]: where every record starts (framing included)
and, last, the size of the file. They are found once, by walking the framing,
and kept (see `sidecars`); what was kept and is damaged or does not fit its
file is found again. Needs no TensorFlow.

Source: the TFRecord framing (length, masked CRC of the length, data, masked
CRC of the data), as tensorflow/core/lib/io/record_writer.h writes it.

Shape legend: n records of a file.
"""

from collections.abc import Iterator
import contextlib
import struct

from etils import epath
import google_crc32c
from jaxtyping import Int
import numpy as np

from udon_jax import errors
from udon_jax.data import sidecars, storage

HEADER_BYTES = 12  # uint64 length, uint32 CRC of the length
FOOTER_BYTES = 4  # uint32 CRC of the data
FRAMING_BYTES = HEADER_BYTES + FOOTER_BYTES
_HEADER = struct.Struct("<QI")
# Read at a time: with larger records the rest of a record is skipped, with
# smaller ones a disk reads on without seeking.
_BLOCK_BYTES = 2**18
_NUM_SAMPLES = 16


def load(file: epath.PathLike) -> Int[np.ndarray, "n+1"]:
  """Returns the offsets of a record file, those that were kept if they fit.

  Raises:
    UserError: the file is missing, cut off, or holds no TFRecords.
  """
  file = epath.Path(file)
  with _readable(file):
    size = file.stat().length
  kept = sidecars.read(
    file, sidecars.OFFSETS, fits=lambda offsets: _fit(offsets, size)
  )
  return rebuild(file) if kept is None else kept


def rebuild(file: epath.PathLike) -> Int[np.ndarray, "n+1"]:
  """Returns the offsets that the file itself tells, and keeps them anew.

  Raises:
    UserError: the file is missing, cut off, or holds no TFRecords.
  """
  file = epath.Path(file)
  with _readable(file):
    offsets = _scan(file, file.stat().length)
  sidecars.keep(file, sidecars.OFFSETS, offsets)
  return offsets


def write(file: epath.PathLike, offsets: Int[np.ndarray, "n+1"]) -> None:
  """Writes the sidecar of a record file, whole or not at all.

  Raises:
    OSError: it cannot be written.
  """
  sidecars.write(epath.Path(file), sidecars.OFFSETS, offsets)


def header_length(data: bytes, start: int = 0) -> int | None:
  """Returns the length that a record's header tells; None if this is none.

  Args:
    data: bytes that hold the header, or fewer.
    start: where in them it starts.
  """
  if len(data) < start + HEADER_BYTES:
    return None
  length, crc = _HEADER.unpack_from(data, start)
  return length if crc == masked_crc(data[start : start + 8]) else None


def frame(data: bytes) -> bytes:
  """Returns a record as it stands in a file.

  TensorFlow's own writer takes ten times as long for checksums.
  """
  length = len(data).to_bytes(8, "little")
  return b"".join(
    (
      length,
      masked_crc(length).to_bytes(4, "little"),
      data,
      masked_crc(data).to_bytes(4, "little"),
    )
  )


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


def _fit(offsets: Int[np.ndarray, "n+1"], size: int) -> bool:
  """Tells whether these can be the offsets of a file of some size."""
  if offsets[0] != 0 or offsets[-1] != size:
    return False
  return not (np.diff(offsets) < FRAMING_BYTES).any()


def _scan(file: epath.Path, size: int) -> Int[np.ndarray, "n+1"]:
  """Returns the offsets of a record file, from the lengths in its framing."""
  reader = storage.PieceReader([file])
  offsets, start = [0], 0
  block, begin = b"", 0  # the bytes of the file from `begin` on
  with contextlib.closing(reader):
    while start < size:
      if start + HEADER_BYTES > begin + len(block):
        block, begin = reader.read(0, start, _BLOCK_BYTES), start
      length = header_length(block, start - begin)
      if length is None or start + FRAMING_BYTES + length > size:
        raise _broken(file, size, offsets, is_header=length is not None)
      start += FRAMING_BYTES + length
      offsets.append(start)
  return np.array(offsets, np.int64)


def _broken(
  file: epath.Path, size: int, offsets: list[int], *, is_header: bool
) -> errors.UserError:
  """Returns the error of a file that holds no record at its last offset."""
  if len(offsets) == 1 and not is_header:
    return errors.UserError(
      f"{file} is not a TFRecord file (or is compressed, or damaged);"
      " delete it and prepare the data again"
    )
  return errors.UserError(
    f"{file} is cut off or damaged: record {len(offsets) - 1}, at byte"
    f" {offsets[-1]} of {size}, is not whole; copy the file again, or"
    " delete it and prepare the data again"
  )


def problem_of_kept(file: epath.PathLike) -> str | None:
  """Returns what is wrong with the offsets that were kept, if anything.

  That there are none is not wrong. Some records, of the first to the last, are
  looked for where the offsets say.

  Raises:
    UserError: the file cannot be read.
  """
  file = epath.Path(file)
  with _readable(file):
    size = file.stat().length
    kept = sidecars.read(file, sidecars.OFFSETS, fits=lambda _: True)
    if kept is None:
      damaged = sidecars.beside(file, sidecars.OFFSETS).exists()
      return "are damaged" if damaged else None
    if not _fit(kept, size):
      return f"are not of a file of {size} bytes"
    count = len(kept) - 1
    sample = np.unique(
      np.linspace(0, max(count - 1, 0), _NUM_SAMPLES, dtype=int)
    )
    with contextlib.closing(storage.PieceReader([file])) as reader:
      for record in sample[:count]:
        start, end = kept[record : record + 2].tolist()
        header = reader.read(0, start, HEADER_BYTES)
        if header_length(header) != end - start - FRAMING_BYTES:
          return f"tell of a record {record} at byte {start}, where none starts"
  return None
