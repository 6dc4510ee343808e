"""The images below a folder: which, and whether they are still the same."""

from collections.abc import Iterator
import dataclasses
import hashlib
import logging
import os

from etils import epath

from udon_jax import errors
from udon_jax.data import formats

logger = logging.getLogger(__name__)
_HASH_BYTES = 16


@dataclasses.dataclass(frozen=True)
class Found:
  """The images below a folder.

  Attributes:
    folder: its path.
    paths: relative to it, sorted. A name that is no valid text holds its bytes
      as `os.fsdecode` writes them.
    fingerprint: of paths, sizes and times of change.
  """

  folder: str
  paths: list[str]
  fingerprint: str


def find(folder: epath.PathLike, *, key: str = "--images") -> Found:
  """Returns the images below a local folder, known by their suffix.

  Links are followed; a folder that is reached twice, or from within itself, is
  searched once. A link that leads nowhere counts as an image.

  Args:
    folder: its path.
    key: what the user named it with, for messages.

  Raises:
    UserError: there is no such folder, or no image in it.
  """
  if not os.path.isdir(folder):
    raise errors.UserError(f"{key}={folder} is no folder; correct the path")
  paths, total = [], 0
  for path, size, changed in _walk(os.fspath(folder)):
    paths.append(path)
    line = os.fsencode(path) + f"\0{size}\0{changed}".encode()
    digest = hashlib.blake2b(line, digest_size=_HASH_BYTES).digest()
    total += int.from_bytes(digest, "big")  # the same in any order
  if not paths:
    raise errors.UserError(
      f"{key}={folder} holds no image; known are {', '.join(formats.SUFFIXES)}"
    )
  paths.sort()
  return Found(
    os.fspath(folder), paths, f"{total % 2 ** (8 * _HASH_BYTES):032x}"
  )


def _walk(root: str) -> Iterator[tuple[str, int, int]]:
  """Yields path, size and time of change of images below a folder."""
  seen = {_identity(os.stat(root))}
  waiting = [""]
  while waiting:
    place = waiting.pop()
    try:
      with os.scandir(os.path.join(root, place)) as found:
        entries = sorted(found, key=lambda entry: entry.name)
    except OSError as error:
      logger.warning("cannot be listed: %s (%s)", place, error.strerror)
      continue
    below = []
    for entry in entries:
      path = os.path.join(place, entry.name)
      is_image = entry.name.lower().endswith(formats.SUFFIXES)
      try:
        if entry.is_dir():
          identity = _identity(entry.stat())
          if identity not in seen:
            seen.add(identity)
            below.append(path)
        elif is_image and entry.is_file():
          status = entry.stat()
          yield path, status.st_size, status.st_mtime_ns
        elif is_image and entry.is_symlink() and not os.path.exists(entry.path):
          yield path, -1, 0
      except OSError:  # vanished, or links in a circle
        if is_image:
          yield path, -1, 0
    waiting += reversed(below)


def _identity(status: os.stat_result) -> tuple[int, int]:
  return status.st_dev, status.st_ino
