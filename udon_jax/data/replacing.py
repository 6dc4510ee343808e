"""Folders that are written by one, and appear whole or not at all."""

from collections.abc import Iterator
import contextlib
import os

from etils import epath

from udon_jax import errors, locks


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


@contextlib.contextmanager
def alone(folder: epath.Path) -> Iterator[None]:
  """Keeps other processes of this machine from writing into a folder.

  The folder is made. The lock leaves no file, and ends with the process,
  however it ends. Folders that are not local ("gs://...") are not locked.

  Raises:
    UserError: another process writes into it, or it cannot be made.
  """
  try:
    folder.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise errors.UserError(
      f"{folder} cannot be written ({error.strerror or error}); choose a folder"
      " that you may write to"
    ) from error
  if "://" in os.fspath(folder):
    yield
    return
  opened = os.open(folder, os.O_RDONLY)
  try:
    if not locks.take(opened, name=folder):
      raise errors.UserError(
        f"another process writes into {folder}; wait for it or stop it, then"
        " run the same command again"
      )
    yield
  finally:
    os.close(opened)
