"""The records of a split, numbered through all its TFRecord files.

A split lies in `tfds/<domain>/<split>/<domain>.<split>.tfrecord`, or in
shards `...tfrecord-00000-of-000NN`. Record i is one read at its offset (see
`offsets`). Needs no TensorFlow.
"""

from collections.abc import Sequence
import re
import struct
import weakref

from etils import epath
import numpy as np

from udon_jax import errors
from udon_jax.data import offsets, storage

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


class RecordFiles:
  """The records of a split, numbered through all its files.

  Reading is safe from several threads at once.
  """

  def __init__(self, files: Sequence[epath.PathLike]):
    """Loads the offsets of the files.

    Args:
      files: record files in the order of their shards.

    Raises:
      UserError: a file is missing, cut off, or holds no TFRecords.
    """
    self.files = tuple(epath.Path(file) for file in files)
    self._offsets = [offsets.load(file) for file in self.files]
    counts = [len(starts) - 1 for starts in self._offsets]
    self._ends = np.cumsum(counts)
    self._readers = storage.PieceReader(self.files)
    weakref.finalize(self, self._readers.close)

  def __len__(self) -> int:
    """Returns the number of records."""
    return int(self._ends[-1])

  def locate(self, record: int) -> tuple[epath.Path, int]:
    """Returns the file of a record and the record's number in that file."""
    shard, number = self._locate(record)
    return self.files[shard], number

  def read(self, record: int) -> bytes:
    """Returns the data of one record.

    Raises:
      UserError: the file vanished, or changed since its offsets were read.
    """
    shard, number = self._locate(record)
    start, end = self._offsets[shard][number : number + 2].tolist()
    try:
      framed = self._readers.read(shard, start, end - start)
    except OSError as error:
      raise errors.UserError(
        f"{self.files[shard]} cannot be read any more ({error}); restore the"
        " file and start the same command again"
      ) from None
    if (
      len(framed) != end - start
      or struct.unpack_from("<Q", framed)[0]
      != end - start - offsets.FRAMING_BYTES
    ):
      raise errors.UserError(
        f"{self.files[shard]} changed since its sidecar was written: no"
        f" record of {end - start} bytes at byte {start}; delete"
        f" {self.files[shard].name}{offsets.SIDECAR_SUFFIX} and start again"
      )
    return framed[offsets.HEADER_BYTES : -offsets.FOOTER_BYTES]

  def _locate(self, record: int) -> tuple[int, int]:
    """Returns the number of a record's file and its number in that file."""
    assert 0 <= record < len(self), f"{record=} of {len(self)}"
    shard = int(np.searchsorted(self._ends, record, side="right"))
    return shard, record - (int(self._ends[shard - 1]) if shard else 0)
