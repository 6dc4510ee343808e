"""Folders that appear whole, in the place of an earlier one, or not at all."""

from collections.abc import Iterator
import contextlib

from etils import epath


def temporary_of(folder: epath.Path) -> epath.Path:
  """Returns where a folder lies while it is written: hidden, beside it."""
  return folder.parent / f".{folder.name}.tmp"


@contextlib.contextmanager
def folder(target: epath.Path) -> Iterator[epath.Path]:
  """Gives an empty folder that takes the place of `target` at the end.

  An error leaves the target as it was.
  """
  temporary = temporary_of(target)
  temporary.rmtree(missing_ok=True)
  temporary.mkdir(parents=True)
  try:
    yield temporary
    replace(temporary, target)
  finally:
    with contextlib.suppress(OSError):
      temporary.rmtree(missing_ok=True)


def replace(source: epath.Path, target: epath.Path) -> None:
  """Puts a complete folder in the place of another, which may not exist."""
  old = target.parent / f".{target.name}.old"
  old.rmtree(missing_ok=True)
  if target.is_dir():
    target.rename(old)
  source.rename(target)
  old.rmtree(missing_ok=True)
