"""What an extraction has done so far, in a folder beside its output.

Embeddings and positions of unreadable images are appended to two files; a
third, replaced at once, says how much of them counts. What a killed process
wrote beyond that is cut off when the next one goes on. Files grow by writing,
not by mapping: a full disk is then an error and not the end of the process.

Shape legend: n images, d embedding dim.
"""

from collections.abc import Iterator, Mapping, Sequence
import contextlib
import json
import os
import pathlib
import shutil
from typing import Any, BinaryIO

from jaxtyping import Float, Int
import numpy as np

from udon_jax import errors, reporting, workdirs

_STATE = "state.json"
_EMBEDDINGS = "embeddings.f32"
_UNREADABLE = "unreadable.i64"


class Partial:
  """An unfinished extraction; made by `opened`.

  Attributes:
    folder: where it lies.
    done: images that are embedded or known to be unreadable.
    num_rows: embeddings among them.
    num_unreadable: the others.
  """

  def __init__(self, folder: pathlib.Path, *, job: Mapping[str, Any], dim: int):
    """Reads how far an earlier process came, and opens the files there."""
    self.folder = folder
    self._job = dict(job)
    self._row_bytes = dim * np.dtype(np.float32).itemsize
    state = _read_state(folder)
    if state is None:
      state = {"job": self._job, "done": 0, "rows": 0}
    _check_job(folder, saved=state["job"], given=self._job)
    self.done, self.num_rows = int(state["done"]), int(state["rows"])
    self._embeddings = _reopened(
      folder / _EMBEDDINGS, self.num_rows * self._row_bytes
    )
    self._unreadable = _reopened(folder / _UNREADABLE, self.num_unreadable * 8)

  @property
  def num_unreadable(self) -> int:
    """Returns how many images could not be read."""
    return self.done - self.num_rows

  @property
  def embeddings_file(self) -> pathlib.Path:
    """Returns the file of the embeddings: float32 [num_rows, d]."""
    return self.folder / _EMBEDDINGS

  def append(
    self, rows: Float[np.ndarray, "n d"], unreadable: Sequence[int]
  ) -> None:
    """Adds the next images.

    Args:
      rows: embeddings of those that could be read, float32.
      unreadable: positions of the others.
    """
    self._embeddings.write(np.ascontiguousarray(rows, np.float32).data)
    self._unreadable.write(np.array(unreadable, np.int64).data)
    self.num_rows += len(rows)
    self.done += len(rows) + len(unreadable)

  def save(self) -> None:
    """Makes sure that the next process goes on from here."""
    for file in (self._embeddings, self._unreadable):
      file.flush()
      os.fsync(file.fileno())
    reporting.write_json(
      self.folder / _STATE,
      {"job": self._job, "done": self.done, "rows": self.num_rows},
    )

  def unreadable(self) -> Int[np.ndarray, "n"]:
    """Returns the positions of unreadable images; after `save`."""
    return np.fromfile(self.folder / _UNREADABLE, np.int64)

  def close(self) -> None:
    """Closes the files; what is not yet written is let go."""
    for file in (self._embeddings, self._unreadable):
      # The state does not count it, and a full disk would complain again.
      with contextlib.suppress(OSError):
        file.close()

  def remove(self) -> None:
    """Removes the folder."""
    self.close()
    # First what makes the rest count: a torn removal is a fresh start.
    (self.folder / _STATE).unlink(missing_ok=True)
    shutil.rmtree(self.folder)


@contextlib.contextmanager
def opened(
  output: pathlib.Path, *, job: Mapping[str, Any], dim: int
) -> Iterator[Partial]:
  """Yields the unfinished extraction of an output, for this process alone.

  Args:
    output: what is to be written; the folder is `<output>.partial`.
    job: what must be the same to go on, by name, as plain values.
    dim: length of an embedding.

  Raises:
    UserError: another process is at it, or the folder holds another job.
  """
  folder = output.with_name(f"{output.name}.partial")
  folder.mkdir(exist_ok=True)
  with workdirs.lock(folder, name=f"--output={output}"):
    if not (folder / workdirs.LOCK_FILE).exists():
      raise errors.UserError(
        f"--output={output} was finished by another process just now; start "
        "again to write it anew"
      )
    partial = Partial(folder, job=job, dim=dim)
    try:
      yield partial
    finally:
      partial.close()


def _read_state(folder: pathlib.Path) -> dict[str, Any] | None:
  """Returns what `save` wrote, or None."""
  try:
    return reporting.read_json(folder / _STATE)
  except FileNotFoundError:
    return None
  except (json.JSONDecodeError, UnicodeDecodeError) as error:
    raise _damaged(folder) from error


def _damaged(folder: pathlib.Path) -> errors.UserError:
  return errors.UserError(
    f"{folder} is damaged; delete it to start this extraction anew"
  )


def _check_job(
  folder: pathlib.Path, *, saved: Mapping[str, Any], given: Mapping[str, Any]
) -> None:
  differing = [
    f"{key} is {saved.get(key)} there and {given.get(key)} here"
    for key in sorted(saved.keys() | given.keys())
    if saved.get(key) != given.get(key)
  ]
  if differing:
    raise errors.UserError(
      f"{folder} holds another unfinished extraction: {', '.join(differing)}; "
      "repeat its command, delete the folder, or choose another --output"
    )


def _reopened(path: pathlib.Path, num_bytes: int) -> BinaryIO:
  """Opens a file to go on after its first bytes."""
  file = path.open("ab")
  if file.tell() < num_bytes:
    file.close()
    raise _damaged(path.parent)
  file.truncate(num_bytes)
  return file
