"""Named arrays of safetensors files; nothing in them is executed.

Eight bytes tell the length of a header of JSON; it gives type, shape and place
of every array in the bytes behind it (format of huggingface/safetensors). Read
here, and not through a map of the file, so that one array lies in memory at a
time, files may be remote, and bfloat16 is known.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import json
import math
from typing import Any, BinaryIO

from etils import epath
import jax.numpy as jnp
import numpy as np

from udon_jax import errors
from udon_jax.pretrained import arrays

_DTYPES = {
  "F64": np.float64,
  "F32": np.float32,
  "F16": np.float16,
  "BF16": jnp.bfloat16,
  **{f"I{8 * n}": np.dtype(f"<i{n}") for n in (1, 2, 4, 8)},
  **{f"U{8 * n}": np.dtype(f"<u{n}") for n in (1, 2, 4, 8)},
  "BOOL": np.bool_,
}
_LONGEST_HEADER = 100_000_000  # the format's own limit


@dataclasses.dataclass(frozen=True)
class _Place:
  """Where an array lies."""

  file: BinaryIO
  kind: str
  shape: tuple[int, ...]
  start: int
  size: int


def open_safetensors(
  paths: Sequence[epath.PathLike], *, name: epath.PathLike, key: str
) -> arrays.Arrays:
  """Returns the arrays of one or several files.

  Args:
    paths: the files; no array may be in two.
    name: of them all, for messages.
    key: what the user set it with, for messages.

  Raises:
    UserError: a file cannot be read, or is no safetensors file.
  """
  places: dict[str, _Place] = {}
  for path in map(epath.Path, paths):
    try:
      file = path.open("rb")
      found = _read_places(file, path.stat().length)
    except (OSError, EOFError, ValueError, TypeError, KeyError) as error:
      raise errors.UserError(
        f"{key}: {path} cannot be read as safetensors ({error}); copy it again"
      ) from error
    if twice := places.keys() & found.keys():
      raise errors.UserError(
        f"{key}: {path} holds {min(twice)!r}, as another file does; keep the "
        "files of one model in the folder"
      )
    places |= found

  def read(array):
    place = places[array]
    if place.kind not in _DTYPES:
      raise errors.UserError(
        f"{key}: {name} has {array} of type {place.kind}; convert it to float32"
      )
    value = np.empty(place.shape, _DTYPES[place.kind])
    place.file.seek(place.start)
    # One dim, as arrays without any have no view.
    if place.file.readinto(value.reshape(-1).view(np.uint8)) != place.size:  # type: ignore[attr-defined]
      raise EOFError("the file ends early")
    return value

  shapes = {array: place.shape for array, place in places.items()}
  return arrays.Arrays(str(name), key, shapes, read)


def _read_places(file: BinaryIO, size: int) -> dict[str, _Place]:
  """Returns where the arrays of a file lie.

  Raises:
    ValueError: the header is none, or tells more than the file holds.
  """
  length = int.from_bytes(file.read(8), "little")
  if size < 8 or length > min(size - 8, _LONGEST_HEADER):
    raise ValueError("it is cut off, or no such file")
  try:
    header = json.loads(file.read(length))
  except (ValueError, RecursionError) as error:
    raise ValueError("its header is no JSON") from error
  if not isinstance(header, dict):
    raise ValueError("its header names no arrays")
  header.pop("__metadata__", None)
  return {
    name: _place(file, name, entry, 8 + length, size)
    for name, entry in header.items()
  }


def _place(
  file: BinaryIO, name: str, entry: Any, offset: int, size: int
) -> _Place:
  if not isinstance(entry, Mapping):
    raise ValueError(f"its header tells nothing of {name!r}")
  kind, shape = str(entry["dtype"]), tuple(entry["shape"])
  start, end = entry["data_offsets"]
  numbers = (*shape, start, end)
  if not all(type(x) is int and x >= 0 for x in numbers) or start > end:
    raise ValueError(f"its header tells an impossible place of {name!r}")
  if offset + end > size:
    raise ValueError(f"it is cut off at {name!r}")
  if kind in _DTYPES:
    itemsize = np.dtype(_DTYPES[kind]).itemsize
    if math.prod(shape) * itemsize != end - start:
      raise ValueError(f"the bytes of {name!r} do not fit its shape")
  return _Place(file, kind, shape, offset + start, end - start)
