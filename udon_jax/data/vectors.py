"""Vectors of one split in a `.npy` file, checked, and read a slice at a time.

Shape legend: n vectors, d their dimension.
"""

from collections.abc import Iterator, Sequence
import dataclasses
import itertools
import pathlib

from etils import epath
from jaxtyping import Float
import numpy as np

from udon_jax import errors

# How far from 1 the length of a "unit vector" may be: float16 rounds it by
# 5e-4 at most.
UNIT_TOLERANCE = 1e-3
_HUGE = 1e18  # its square is still a float32
_KNOWN_TYPES = ("float16", "float32", "float64")
_ROWS_AT_A_TIME = 256
_BYTES_AT_A_TIME = 2**24


@dataclasses.dataclass(frozen=True)
class Expected:
  """What a file must hold, for checks and their messages.

  Attributes:
    where: file, domain and split, as messages name them.
    num_rows: images of the split.
    info_file: which lists them.
  """

  where: str
  num_rows: int
  info_file: epath.Path

  def wrong_number(self, number: str) -> errors.UserError:
    """Returns the error of too many or too few vectors."""
    return errors.UserError(
      f"{self.where} has {number} vectors, but {self.info_file} lists "
      f"{self.num_rows} images; there must be one an image, in its order"
    )


@dataclasses.dataclass(frozen=True)
class FileRows:
  """The rows of a checked file, as float32; a `structs.Rows`.

  The file is mapped for the time of a read alone, so that what was read does
  not stay in memory.

  Attributes:
    path: a `.npy` file of floats.
    shape: number of vectors, and their dimension.
    oddest: the row whose length is farthest from 1, and its length.
    normalize: whether rows are divided by their lengths as they are read.
  """

  path: pathlib.Path
  shape: tuple[int, int]
  oddest: tuple[int, float]
  normalize: bool = False

  @property
  def distance(self) -> float:
    """How far a row's length is from 1, at most."""
    return abs(self.oddest[1] - 1)

  @property
  def is_unit(self) -> bool:
    """Whether all rows have unit length."""
    return self.distance <= UNIT_TOLERANCE

  def __len__(self) -> int:
    return self.shape[0]

  def __getitem__(self, rows: slice, /) -> Float[np.ndarray, "n d"]:
    start, stop, _ = rows.indices(len(self))
    result = np.empty((max(stop - start, 0), self.shape[1]), np.float32)
    for part in _parts(result.shape):
      source = np.load(self.path, mmap_mode="r", allow_pickle=False)
      block = _as_float32(source[start:stop][part])
      result[part] = block / _lengths(block) if self.normalize else block
    return result


def inspect(path: pathlib.Path, expected: Expected) -> FileRows:
  """Returns the rows of a `.npy` file, after checking them all.

  Raises:
    UserError: the file is damaged or holds objects, or a row is wrong.
  """
  where = expected.where
  try:
    source = np.load(path, mmap_mode="r", allow_pickle=False)
  except (ValueError, EOFError) as error:
    if "bject" in str(error) or "pickle" in str(error):
      raise errors.UserError(
        f"{where} holds Python objects or is no .npy file; objects may run "
        "code when they are read and are refused: save float32 vectors"
      ) from None
    raise errors.UserError(
      f"{where} is damaged ({error}); write it again, it may have been cut off"
    ) from None
  if not isinstance(source, np.ndarray) or source.ndim != 2:
    shape = getattr(source, "shape", "of several arrays")
    raise errors.UserError(
      f"{where} is {shape}; save one matrix, a row a vector"
    )
  if source.dtype.name not in _KNOWN_TYPES:
    raise errors.UserError(
      f"{where} is {source.dtype}; known types are {', '.join(_KNOWN_TYPES)}"
    )
  if len(source) != expected.num_rows:
    raise expected.wrong_number(str(len(source)))
  _check_dim(source.shape[1], where)
  rows = FileRows(path, source.shape, oddest=(0, 1.0))
  del source  # unmaps it
  oddest = [
    _check(rows[part], first=part.start, where=where)
    for part in _parts(rows.shape)
  ]
  return dataclasses.replace(rows, oddest=_farthest(oddest))


def write(
  path: pathlib.Path, rows: Iterator[Sequence[float]], expected: Expected
) -> FileRows:
  """Writes rows that come one by one, checking them, as `.npy` of float32.

  Raises:
    UserError: a row, or their number, is wrong.
  """
  where, oddest = expected.where, list[tuple[int, float]]()
  shape = (expected.num_rows, 0)
  first = 0
  with path.open("wb") as file:
    while batch := list(itertools.islice(rows, _ROWS_AT_A_TIME)):
      if not first:
        shape = (expected.num_rows, len(batch[0]))
        _check_dim(shape[1], where)
        header = {"descr": "<f4", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
      _check_batch(batch, first=first, dim=shape[1], expected=expected)
      block = _as_float32(np.array(batch, np.float64))
      oddest.append(_check(block, first=first, where=where))
      file.write(block.astype("<f4").tobytes())
      first += len(batch)
  if first != expected.num_rows:
    raise expected.wrong_number(str(first))
  return FileRows(path, shape, _farthest(oddest))


def _check_batch(batch, *, first, dim, expected) -> None:
  """Raises a UserError if rows differ in length, or are too many."""
  for row, values in enumerate(batch, first):
    if len(values) != dim:
      raise errors.UserError(
        f"{expected.where}: row {row} has {len(values)} numbers, those before "
        f"it {dim}; vectors of one file have one length"
      )
  if first + len(batch) > expected.num_rows:
    raise expected.wrong_number(f"more than {expected.num_rows}")


def _check_dim(dim: int, where: str) -> None:
  if not dim:
    raise errors.UserError(f"{where}: row 0 is empty; give it its numbers")


def _check(
  block: Float[np.ndarray, "n d"], *, first: int, where: str
) -> tuple[int, float]:
  """Returns the row whose length is farthest from 1, and that length.

  Raises:
    UserError: a row is zero or not finite.
  """
  lengths = _lengths(block)[:, 0]
  for wrong, what in (
    (~(lengths < _HUGE), "holds NaN, infinite or huge values"),
    (lengths == 0, "is zero, which is close to nothing"),
  ):
    if wrong.any():
      raise errors.UserError(
        f"{where}: row {first + int(wrong.argmax())} {what}; embed that image "
        "again (rows are counted from 0)"
      )
  row = int(np.abs(lengths - 1).argmax())
  return first + row, float(lengths[row])


def _farthest(oddest: Sequence[tuple[int, float]]) -> tuple[int, float]:
  return max(oddest, key=lambda found: abs(found[1] - 1))


def _lengths(block: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n 1"]:
  """Returns the length of every row, a function of that row alone."""
  exact = block.astype(np.float64, order="C")
  return np.sqrt(np.square(exact, out=exact).sum(axis=1, keepdims=True))


def _as_float32(block: np.ndarray) -> Float[np.ndarray, "n d"]:
  with np.errstate(over="ignore"):  # infinite values are refused by `_check`
    return np.asarray(block, np.float32, order="C")


def _parts(shape: tuple[int, ...]) -> Iterator[slice]:
  """Yields slices that cover all rows, a few megabytes each."""
  size = max(_BYTES_AT_A_TIME // (8 * shape[1]), 1)
  for start in range(0, shape[0], size):
    yield slice(start, start + size)
