"""The folder of a run of the official code: its checkpoints and its config.

  checkpoint_<step>    Flax msgpack; checkpoint_-1 is the best one so far
  config.json          the config, sometimes as JSON inside a JSON string

Sources: nikosips/UDON, utils.py, app.py; flax, training/checkpoints.py.
"""

import json
import re
from typing import Any

from etils import epath

from udon_jax import errors
from udon_jax.pretrained import flax_msgpack
from udon_jax.pretrained.official import checkpoint as checkpoints

BEST = -1
_CHECKPOINT = re.compile(r"checkpoint_(-1|\d+)")
# What our own runs have instead.
_OURS = "checkpoints"


def is_official(workdir: epath.PathLike) -> bool:
  """Whether a folder is a run of the official code, by what it holds."""
  path = epath.Path(workdir)
  return path.is_dir() and not (path / _OURS).exists() and bool(_entries(path))


def _entries(path: epath.Path) -> dict[int, epath.Path]:
  """Returns the checkpoints of a folder, by their numbers."""
  found = {
    int(match[1]): entry
    for entry in path.iterdir()
    if (match := _CHECKPOINT.fullmatch(entry.name))
  }
  return dict(sorted(found.items()))


def open_checkpoint(
  workdir: epath.PathLike,
  *,
  number: int | None,
  key: str,
  newest: bool = False,
) -> checkpoints.Checkpoint:
  """Opens a checkpoint; its arrays are read when they are asked for.

  Args:
    workdir: the folder, for which `is_official` is true.
    number: that of the file's name; if None, the best one (-1) or else the
      newest.
    key: what the user set the folder with, for messages.
    newest: whether the newest comes before the best one.

  Raises:
    UserError: there is no such checkpoint, it is damaged or of another format,
      config.json is missing, damaged, or says other than the arrays.
  """
  root = epath.Path(workdir)
  entries = _entries(root)
  if not entries:
    raise errors.UserError(
      f"{key}: {workdir} holds no checkpoint_<step> of the official code; give "
      "the folder of such a run"
    )
  if number is None:
    best_first = not newest and BEST in entries
    number = BEST if best_first else max(entries)
  if number not in entries:
    raise errors.UserError(
      f"{workdir} has no checkpoint of step {number}; it has {list(entries)}"
    )
  path = entries[number]
  if path.is_dir():
    raise errors.UserError(
      f"{key}: {path} is a folder, as Orbax writes checkpoints; only the files "
      "that the official code writes (Flax msgpack) can be read"
    )
  return checkpoints.describe(
    flax_msgpack.read(path, key=key), _read_config(root, key=key), key=key
  )


def _read_config(root: epath.Path, *, key: str) -> dict[str, Any]:
  """Returns the config of a workdir.

  Raises:
    UserError: it is missing or no JSON object.
  """
  path = root / checkpoints.CONFIG_FILE
  try:
    config = json.loads(path.read_text())
    if isinstance(config, str):  # older versions encoded it twice
      config = json.loads(config)
  except FileNotFoundError as error:
    raise errors.UserError(
      f"{key}: {path} is missing; the official code writes it beside the "
      "checkpoints: copy it there too"
    ) from error
  except (OSError, ValueError, RecursionError) as error:
    raise errors.UserError(
      f"{key}: {path} is no JSON ({type(error).__name__}); copy it again"
    ) from error
  names_domains = isinstance(config, dict) and isinstance(
    config.get("dataset_name"), str
  )
  if not names_domains:
    raise errors.UserError(
      f"{key}: {path} has no dataset_name; give the config.json that the "
      "official code wrote beside the checkpoints"
    )
  return config
