"""Reading pieces of files at any place, local or remote, by several threads."""

from collections.abc import Sequence
import contextlib
import os
import threading

from etils import epath


class PieceReader:
  """Reads pieces of files, which it opens at the first use."""

  def __init__(self, files: Sequence[epath.Path]):
    self._files = files
    self._paths = [os.fspath(file) for file in files]
    self._descriptors: dict[int, int] = {}
    self._lock = threading.Lock()
    self._remote = threading.local()

  def read(self, number: int, start: int, length: int) -> bytes:
    """Returns `length` bytes of a file, fewer at its end."""
    path = self._paths[number]
    if "://" in path:
      return self._read_remote(number, start, length)
    with self._lock:
      if number not in self._descriptors:
        self._descriptors[number] = os.open(path, os.O_RDONLY)
      descriptor = self._descriptors[number]
    return os.pread(descriptor, length, start)

  def _read_remote(self, number: int, start: int, length: int) -> bytes:
    """Reads through a stream of this thread's own."""
    streams = self._remote.__dict__.setdefault("streams", {})
    if number not in streams:
      opened = contextlib.ExitStack().enter_context(
        self._files[number].open("rb")
      )
      streams[number] = opened
    streams[number].seek(start)
    return streams[number].read(length)

  def close(self) -> None:
    """Closes the files that were opened."""
    with self._lock:
      for descriptor in self._descriptors.values():
        os.close(descriptor)
      self._descriptors.clear()
