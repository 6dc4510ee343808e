"""Tables with a row for each image: CSV, TSV, JSON Lines or Parquet.

Columns: the path, the class (or a list of classes: in JSON Lines and Parquet as
such, in CSV as JSON, `["a", "b"]`), and, if wanted, the split and whether the
image is a query, in the index, or both.
"""

from collections.abc import Iterator, Mapping
import csv
import io
import json
import os
from typing import Any

from etils import epath

from udon_jax import domains, errors, own_domains
from udon_jax.data.sources import listing

SUFFIXES = (".csv", ".tsv", ".jsonl", ".parquet")
_OF_TEXT = (".csv", ".tsv")
_ROLES = ("query", "index", "both")


def read(own: own_domains.OwnDomain, *, key: str) -> listing.Listing:
  """Returns the images of a table.

  Args:
    own: the description.
    key: where it stands, for messages.

  Raises:
    UserError: the table cannot be read, or a row is wrong.
  """
  assert own.table is not None
  file = epath.Path(own.table).expanduser()
  folder = epath.Path(own.images).expanduser() if own.images else file.parent
  if own.images and not folder.is_dir():
    raise errors.UserError(
      f"{key}.images={own.images} is no folder; correct the path"
    )
  is_text = file.suffix.lower() in _OF_TEXT
  paths, labels, splits, rows = [], [], [], []
  for number, row in _rows(file, key=f"{key}.table"):
    where = f"{file}: row {number}"
    _require(row, own, where=where, key=key)
    path = row[own.path_column]
    if not isinstance(path, str) or not path:
      raise errors.UserError(
        f"{where}: {own.path_column}={path!r} is no path; correct the row"
      )
    paths.append(_below(path, folder))
    labels.append(
      _labels(
        row[own.label_column],
        where=f"{where}: {own.label_column}",
        is_text=is_text,
      )
    )
    splits.append(_splits(row, own, where=where))
    rows.append(where)
  if not paths:
    raise errors.UserError(f"{file} has no rows; list at least one image")
  told = [bool(each) for each in splits]
  if any(told) and not all(told):
    raise errors.UserError(
      f"{rows[told.index(False)]}: {own.split_column} is empty, but not in all"
      " rows; fill it everywhere or nowhere"
    )
  return listing.Listing(
    folder, paths, labels, splits if any(told) else None, rows
  )


def _rows(
  file: epath.Path, *, key: str
) -> Iterator[tuple[int, Mapping[str, Any]]]:
  """Yields the rows of a table with their numbers, from 1."""
  readers = {
    ".csv": _read_csv,
    ".tsv": _read_csv,
    ".jsonl": _read_jsonl,
    ".parquet": _read_parquet,
  }
  reader = readers.get(file.suffix.lower())
  if reader is None:
    raise errors.UserError(
      f"{key}={file} has an unknown suffix; known: {', '.join(SUFFIXES)}"
    )
  try:
    yield from enumerate(reader(file), 1)
  except errors.UserError:
    raise
  except OSError as error:
    raise errors.UserError(
      f"{key}={file} cannot be read ({error.strerror or error}); correct the"
      " path"
    ) from None
  except (ValueError, NotImplementedError, csv.Error, RecursionError) as error:
    message = " ".join(str(error).split())
    raise errors.UserError(
      f"{key}={file} cannot be read ({message}); correct the file"
    ) from None


def _read_csv(file: epath.Path) -> Iterator[Mapping[str, Any]]:
  delimiter = "\t" if file.suffix.lower() == ".tsv" else ","
  # A byte order mark, which spreadsheets write, is no part of a name.
  with (
    file.open("rb") as opened,
    io.TextIOWrapper(opened, encoding="utf-8-sig", newline="") as lines,
  ):
    rows = csv.DictReader(lines, delimiter=delimiter, strict=True)
    names = rows.fieldnames or ()
    if twice := [name for name in names if names.count(name) > 1]:
      raise ValueError(f"two columns are called {twice[0]!r}")
    for number, row in enumerate(rows, 1):
      if None in row:
        raise ValueError(f"row {number} has more cells than the first line")
      yield row


