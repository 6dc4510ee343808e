"""Named arrays of a file of weights, each read when it is asked for."""

from collections.abc import Callable, Mapping
import dataclasses
import math
import tokenize
from typing import IO
import zipfile

from etils import epath
import numpy as np

from udon_jax import errors


@dataclasses.dataclass(frozen=True)
class Arrays:
  """What a file of weights holds.

  Attributes:
    path: the file or folder, for messages.
    key: what the user set it with ("config.pretrained"), for messages.
    shapes: shape of every array, by name.
    read: reads one array, by name.
  """

  path: str
  key: str
  shapes: Mapping[str, tuple[int, ...]]
  read: Callable[[str], np.ndarray]

  def error(self, what: str) -> errors.UserError:
    """Returns the error that something is wrong with the file."""
    return errors.UserError(f"{self.key}: {self.path} {what}")

  def shape(self, name: str) -> tuple[int, ...]:
    """Returns the shape of an array.

    Raises:
      UserError: there is no such array.
    """
    if name not in self.shapes:
      raise self.error(
        f"lacks {name!r}; is it a file of this kind, and whole? it holds "
        f"{len(self.shapes)} arrays"
      )
    return self.shapes[name]

  def take(self, name: str, *, most: int) -> np.ndarray:
    """Returns an array as float32.

    Args:
      name: of the array.
      most: elements that it may have; nothing larger is unpacked.

    Raises:
      UserError: it is missing, too large, damaged, or holds no numbers.
    """
    if math.prod(self.shape(name)) > most:
      raise self.error(
        f"has {name} {self.shapes[name]}, more than the model's parameter "
        f"holds; it is of another model"
      )
    try:
      value = np.asarray(self.read(name))
    except errors.UserError:
      raise
    except (OSError, EOFError, ValueError, zipfile.BadZipFile) as error:
      raise self.error(
        f"is damaged at {name} ({error}); copy it again"
      ) from error
    if value.dtype.kind not in "fiu" and value.dtype.name != "bfloat16":
      raise self.error(f"has {name} of type {value.dtype}, no numbers")
    return value.astype(np.float32, copy=False)


def open_npz(path: epath.PathLike, *, key: str) -> Arrays:
  """Returns the arrays of a .npz file; nothing in it is executed.

  Raises:
    UserError: the file cannot be read, or holds pickled objects.
  """
  path = epath.Path(path)
  shapes = {}
  try:
    file = zipfile.ZipFile(path.open("rb"))
    for entry in file.namelist():
      with file.open(entry) as member:
        shapes[entry.removesuffix(".npy")] = _read_shape(member)
  except (
    *(OSError, EOFError, zipfile.BadZipFile, NotImplementedError),
    *(ValueError, TypeError, RuntimeError),  # pickles, encrypted members
  ) as error:
    raise errors.UserError(
      f"{key}: {path} cannot be read as .npz ({error}); give a whole file of "
      "arrays without pickled objects"
    ) from error

  def read(name):
    with file.open(f"{name}.npy") as member:
      return np.lib.format.read_array(member, allow_pickle=False)

  return Arrays(str(path), key, shapes, read)


def _read_shape(member) -> tuple[int, ...]:
  """Returns the shape that the header of a .npy file tells."""
  shape, dtype = read_header(member)
  if dtype.hasobject:
    raise ValueError("pickled objects")
  return shape


def read_header(file: IO[bytes]) -> tuple[tuple[int, ...], np.dtype]:
  """Returns shape and type that the header of a .npy file tells.

  Raises:
    ValueError: it is no header of a version that exists.
  """
  version = np.lib.format.read_magic(file)
  readers = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
  }
  if version not in readers:
    raise ValueError(f"unknown version {version} of .npy")
  try:
    shape, _, dtype = readers[version](file)
  except (SyntaxError, tokenize.TokenError, MemoryError, RecursionError) as e:
    raise ValueError("the header of .npy is damaged") from e
  return shape, dtype
