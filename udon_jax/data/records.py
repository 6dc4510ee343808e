"""The records of a split, numbered through all its TFRecord files.

A split lies in `tfds/<domain>/<split>/<domain>.<split>.tfrecord`, or in
shards `...tfrecord-00000-of-000NN`. Record i is one read at its offset (see
`offsets`), and is checked against its CRC, so that damage is named and never
trained on. Needs no TensorFlow, but to name the image of a damaged record.

Shape legend: n records of a file.
"""

import bisect
from collections.abc import Sequence
import itertools
import re
import struct
import threading
import weakref

from etils import epath
from jaxtyping import Int
import numpy as np

from udon_jax import errors
from udon_jax.data import offsets, storage, stores

_FRAMING = offsets.FRAMING_BYTES
_HEADER = offsets.HEADER_BYTES
_SHARD = re.compile(r"-(\d{5,})-of-(\d{5,})$")


def file_name(domain: str, split: str) -> str:
  """Returns the name of a split's record file, without shard number."""
  return f"{domain}.{split}.tfrecord"


def shard_name(base: str, *, shard: int, num_shards: int) -> str:
  """Returns the name of one shard of the file `base`."""
  return f"{base}-{shard:05d}-of-{num_shards:05d}"


def find_files(
  folder: epath.PathLike, *, base: str, cure: str
) -> list[epath.Path]:
  """Returns the record files of a split, in the order of their shards.

  Args:
    folder: where they lie.
    base: their name, without shard number; see `file_name`.
    cure: what the user can do if they do not, for the message.

  Raises:
    UserError: there is none, or a shard is missing.
  """
  folder = epath.Path(folder)
  names = _names(folder)
  counts = {
    int(match[2])
    for name in names
    if name.startswith(base) and (match := _SHARD.fullmatch(name[len(base) :]))
  }
  if base in names and not counts:
    return [folder / base]
  if base in names or len(counts) > 1:
    raise errors.UserError(
      f"{folder} mixes records of several preparations (files `{base}` and"
      f" shards of {sorted(counts)}); delete the folder and {cure}"
    )
  if not counts:
    raise errors.UserError(f"{folder / base} is missing; {cure}")
  count = counts.pop()
  shards = [shard_name(base, shard=i, num_shards=count) for i in range(count)]
  for name in shards:
    if name not in names:
      raise errors.UserError(
        f"{folder / name} is missing, one of {count} shards; copy it again,"
        f" or delete the folder and {cure}"
      )
  return [folder / name for name in shards]


def _names(folder: epath.Path) -> set[str]:
  try:
    return {path.name for path in folder.iterdir()}
  except (FileNotFoundError, NotADirectoryError):
    return set()
  except OSError as error:
    raise errors.UserError(
      f"{folder} cannot be read ({error.strerror or error}); change its"
      " permissions"
    ) from None


