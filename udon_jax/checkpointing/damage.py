"""Damaged checkpoints: how they are noticed, named and put aside."""

from collections.abc import Iterator, Sequence
import contextlib
import json
import logging

from etils import epath
import jax

from udon_jax import errors

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
  """
  try:
    yield
  except (DamagedError, MemoryError, jax.errors.JaxRuntimeError):
    raise
  except Exception as caught:
    reason = " ".join(f"{type(caught).__name__}: {caught}".split())
    raise error(checkpoint, reason[:200], others=others) from caught


def find_unreadable_json(
  folder: epath.Path, name: str
) -> list[tuple[int, DamagedError]]:
  """Returns the checkpoints of a folder whose `name/name` is no JSON object.

  A checkpoint need not have the file.
  """
  if not folder.is_dir():
    return []
  steps = sorted(int(p.name) for p in folder.iterdir() if p.name.isdigit())
  found = []
  for step in steps:
    file = folder / str(step) / name / name
    try:
      if file.exists() and not isinstance(json.loads(file.read_text()), dict):
        raise ValueError("no JSON object")
    except (OSError, ValueError) as caught:
      others = [s for s in steps if s != step]
      reason = f"{name}: {caught}"
      found.append((step, error(folder / str(step), reason, others=others)))
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
