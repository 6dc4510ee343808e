"""Checksums of the files of a folder, kept beside them.

They tell of a file that was damaged after it was written, which formats that
compress arrays notice by luck alone.
"""

import concurrent.futures
import json
import pathlib
import zlib

from etils import epath

FILE_NAME = "checksums.json"
_PIECE = 2**24  # bytes read at a time


def write(folder: epath.PathLike) -> None:
  """Writes the checksums of all files below a local folder into it."""
  root = pathlib.Path(folder)
  names = sorted(
    str(path.relative_to(root))
    for path in root.rglob("*")
    if path.is_file() and path.name != FILE_NAME
  )
  text = json.dumps(_of_files(epath.Path(folder), names), indent=1)
  (root / FILE_NAME).write_text(text)


def verify(folder: epath.PathLike) -> None:
  """Raises a ValueError unless all files are what they were when written.

  A folder without checksums is not checked: object stores, from which it may
  come, keep checksums of their own.
  """
  root = epath.Path(folder)
  if not (root / FILE_NAME).exists():
    return
  expected = json.loads((root / FILE_NAME).read_text())
  for name, value in _of_files(root, sorted(expected)).items():
    if value is None:
      raise ValueError(f"{name} is missing")
    if value != expected[name]:
      raise ValueError(f"{name} is not what was saved")


def _of_files(root: epath.Path, names: list[str]) -> dict[str, int | None]:
  with concurrent.futures.ThreadPoolExecutor() as pool:
    values = pool.map(lambda name: _of_file(root / name), names)
    return dict(zip(names, values, strict=True))


def _of_file(path: epath.Path) -> int | None:
  """Returns the CRC-32 of a file's contents, None if there is no file."""
  if not path.exists():
    return None
  value = 0
  with path.open("rb") as file:
    while piece := file.read(_PIECE):
      value = zlib.crc32(piece, value)
  return value