def _read_jsonl(file: epath.Path) -> Iterator[Mapping[str, Any]]:
  with file.open("r", encoding="utf-8") as lines:
    for number, line in enumerate(lines, 1):
      if line.strip():
        try:
          row = json.loads(line)
        except ValueError as error:
          raise ValueError(f"line {number} is no JSON: {error}") from None
        if not isinstance(row, dict):
          raise ValueError(f"line {number} holds no object")
        yield row


def _read_parquet(file: epath.Path) -> Iterator[Mapping[str, Any]]:
  try:
    from pyarrow import parquet
  except ImportError:
    raise errors.UserError(
      f"{file}: pyarrow, which reads Parquet, is not installed; run"
      " `pip install 'udon_jax[data]'`"
    ) from None
  with file.open("rb") as opened:
    for batch in parquet.ParquetFile(opened).iter_batches():
      yield from batch.to_pylist()


def _below(path: str, folder: epath.Path) -> str:
  """Returns an absolute path as one relative to a folder, if it leads there."""
  for start in (str(folder), os.path.abspath(folder)):
    is_absolute = os.path.isabs(start) or "://" in start
    if is_absolute and path.startswith(start.rstrip("/") + "/"):
      return path[len(start.rstrip("/")) :].lstrip("/")
  return path


def _require(row, own, *, where, key):
  """Raises unless a row has a path, a class, and what the user named."""
  for name, may_be_absent in (
    ("path_column", False),
    ("label_column", False),
    ("split_column", True),
    ("role_column", True),
  ):
    column = getattr(own, name)
    if may_be_absent and column == own_domains.defaults()[name]:
      continue
    if column not in row:
      raise errors.UserError(
        f"{where}: there is no column {column!r}, only {', '.join(row)}; name"
        f" it by {key}.{name}"
      )


def _labels(value: Any, *, where: str, is_text: bool) -> tuple[str, ...]:
  """Returns the classes of a cell.

  Args:
    value: the cell.
    where: it stands, for messages.
    is_text: whether all cells are text, and lists therefore JSON.
  """
  if is_text and value is not None and value.lstrip().startswith("["):
    try:
      value = json.loads(value)
    except (ValueError, RecursionError):
      raise errors.UserError(
        f'{where}={value!r} is no JSON list; write ["a", "b"]'
      ) from None
  values = value if isinstance(value, list) else [value]
  names = tuple(_label(each) for each in values)
  if not names or None in names:
    raise errors.UserError(
      f"{where}={value!r} is no class; give a name or number, or a list of them"
    )
  return tuple(dict.fromkeys(name for name in names if name is not None))


def _label(value: Any) -> str | None:
  """Returns the name of a class; None if it is none."""
  if isinstance(value, bool) or not isinstance(value, str | int | float):
    return None
  if isinstance(value, float):  # as columns with gaps become
    if not value.is_integer():
      return None
    value = int(value)
  return str(value).strip() or None


def _splits(row, own, *, where: str) -> tuple[str, ...]:
  """Returns the splits of a row; none where its cell is empty or absent."""
  split = row.get(own.split_column)
  role = row.get(own.role_column) or ""
  if split is None or split == "":
    if role:
      raise errors.UserError(
        f"{where}: {own.role_column}={role!r} without a {own.split_column}; say"
        " which split it is of"
      )
    return ()
  if not isinstance(split, str):
    raise errors.UserError(
      f"{where}: {own.split_column}={split!r} must be a name, as 'train'"
    )
  split = listing.split_name(split)
  role = role.strip().lower() if isinstance(role, str) else role
  if not role or split == domains.TRAIN_SPLIT:
    return (split,)
  if role not in _ROLES:
    raise errors.UserError(
      f"{where}: {own.role_column}={role!r} must be one of {', '.join(_ROLES)}"
    )
  query, index = split, f"{split}_index"
  return {"query": (query,), "index": (index,), "both": (query, index)}[role]
