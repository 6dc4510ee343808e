"""Damaged checkpoints: how they are noticed, named and put aside."""

from collections.abc import Iterator, Sequence
import contextlib
import errno
import json
import logging

from etils import epath
import jax

from udon_jax import errors
from udon_jax.checkpointing import checksums

logger = logging.getLogger(__name__)

FOLDER = "damaged_checkpoints"


class DamagedError(errors.UserError):
  """A checkpoint cannot be read, or holds other values than were saved."""


def error(
  checkpoint: epath.Path, reason: str, *, others: Sequence[int]
) -> DamagedError:
  """Returns the error that names a checkpoint and what else there is."""
  cure = f"the folder also has {list(others)}" if others else "it has no other"
  return DamagedError(f"{checkpoint} is damaged ({reason}); {cure}")


@contextlib.contextmanager
def named(checkpoint: epath.Path, *, others: Sequence[int]) -> Iterator[None]:
  """Turns what damage makes the libraries raise into a DamagedError.

  Damaged files surface as errors of many kinds: of JSON, of compression, of
  files that are missing, of keys and shapes that do not fit.

  Raises:
    DamagedError: the checkpoint is damaged.
    UserError: it cannot be reached, which may pass.
  """
  try:
    yield
  except (DamagedError, MemoryError, jax.errors.JaxRuntimeError):
    raise
  except Exception as caught:
    if isinstance(caught, OSError) and not _is_lasting(caught):
      raise errors.UserError(
        f"{checkpoint} cannot be read ({caught}); see to the disk or the "
        "network and run the same command"
      ) from caught
    reason = " ".join(f"{type(caught).__name__}: {caught}".split())
    raise error(checkpoint, reason[:200], others=others) from caught


def _is_lasting(caught: OSError) -> bool:
  """Whether an error is of files that are lost, and not of how they are read.

  EIO is what a disk says of sectors that it has lost.
  """
  lost = FileNotFoundError, NotADirectoryError, IsADirectoryError
  return isinstance(caught, lost) or caught.errno == errno.EIO


def find_steps(folder: epath.Path) -> list[int]:
  """Returns the steps whose checkpoints lie in a folder, damaged or not."""
  if not folder.is_dir():
    return []
  return sorted(int(p.name) for p in folder.iterdir() if p.name.isdigit())


def find_unreadable_metrics(
  folder: epath.Path, name: str, *, key: str
) -> list[tuple[int, DamagedError]]:
  """Returns the checkpoints of a folder whose metrics are damaged.

  A checkpoint need not have any.

  Args:
    folder: of the checkpoints.
    name: metrics are the JSON object in the file `name/name` of a checkpoint.
    key: of the number that they must have.
  """
  found = []
  steps = find_steps(folder)
  for step in steps:
    part = folder / str(step) / name
    others = [s for s in steps if s != step]
    try:
      with named(folder / str(step), others=others):
        if part.exists():
          checksums.verify(part)
          float(json.loads((part / name).read_text())[key])
    except DamagedError as caught:
      found.append((step, caught))
  return found


def put_aside(checkpoint: epath.Path, workdir: epath.Path) -> None:
  """Moves a checkpoint to a folder of the workdir where nothing reads it."""
  place = workdir / FOLDER
  place.mkdir(parents=True, exist_ok=True)
  taken = {path.name for path in place.iterdir()}
  target, copies = place / checkpoint.name, 0
  while target.name in taken:
    copies += 1
    target = place / f"{checkpoint.name}.{copies}"
  checkpoint.rename(target)
  logger.warning("moved to %s", target)
