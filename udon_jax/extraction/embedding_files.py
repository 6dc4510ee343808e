"""Files of embeddings: .npz, or .npy with a .json beside it.

Both are written in pieces, so that their size does not matter, and take the
place of earlier ones when they are complete.

Shape legend: n images, d embedding dim.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
import dataclasses
import itertools
import json
import pathlib
import shutil
from typing import Any, BinaryIO
import zipfile

import numpy as np

from udon_jax import errors

SUFFIXES = (".npz", ".npy")
_PIECE = 65_536  # names, or bytes x 16


@dataclasses.dataclass(frozen=True)
class Content:
  """What a file says.

  Attributes:
    paths: of the embedded images; every call goes through them once more.
    unreadable: of the others, likewise.
    embeddings: a file of the bytes of float32 [n, d], row by row.
    shape: (n, d).
    about: what else the .json says.
  """

  paths: Callable[[], Iterable[str]]
  unreadable: Callable[[], Iterable[str]]
  embeddings: pathlib.Path
  shape: tuple[int, int]
  about: Mapping[str, Any]


def check(name: str) -> pathlib.Path:
  """Returns the path of an output.

  Raises:
    UserError: no file of embeddings can be written under this name.
  """
  output = pathlib.Path(name)
  if "://" in name or output.suffix not in SUFFIXES:
    raise errors.UserError(
      f"--output={name} must be a local file that ends in "
      f"{' or '.join(SUFFIXES)}"
    )
  if output.is_dir():
    raise errors.UserError(f"--output={name} is a folder; choose another name")
  names = _names_file(output)
  if output.suffix == ".npy" and names.exists() and not output.exists():
    raise errors.UserError(
      f"--output={name} would replace {names}, which is none of its own; "
      "choose another name"
    )
  return output


def write(output: pathlib.Path, content: Content, *, folder: pathlib.Path):
  """Replaces the output.

  Args:
    output: an .npz or .npy file, as `check` allows.
    content: what to write.
    folder: of temporary files, on the same disk.
  """
  new = folder / f"new{output.suffix}"
  if output.suffix == ".npz":
    with zipfile.ZipFile(new, "w") as archive:
      _write_npz(archive, content)
    new.replace(output)
    return
  with new.open("wb") as file:
    _write_embeddings(file, content)
  new_names = folder / "new.json"
  with new_names.open("w", encoding="ascii") as file:
    file.writelines(_names(content))
  # Names and embeddings of two extractions never lie side by side.
  names = _names_file(output)
  names.unlink(missing_ok=True)
  new.replace(output)
  new_names.replace(names)


def _names_file(output: pathlib.Path) -> pathlib.Path:
  return output.with_suffix(".json")


def _write_npz(archive: zipfile.ZipFile, content: Content) -> None:
  for name, texts in (
    ("paths", content.paths),
    ("unreadable", content.unreadable),
  ):
    with _member(archive, name) as file:
      _write_texts(file, texts)
  with _member(archive, "embeddings") as file:
    _write_embeddings(file, content)


def _member(archive: zipfile.ZipFile, name: str) -> Any:
  return archive.open(f"{name}.npy", "w", force_zip64=True)


def _write_embeddings(file: BinaryIO, content: Content) -> None:
  _write_header(file, np.dtype(np.float32), content.shape)
  with content.embeddings.open("rb") as rows:
    shutil.copyfileobj(rows, file, _PIECE * 16)


def _write_texts(file: BinaryIO, texts: Callable[[], Iterable[str]]) -> None:
  """Writes an array of strings as wide as the longest."""
  count, longest = 0, 1
  for text in texts():
    count, longest = count + 1, max(longest, len(text))
  dtype = np.dtype(f"<U{longest}")
  _write_header(file, dtype, (count,))
  left = iter(texts())
  while piece := list(itertools.islice(left, _PIECE)):
    file.write(np.array(piece, dtype).tobytes())


def _write_header(
  file: BinaryIO, dtype: np.dtype, shape: tuple[int, ...]
) -> None:
  np.lib.format.write_array_header_1_0(
    file,
    {
      "descr": np.lib.format.dtype_to_descr(dtype),
      "fortran_order": False,
      "shape": shape,
    },
  )


def _names(content: Content) -> Iterator[str]:
  """Yields the .json, a name a line."""
  yield "{\n"
  for key, value in content.about.items():
    yield f'"{key}": {json.dumps(value)},\n'
  for key, texts in (
    ("unreadable", content.unreadable),
    ("paths", content.paths),
  ):
    yield f'"{key}": ['
    separator = "\n"
    for text in texts():
      yield separator + json.dumps(text)
      separator = ",\n"
    yield "\n]" + (",\n" if key == "unreadable" else "\n")
  yield "}\n"
