"""The folder of a run: locked while it is used, and kept to one run."""

from collections.abc import Iterator, Mapping, Sequence
import contextlib
import logging
import os
import pathlib
from typing import Any

from etils import epath

from udon_jax import build, default_config, errors, locks, reporting

logger = logging.getLogger(__name__)

LOCK_FILE = ".lock"
DIVERGED_FILE = "diverged.json"
# Keys that define a run: with another value it would be another run. What is
# not here may change between two starts: cadences, the mesh, paths, the length
# of a run whose rates and sampler do not depend on it.
_DEFINING: tuple[str, ...] = (
  "semantics",
  "seed",
  "domains",
  "batch_size",
  "frozen_steps",
  "frozen_epochs",
  "data.resize_size",
  "data.crop_size",
  "data.round_pixels",
  "data.exif",
  "model",
  "loss",
  "sampler",
  "optimizer",
  "prototypes.precision",
)
_LENGTH = ("num_train_steps", "num_epochs")
# They change how a step is computed, by rounding alone.
FREE = ("model.unroll", "model.remat", "model.attention")
# What a run that diverged may change, to get past the step where it did.
_CURES = ("optimizer", "model.dtype", "prototypes.precision")
# Keys on which the shapes of the parameters depend, and exceptions.
_SHAPING = ("model", "data.crop_size")
_SHAPELESS = (
  "model.dtype",
  "model.stochastic_depth",
  "model.position_stddev",
  "model.unroll",
  "model.remat",
  "model.attention",
  "model.pixel_mean",
  "model.pixel_std",
)


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
    if not locks.take(file.fileno(), name=workdir):
      file.seek(0)
      raise errors.UserError(
        f"{name or f'--workdir={workdir}'} is used by process "
        f"{file.read().strip()}; wait for it, stop it, or choose another folder"
      )
    file.truncate(0)
    file.write(str(os.getpid()))
    file.flush()
    yield


def check_same_run(
  workdir: epath.PathLike,
  *,
  saved: Mapping[str, Any],
  given: Mapping[str, Any],
  diverged: bool = False,
) -> None:
  """Raises a UserError if a config describes another run than the workdir's.

  Args:
    workdir: the folder, for the message.
    saved: the config of its checkpoints, as plain values.
    given: the config of this start, likewise.
    diverged: whether the run diverged after that checkpoint: rates and
      precision may then change.
  """
  keys = _DEFINING
  by_length = given["optimizer"]["schedule"] != "constant"
  if by_length or given["semantics"] == "official":
    keys = (*keys, *_LENGTH)
  free = (*FREE, *(_CURES if diverged else ()))
  differing = _differing(saved, given, keys=keys, free=free)
  if differing:
    raise errors.UserError(
      f"--workdir={workdir} holds another run: {differing}; use its values or "
      "choose another folder"
    )


def check_same_model(
  workdir: epath.PathLike,
  *,
  saved: Mapping[str, Any],
  given: Mapping[str, Any],
  key: str = "config.resume_from",
) -> None:
  """Raises a UserError if a run's parameters have other shapes.

  Args:
    workdir: the folder of the run that this one starts from.
    saved: the config of its checkpoints, as plain values.
    given: the config of this start, likewise.
    key: what the user named the folder in, for the message.
  """
  differing = _differing(saved, given, keys=_SHAPING, free=_SHAPELESS)
  if differing:
    raise errors.UserError(
      f"{key}={workdir} holds another model: {differing}; use its values"
    )


def _differing(
  saved: Mapping[str, Any],
  given: Mapping[str, Any],
  *,
  keys: Sequence[str],
  free: Sequence[str],
) -> str:
  """Names the keys of some groups, but for the free ones, that differ.

  A key that came after the run was saved has had its default there.
  """

  def within(key, groups):
    return any(key == g or key.startswith(f"{g}.") for g in groups)

  defaults = build.to_json(default_config.get_config())
  old = {**flatten(defaults), **flatten(saved)}
  new = flatten(given)
  return ", ".join(
    f"config.{key} is {old.get(key)} there and {new.get(key)} here"
    for key in sorted(old.keys() | new.keys())
    if within(key, keys)
    and not within(key, free)
    and old.get(key) != new.get(key)
  )


def note_divergence(workdir: epath.PathLike, *, step: int, domain: str) -> None:
  """Writes down that a run diverged at a step of a domain."""
  reporting.write_json(
    epath.Path(workdir) / DIVERGED_FILE, {"step": step, "domain": domain}
  )


def read_divergence(workdir: epath.PathLike) -> int | None:
  """Returns the step at which the run last diverged, if it did."""
  path = epath.Path(workdir) / DIVERGED_FILE
  try:
    return int(reporting.read_json(path)["step"])
  except FileNotFoundError:
    return None
  except (ValueError, KeyError, TypeError) as error:
    raise errors.UserError(
      f"{path} is damaged ({error}); delete it to go on with the run's config"
    ) from error


def forget_divergence(workdir: epath.PathLike) -> None:
  """Forgets it, once the run has come past."""
  (epath.Path(workdir) / DIVERGED_FILE).unlink(missing_ok=True)


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


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
  """Returns the values of a nested config by "a.b.c"."""
  flat: dict[str, Any] = {}
  for key, value in tree.items():
    if isinstance(value, Mapping):
      flat.update(flatten(value, f"{prefix}{key}."))
    else:
      flat[f"{prefix}{key}"] = value
  return flat
