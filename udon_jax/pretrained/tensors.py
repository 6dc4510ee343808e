"""Named arrays of safetensors files; nothing in them is executed."""

from collections.abc import Sequence
import os

from etils import epath
import ml_dtypes  # noqa: F401 (teaches numpy bfloat16)
import numpy as np
import safetensors

from udon_jax import errors
from udon_jax.pretrained import arrays


def open_safetensors(
  paths: Sequence[epath.PathLike], *, name: epath.PathLike, key: str
) -> arrays.Arrays:
  """Returns the arrays of one or several files of this machine.

  Args:
    paths: the files; no array may be in two.
    name: of them all, for messages.
    key: what the user set it with, for messages.

  Raises:
    UserError: a file cannot be read, or is no safetensors file.
  """
  shapes: dict[str, tuple[int, ...]] = {}
  places: dict[str, str] = {}
  for path in map(os.fspath, paths):
    if "://" in path:
      raise errors.UserError(
        f"{key}: {path} is not on this machine, where safetensors files are "
        "mapped; copy it here"
      )
    try:
      with safetensors.safe_open(path, framework="numpy") as file:
        found = {
          name: tuple(file.get_slice(name).get_shape())
          for name in file.keys()  # noqa: SIM118 (is no dict)
        }
    except (OSError, ValueError, safetensors.SafetensorError) as error:
      raise errors.UserError(
        f"{key}: {path} cannot be read as safetensors ({error}); copy it again"
      ) from error
    if twice := shapes.keys() & found.keys():
      raise errors.UserError(
        f"{key}: {path} holds {min(twice)!r}, as another file does; keep the "
        "files of one model in the folder"
      )
    shapes |= found
    places |= dict.fromkeys(found, path)

  def read(array: str) -> np.ndarray:
    # Opened anew for each: pages of a file that stays mapped count as memory.
    try:
      with safetensors.safe_open(places[array], framework="numpy") as file:
        return file.get_tensor(array)
    except (TypeError, AttributeError, safetensors.SafetensorError) as error:
      raise ValueError(f"{error}; convert it to float32") from error

  return arrays.Arrays(str(name), key, shapes, read)
