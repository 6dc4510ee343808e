"""The keys of records, read without their images.

A key is a few bytes beside an image of thousands: the fields of a record are
walked by their lengths, and what they hold is skipped. Needs no TensorFlow,
but for records of another form than converters write.

Source: the wire format of Protocol Buffers; tensorflow/core/example:
example.proto, feature.proto.

Shape legend: n records.
"""

from collections.abc import Callable
from concurrent import futures

from udon_jax.data import records

_KEY = b"key"
# A key is expected among so many bytes from where it may start.
_PEEK_BYTES = 320
# What threads are for: files that are read from a disk, not from memory.
_NUM_THREADS = 16
_CHUNK = 2048
_MAX_VARINT_BYTES = 10
# A field's number and "a length follows".
_FIELD_1, _FIELD_2 = 0x0A, 0x12


def read_all(files: records.RecordFiles) -> list[str]:
  """Returns the keys of all records, in their order.

  Their checksums are not compared: a damaged record may have any key.

  Raises:
    UserError: a file vanished, or a record without a readable key is damaged.
  """

  def read_some(start):
    stop = min(start + _CHUNK, len(files))
    return [read(files, record) for record in range(start, stop)]

  with futures.ThreadPoolExecutor(_NUM_THREADS) as pool:
    parts = pool.map(read_some, range(0, len(files), _CHUNK))
    return [key for part in parts for key in part]


def read(files: records.RecordFiles, record: int) -> str:
  """Returns the key of a record, "" where it has none; see `read_all`."""
  try:
    found = _find(_Pieces(lambda at, n: files.read_part(record, at, n)))
  except (IndexError, ValueError):
    found = None  # of another form, or damaged
  if found is not None:
    return found.decode(errors="replace")
  from udon_jax.data import examples  # noqa: PLC0415 (slow, seldom needed)

  return examples.key(files.read(record)) or ""


class _Pieces:
  """The bytes of one record, of which a piece is in memory."""

  def __init__(self, read_part: Callable[[int, int], bytes]):
    """Remembers how to read `length` bytes from `start`, fewer at the end."""
    self._read_part = read_part
    self._begin, self._data, self._is_last = 0, b"", False

  def take(self, start: int, length: int) -> bytes:
    """Returns some bytes, fewer at the record's end."""
    at = start - self._begin
    if at + length > len(self._data) and not self._is_last:
      wanted = max(length, _PEEK_BYTES)
      self._begin, at = start, 0
      self._data = self._read_part(start, wanted)
      self._is_last = len(self._data) < wanted
    return self._data[at : at + length]

  def enter(self, at: int, tag: int) -> tuple[int, int]:
    """Returns where the contents of a field start and end.

    Args:
      at: where the field starts.
      tag: which one it must be.

    Raises:
      IndexError, ValueError: it is none.
    """
    head = self.take(at, 1 + _MAX_VARINT_BYTES)
    if head[0] != tag:
      raise ValueError(f"field {head[0]}, not {tag}")
    length = shift = 0
    for place in range(1, len(head)):
      length |= (head[place] & 127) << shift
      if head[place] < 128:
        return at + place + 1, at + place + 1 + length
      shift += 7
    raise ValueError("a length without end")


def _find(record: _Pieces) -> bytes | None:
  """Returns the key of an Example; None where it has none, or several.

  Raises:
    IndexError, ValueError: the record has another form.
  """
  feature, last = record.enter(0, _FIELD_1)
  while feature < last:
    name, feature_end = record.enter(feature, _FIELD_1)
    start, end = record.enter(name, _FIELD_1)
    if record.take(start, end - start) == _KEY:
      value, _ = record.enter(end, _FIELD_2)
      first, list_end = record.enter(value, _FIELD_1)  # its list of bytes
      start, end = record.enter(first, _FIELD_1)
      return record.take(start, end - start) if end == list_end else None
    feature = feature_end
  return None
