"""The folder of a run: locked while it is used, and kept to one run."""

from collections.abc import Iterator, Mapping, Sequence
import contextlib
import fcntl
import os
import pathlib
from typing import Any

from etils import epath

from udon_jax import errors

LOCK_FILE = ".lock"
# Keys that define a run: with another value it would be another run. What is
# not here may change between two starts: cadences, the mesh, paths, the length
# of a run whose rates do not depend on it.
_DEFINING: tuple[str, ...] = (
  "seed",
  "domains",
  "batch_size",
  "frozen_steps",
  "frozen_epochs",
  "data.resize_size",
  "data.crop_size",
  "model",
  "loss",
  "sampler",
  "optimizer",
)
_LENGTH = ("num_train_steps", "num_epochs")
_FREE = ("model.unroll",)


@contextlib.contextmanager
def lock(workdir: epath.PathLike, *, name: str | None = None) -> Iterator[None]:
  """Keeps other processes of this machine from using the workdir.

  The lock ends with the process, however it ends. Folders that are not local
  ("gs://...") are not locked.

  Args:
    workdir: the folder.
    name: what the user knows it by, for the message; --workdir if None.

  Raises:
    UserError: another process uses the folder.
  """
  if "://" in os.fspath(workdir):
    yield
    return
  with (pathlib.Path(workdir) / LOCK_FILE).open("a+") as file:
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
      file.seek(0)
      raise errors.UserError(
        f"{name or f'--workdir={workdir}'} is used by process "
        f"{file.read().strip()}; wait for it, stop it, or choose another folder"
      ) from error
    file.truncate(0)
    file.write(str(os.getpid()))
    file.flush()
    yield


def check_same_run(
  workdir: epath.PathLike,
  *,
  saved: Mapping[str, Any],
  given: Mapping[str, Any],
) -> None:
  """Raises a UserError if a config describes another run than the workdir's.

  Args:
    workdir: the folder, for the message.
    saved: the config of its checkpoints, as plain values.
    given: the config of this start, likewise.
  """
  keys = _DEFINING
  if given["optimizer"]["schedule"] != "constant":
    keys = (*keys, *_LENGTH)
  old, new = (_flatten(config) for config in (saved, given))
  differing = sorted(
    key
    for key in old.keys() | new.keys()
    if any(key == k or key.startswith(f"{k}.") for k in keys)
    and key not in _FREE
    and old.get(key) != new.get(key)
  )
  if differing:
    named = ", ".join(
      f"config.{key} is {old.get(key)} there and {new.get(key)} here"
      for key in differing
    )
    raise errors.UserError(
      f"--workdir={workdir} holds another run: {named}; use its values or "
      "choose another folder"
    )


def check_same_data(
  workdir: epath.PathLike,
  *,
  saved: Sequence[Mapping[str, Any]],
  given: Sequence[Mapping[str, Any]],
) -> None:
  """Raises a UserError if a run's training data is not what it was.

  Args:
    workdir: the folder, for the message.
    saved: name, classes, images and fingerprint of every domain of its
      checkpoints.
    given: likewise, of this start.
  """
  for old, new in zip(saved, given, strict=True):
    if dict(old) != dict(new):
      raise errors.UserError(
        f"--workdir={workdir} was trained on other data of the domain "
        f"{old['name']}: {dict(old)} there, {dict(new)} here; give "
        "config.data_dir the data of the run or choose another folder"
      )


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
  flat: dict[str, Any] = {}
  for key, value in tree.items():
    if isinstance(value, Mapping):
      flat.update(_flatten(value, f"{prefix}{key}."))
    else:
      flat[f"{prefix}{key}"] = value
  return flat
