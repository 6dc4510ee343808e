"""Record files that are written a piece at a time, and kept over a kill.

A piece is a record file of its own, which ends up as a shard, or as a part of
the only file of a split (TFRecord files in a row are one). Finished pieces are
noted, with size and CRC32C, in `progress.json` of the folder that they are
written into, and so is which of them were joined; what is noted and still has
its checksum, wherever it lies, is not written again.
"""

from collections.abc import Iterable
import contextlib
import dataclasses
import json
import os
import shutil
from typing import Any

from etils import epath
import google_crc32c
import numpy as np

from udon_jax.data import offsets

PROGRESS_FILE = "progress.json"
_CHUNK = 2**20


@dataclasses.dataclass(frozen=True)
class Piece:
  """A piece that is finished.

  Attributes:
    num_bytes: its size.
    crc: CRC32C of its bytes.
    starts: where its records start, and its size.
  """

  num_bytes: int
  crc: int
  starts: list[int]


class Pieces:
  """The pieces of a split, in the folder that they are written into."""

  def __init__(self, folder: epath.Path, *, job: Any, whole: str):
    """Finds what is finished.

    Args:
      folder: where pieces lie; made if it is missing, emptied if it holds
        those of another job.
      job: plain values that decide what pieces hold.
      whole: name of the file that `join` makes.
    """
    self._folder = folder
    self._job = json.loads(json.dumps(job))
    self._whole = folder / whole
    self._done: dict[str, Piece] = {}
    self._joined: list[str] = []  # in the order of the joined file
    if not self._read():
      folder.rmtree(missing_ok=True)
      folder.mkdir(parents=True)
      self._note()
    self._sweep()

  def __contains__(self, name: str) -> bool:
    """Tells whether a piece is finished, and still has its checksum."""
    piece = self._done.get(name)
    if piece is None:
      return False
    file, start = self._folder / name, 0
    if name in self._joined:
      file, start = self._whole, self._end(self._joined.index(name))
    found = _checksum(file, start=start, length=piece.num_bytes)
    if found == (piece.num_bytes, piece.crc):
      return True
    self._forget(name)
    return False

  def starts(self, name: str) -> np.ndarray:
    """Returns where the records of a finished piece start, and its size."""
    return np.array(self._done[name].starts, np.int64)

  def write(self, name: str, records: Iterable[bytes]) -> None:
    """Writes a piece, and then notes that it is finished."""
    part = self._folder / f".{name}.part"
    starts = [0]
    with part.open("wb") as output:
      for record in records:
        output.write(offsets.frame(record))
        starts.append(starts[-1] + len(record) + offsets.FRAMING_BYTES)
    part.replace(self._folder / name)
    found = _checksum(self._folder / name)
    if found is None:
      raise OSError(f"{name} vanished while it was written")
    self._done[name] = Piece(*found, starts)
    self._note()

  def join(self, names: list[str]) -> None:
    """Makes one file of finished pieces, which are dropped one by one.

    The disk holds one of them twice at most, and after a kill it goes on where
    it was.

    Args:
      names: of the pieces, in order; the same ones after a kill.
    """
    if "://" in str(self._folder):  # object stores append nothing
      self._join_at_once(names)
      return
    assert names[: len(self._joined)] == self._joined, "joined in another order"
    for name in names[len(self._joined) :]:
      with self._whole.open("ab") as output:
        self._copy(name, output)
      self._joined.append(name)
      self._note()
      (self._folder / name).unlink()

  def _join_at_once(self, names: list[str]) -> None:
    """Does what `join` does, with all pieces there until the end."""
    if self._joined:
      return
    with self._whole.open("wb") as output:
      for name in names:
        self._copy(name, output)
    self._joined = list(names)
    self._note()
    for name in names:
      (self._folder / name).unlink()

  def _copy(self, name: str, output: Any) -> None:
    with (self._folder / name).open("rb") as piece:
      shutil.copyfileobj(piece, output, _CHUNK)

  def leave(self) -> None:
    """Keeps what is finished for the next time; nothing stays of nothing."""
    if not self._done:
      self._folder.rmtree(missing_ok=True)

  def _end(self, count: int) -> int:
    """Returns where the first so many of the joined pieces end."""
    return sum(self._done[name].num_bytes for name in self._joined[:count])

  def _forget(self, name: str) -> None:
    """Drops a piece; of a joined one, all that were joined after it."""
    lost = [name]
    if name in self._joined:
      remote = "://" in str(self._folder)  # where nothing is cut either
      keep = 0 if remote else self._joined.index(name)
      lost, self._joined = self._joined[keep:], self._joined[:keep]
    for each in lost:
      del self._done[each]
    self._note()
    self._sweep()

  def _read(self) -> bool:
    """Finds what was noted; tells whether the folder is of this job."""
    try:
      found = json.loads((self._folder / PROGRESS_FILE).read_text())
      if found["job"] != self._job:
        return False
      done = {name: Piece(**piece) for name, piece in found["pieces"].items()}
      joined = [name for name in found["joined"] if name in done]
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
      return False
    self._done, self._joined = done, joined
    return True

  def _note(self) -> None:
    """Writes down which pieces are finished, at once."""
    pieces = {
      name: dataclasses.asdict(piece) for name, piece in self._done.items()
    }
    noted = {"job": self._job, "pieces": pieces, "joined": self._joined}
    temporary = self._folder / f".{PROGRESS_FILE}.part"
    temporary.write_text(json.dumps(noted))
    temporary.replace(self._folder / PROGRESS_FILE)

  def _sweep(self) -> None:
    """Removes what no finished piece accounts for."""
    kept = {PROGRESS_FILE, *self._done}
    if self._joined:
      kept.add(self._whole.name)
      self._cut()
    for path in list(self._folder.iterdir()):
      if path.name not in kept or path.name in self._joined:
        with contextlib.suppress(FileNotFoundError):
          path.unlink()

  def _cut(self) -> None:
    """Cuts off what was appended to the joined file and not noted."""
    end = self._end(len(self._joined))
    with contextlib.suppress(FileNotFoundError):
      if self._whole.stat().length > end:
        os.truncate(self._whole, end)


def finish(folder: epath.Path) -> None:
  """Drops what was noted of a folder that is complete, and in its place."""
  (folder / PROGRESS_FILE).unlink(missing_ok=True)


def _checksum(
  file: epath.Path, *, start: int = 0, length: int | None = None
) -> tuple[int, int] | None:
  """Returns size and CRC32C of a file, or of a part; None if it is missing."""
  crc, size = google_crc32c.Checksum(), 0
  try:
    with file.open("rb") as opened:
      opened.seek(start)
      while block := opened.read(
        _CHUNK if length is None else min(_CHUNK, length - size)
      ):
        crc.update(block)
        size += len(block)
  except OSError:
    return None
  return size, int.from_bytes(crc.digest(), "big")
