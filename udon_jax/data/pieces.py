"""Record files that are written a piece at a time, and kept over a kill.

A piece is a record file of its own, which ends up as a shard, or as a part of
the only file of a split (TFRecord files in a row are one). Finished pieces are
noted, with size and CRC32C, in `progress.json` of the folder that they are
written into; what is noted and still has its checksum is not written again.
"""

from collections.abc import Iterable
import contextlib
import dataclasses
import json
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

  def __init__(self, folder: epath.Path, *, job: Any):
    """Finds what is finished.

    Args:
      folder: where pieces lie; made if it is missing, emptied if it holds
        those of another job.
      job: plain values that decide what pieces hold.
    """
    self._folder = folder
    self._job = json.loads(json.dumps(job))
    found = self._read()
    self._done = found or {}
    if found is None:
      folder.rmtree(missing_ok=True)
      folder.mkdir(parents=True)
      self._note()
    self._sweep()

  def __contains__(self, name: str) -> bool:
    """Tells whether a piece is finished, and still has its checksum."""
    piece = self._done.get(name)
    if piece is None:
      return False
    if _checksum(self._folder / name) == (piece.num_bytes, piece.crc):
      return True
    del self._done[name]
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

  def join(self, names: list[str], target: str) -> None:
    """Makes one file of finished pieces, which are dropped one by one.

    The disk holds one of them twice at most. A kill within costs the split:
    what is joined is not noted.
    """
    first, *others = names
    if others and "://" in str(self._folder):  # object stores append nothing
      self._join_anew(names, target)
      return
    with (self._folder / first).open("ab") as output:
      for name in others:
        with (self._folder / name).open("rb") as piece:
          shutil.copyfileobj(piece, output, _CHUNK)
        (self._folder / name).unlink()
    (self._folder / first).replace(self._folder / target)

  def _join_anew(self, names: list[str], target: str) -> None:
    """Does what `join` does, with all pieces there until the end."""
    with (self._folder / target).open("wb") as output:
      for name in names:
        with (self._folder / name).open("rb") as piece:
          shutil.copyfileobj(piece, output, _CHUNK)
    for name in names:
      (self._folder / name).unlink()

  def leave(self) -> None:
    """Keeps what is finished for the next time; nothing stays of nothing."""
    if not self._done:
      self._folder.rmtree(missing_ok=True)

  def finish(self) -> None:
    """Drops what was noted: the folder is complete."""
    (self._folder / PROGRESS_FILE).unlink(missing_ok=True)

  def _read(self) -> dict[str, Piece] | None:
    """Returns the finished pieces; None if the folder is of another job."""
    try:
      found = json.loads((self._folder / PROGRESS_FILE).read_text())
      if found["job"] != self._job:
        return None
      return {name: Piece(**piece) for name, piece in found["pieces"].items()}
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
      return None

  def _note(self) -> None:
    """Writes down which pieces are finished, at once."""
    pieces = {
      name: dataclasses.asdict(piece) for name, piece in self._done.items()
    }
    temporary = self._folder / f".{PROGRESS_FILE}.part"
    temporary.write_text(json.dumps({"job": self._job, "pieces": pieces}))
    temporary.replace(self._folder / PROGRESS_FILE)

  def _sweep(self) -> None:
    """Removes files that no finished piece accounts for."""
    for path in list(self._folder.iterdir()):
      if path.name != PROGRESS_FILE and path.name not in self._done:
        with contextlib.suppress(FileNotFoundError):
          path.unlink()


def _checksum(file: epath.Path) -> tuple[int, int] | None:
  """Returns size and CRC32C of a file; None if it is missing."""
  crc, size = google_crc32c.Checksum(), 0
  try:
    with file.open("rb") as opened:
      while block := opened.read(_CHUNK):
        crc.update(block)
        size += len(block)
  except OSError:
    return None
  return size, int.from_bytes(crc.digest(), "big")