class RecordFiles:
  """The records of a split, numbered through all its files.

  Reading is safe from several threads at once.
  """

  def __init__(self, files: Sequence[epath.PathLike], *, use_kept: bool = True):
    """Loads the offsets of the files.

    Attributes `store` and `side` say how they hold images, and how large, 0
    if unchanged; see `hold`.

    Args:
      files: record files in the order of their shards.
      use_kept: whether offsets that were kept may be used; the files are
        walked otherwise.

    Raises:
      UserError: a file is missing, cut off, or holds no TFRecords.
    """
    self.files = tuple(epath.Path(file) for file in files)
    self.store, self.side = stores.ORIGINAL, 0
    load = offsets.load if use_kept else offsets.rebuild
    self._offsets = [load(file) for file in self.files]
    self._states = [_state(file) for file in self.files]
    counts = [len(starts) - 1 for starts in self._offsets]
    self._ends = list(itertools.accumulate(counts))
    self._order: Int[np.ndarray, "n"] | None = None
    self._readers = storage.PieceReader(self.files)
    self._healing = threading.Lock()
    weakref.finalize(self, self._readers.close)

  def __len__(self) -> int:
    """Returns the number of records."""
    return self._ends[-1]

  def hold(self, store: stores.Store, *, split: str) -> None:
    """Tells how the records hold the images of a split."""
    self.store, self.side = store, store.side(split)

  @property
  def num_bytes(self) -> int | None:
    """Returns the length of every image; None if they are encoded."""
    return 3 * self.side**2 if self.store.format == stores.RAW else None

  def reorder(self, order: Int[np.ndarray, "n"] | None) -> None:
    """Numbers the records anew: i is then the order[i]-th of the files.

    Args:
      order: a permutation; None is the order of the files.
    """
    self._order = order

  def locate(self, record: int) -> tuple[epath.Path, int]:
    """Returns the file of a record and the record's number in that file."""
    shard, number = self._locate(record)
    return self.files[shard], number

  def read(self, record: int) -> bytes:
    """Returns the data of one record.

    Offsets that turn out to be wrong, of a sidecar made for another file, are
    found again once.

    Raises:
      BadExampleError: the record is damaged.
      UserError: its file vanished or changed.
    """
    shard, number = self._locate(record)
    starts = self._offsets[shard]
    framed = self._read_framed(shard, number, starts)
    if framed is None:
      if self._is_damaged(shard, number, starts):
        raise self._damaged(shard, number, b"", "length")
      starts = self._heal(shard, starts)
      framed = self._read_framed(shard, number, starts)
    if framed is None:
      raise self._changed(shard)
    data = framed[offsets.HEADER_BYTES : -offsets.FOOTER_BYTES]
    (crc,) = struct.unpack("<I", framed[-offsets.FOOTER_BYTES :])
    if crc != offsets.masked_crc(data):
      raise self._damaged(shard, number, data, "bytes")
    return data

  def read_part(self, record: int, start: int, length: int) -> bytes:
    """Returns some bytes of a record's data, not checked, fewer at its end.

    Raises:
      UserError: the file vanished.
    """
    shard, number = self._locate(record)
    begin, end = self._offsets[shard][number : number + 2].tolist()
    begin += offsets.HEADER_BYTES + start
    length = min(length, end - offsets.FOOTER_BYTES - begin)
    return self._read_bytes(shard, begin, length) if length > 0 else b""

  def _read_framed(
    self, shard: int, number: int, starts: Int[np.ndarray, "n+1"]
  ) -> bytes | None:
    """Returns a record with its framing; None if there is none at its place."""
    start, end = starts[number : number + 2].tolist()
    framed = self._read_bytes(shard, start, end - start)
    length = offsets.header_length(framed)
    if len(framed) != end - start or length != len(framed) - _FRAMING:
      return None
    return framed

  def _is_damaged(
    self, shard: int, number: int, starts: Int[np.ndarray, "n+1"]
  ) -> bool:
    """Tells whether a record's header is damaged, where offsets are right.

    They are if the records around it lie where they say.
    """
    header = self._read_bytes(shard, int(starts[number]), _HEADER)
    around = [i for i in (number - 1, number + 1) if 0 <= i < len(starts) - 1]
    return (
      offsets.header_length(header) is None
      and _state(self.files[shard]) == self._states[shard]
      and bool(around)
      and all(self._read_framed(shard, i, starts) is not None for i in around)
    )

  def _damaged(
    self, shard: int, number: int, data: bytes, what: str
  ) -> errors.BadExampleError:
    return errors.BadExampleError(
      f"{self.files[shard]}: record {number}{_of_image(data)} is damaged: the"
      f" checksum of its {what} is another one; copy the file again, or delete"
      " its folder and prepare the data again"
    )

  def _read_bytes(self, shard: int, start: int, length: int) -> bytes:
    try:
      return self._readers.read(shard, start, length)
    except OSError as error:
      raise errors.UserError(
        f"{self.files[shard]} cannot be read any more"
        f" ({error.strerror or error}); restore the file and start the same"
        " command again"
      ) from None

  def _heal(
    self, shard: int, used: Int[np.ndarray, "n+1"]
  ) -> Int[np.ndarray, "n+1"]:
    """Returns the offsets of a file that has others than those `used`.

    Raises:
      UserError: the file changed since it was opened, is damaged, or holds
        another number of records.
    """
    with self._healing:
      if self._offsets[shard] is not used:  # another thread was first
        return self._offsets[shard]
      file = self.files[shard]
      if _state(file) != self._states[shard]:
        raise self._changed(shard)
      found = offsets.rebuild(file)
      if len(found) != len(used):
        raise errors.UserError(
          f"{file}: its offsets were of another file, with"
          f" {len(used) - 1} records in place of {len(found) - 1}; they have"
          " been made anew: start the same command again"
        )
      self._offsets[shard] = found
      return found

  def _changed(self, shard: int) -> errors.UserError:
    return errors.UserError(
      f"{self.files[shard]} changed while it was read; restore the file and"
      " start the same command again"
    )

  def _locate(self, record: int) -> tuple[int, int]:
    """Returns the number of a record's file and its number in that file."""
    assert 0 <= record < len(self), f"{record=} of {len(self)}"
    if self._order is not None:
      record = int(self._order[record])
    shard = bisect.bisect_right(self._ends, record)
    return shard, record - (self._ends[shard - 1] if shard else 0)


def _state(file: epath.Path) -> tuple[int, float] | None:
  """Returns what changes when a file does; None if it is gone."""
  try:
    found = file.stat()
  except OSError:
    return None
  return found.length, found.mtime


def _of_image(data: bytes) -> str:
  """Returns the key of a damaged record in words, where it can be read."""
  from udon_jax.data import examples  # noqa: PLC0415 (slow, for damage alone)

  key = examples.key(data)
  return f" (key {key!r})" if key else ""
