"""A disk that is full: foreseen where possible, told plainly where not."""

from collections.abc import Iterator
import contextlib
import errno
import shutil

from etils import epath

from udon_jax import errors

_MARGIN = 1.1  # free space asked for, as a multiple of what is to be written
_FULL = {errno.ENOSPC, errno.EDQUOT}
# As C++ libraries put it into errors of other types.
_FULL_MESSAGES = ("No space left on device", "Disk quota exceeded")
_CURE = "what was saved before is intact: free some space and run it again"


def check_space(folder: epath.PathLike, num_bytes: int) -> None:
  """Raises a DiskFullError before something is written that does not fit.

  Folders that are not local ("gs://...") have no such bound, nor have those of
  file systems without a size, as some of networks and of kernels are.
  """
  if "://" in str(folder):
    return
  total, _, free = shutil.disk_usage(folder)
  if total and free < _MARGIN * num_bytes:
    raise errors.DiskFullError(
      f"the disk of {folder} is full: {num_bytes / 1e6:,.1f} MB are to be "
      f"written, {free / 1e6:,.1f} MB are free; {_CURE}"
    )


@contextlib.contextmanager
def full_disk_told(folder: epath.PathLike) -> Iterator[None]:
  """Turns what a full disk makes any library raise into a DiskFullError.

  Args:
    folder: on the disk, for the message.
  """
  try:
    yield
  except errors.DiskFullError:
    raise
  except Exception as error:
    if not _is_of_full_disk(error):
      raise
    raise errors.DiskFullError(
      f"the disk of {folder} is full; {_CURE}"
    ) from error


def _is_of_full_disk(error: BaseException | None) -> bool:
  """Whether an error, or one that led to it, is of a full disk."""
  while error is not None:
    if isinstance(error, OSError) and error.errno in _FULL:
      return True
    if any(message in str(error) for message in _FULL_MESSAGES):
      return True
    error = error.__cause__ or error.__context__
  return False
