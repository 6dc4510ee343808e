"""Where the image files of a data directory are."""

import contextlib
import os

from etils import epath


def find(images: epath.Path, path: str) -> epath.Path | None:
  """Returns where an image lies, or None if it is missing; see `find_name`."""
  name = find_name(images, path)
  return None if name is None else images / name


def find_name(images: epath.Path, path: str) -> str | None:
  """Returns where an image lies below a folder, or None if it is missing.

  Archives of RP2K are often unpacked with `#Uxxxx` in the place of every
  character beyond ASCII (`#Lxxxxxx` for those of more than 16 bits); such a
  name is tried second.

  Args:
    images: the folder that paths of info files are relative to.
    path: of the image.
  """
  escaped = "".join(c if c.isascii() else _escape(ord(c)) for c in path)
  for name in dict.fromkeys((path, escaped)):
    with contextlib.suppress(OSError):  # a name too long for the disk
      if (images / name).exists():
        return name
  return None


def read(images: epath.Path, name: str) -> bytes:
  """Returns what a file below a folder holds.

  Raises:
    OSError: it cannot be read.
  """
  folder = os.fspath(images)
  if "://" in folder:
    return (images / name).read_bytes()
  # Not by paths, which take longer than a small file.
  with open(os.path.join(folder, name), "rb") as file:
    return file.read()


def _escape(code: int) -> str:
  """Returns what unzip writes for a character that it cannot."""
  return f"#U{code:04x}" if code < 2**16 else f"#L{code:06x}"
