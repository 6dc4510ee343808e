"""Info files: which images a split has, and their classes.

`info_files/<domain>/<split>.json` holds a list of
`{"path": "...", "class_id": 3}` or `{"path": "...", "class_id": [3, 5]}`;
paths are relative to `images/` and never lead out of it, but through symbolic
links, which only the owner of the data can put there.

Shape legend: n images, l labels of an image.
"""

from collections.abc import Sequence
import dataclasses
import hashlib
import json
import re
import reprlib
from typing import Any

from etils import epath
from jaxtyping import Int
import numpy as np

from udon_jax import domains, errors

MAX_CLASS_ID = 2**31 - 1
_SEPARATOR = re.compile(r"[/\\]")
_ROOTS = re.compile(r"^(?:[/\\]|[A-Za-z]:[/\\])", re.MULTILINE)
_ROOT = re.compile(r"[/\\]|[A-Za-z]:[/\\]")
# Shows the start of values that are long or nested deeply.
_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxother = _REPR.maxlong = 80


@dataclasses.dataclass(frozen=True)
class SplitInfo:
  """The contents of an info file.

  Attributes:
    paths: path of every image, relative to `images/`.
    labels: class ids of every image, padded with -1 to the same length.
  """

  paths: Sequence[str]
  labels: Int[np.ndarray, "n l"]

  @property
  def num_classes(self) -> int:
    """Returns the highest class id plus one."""
    return int(self.labels.max()) + 1


def read_info(file: epath.PathLike, *, split: str) -> SplitInfo:
  """Reads and checks an info file.

  Args:
    file: path of the file.
    split: name of the split; "train" asks for one class id an image, all of
      them below the number of images.

  Raises:
    UserError: the file is missing, or an entry of it is wrong.
  """
  file = epath.Path(file)
  entries = _load(file)
  if not _are_sound(entries, split):
    for number, entry in enumerate(entries):
      problem = _problem(entry, split)
      if problem:
        raise errors.UserError(
          f"{file}: entry {number}: {problem}; correct the entry (entries are"
          " counted from 0) and prepare the data again"
        )
  labels = _pad([entry["class_id"] for entry in entries])
  info = SplitInfo([entry["path"] for entry in entries], labels)
  if split == domains.TRAIN_SPLIT:
    _check_class_count(file, info)
  return info


def fingerprint(file: epath.PathLike) -> str:
  """Returns a hash of an info file's bytes.

  Raises:
    UserError: the file is missing.
  """
  return hashlib.sha256(_read_bytes(epath.Path(file))).hexdigest()


def require(file: epath.PathLike) -> None:
  """Raises a `UserError` if an info file is missing."""
  if not epath.Path(file).is_file():
    raise _missing(file)


def _missing(file: epath.PathLike) -> errors.UserError:
  return errors.UserError(
    f"{file} is missing; every split needs this list of its images and"
    " classes, beside its records too: copy the info files of the data set"
    " there, name their folder (config.info_files_dir, --info_files), or write"
    " your own"
  )


def _read_bytes(file: epath.Path) -> bytes:
  try:
    return file.read_bytes()
  except FileNotFoundError:
    raise _missing(file) from None
  except OSError as error:
    raise errors.UserError(
      f"{file} cannot be read ({error.strerror or error}); make it a readable"
      " file"
    ) from None


def _load(file: epath.Path) -> list[Any]:
  """Returns the entries of an info file, unchecked."""
  text = _read_bytes(file)
  try:
    entries = json.loads(text)
  except RecursionError:
    raise errors.UserError(
      f"{file} holds lists in lists in lists, too deep to read; expected a"
      ' list of {"path": "...", "class_id": 0}'
    ) from None
  except ValueError as error:  # neither UTF-8 nor JSON
    raise errors.UserError(
      f"{file} is not valid JSON ({error}); write it again, it may have been"
      " cut off while it was copied"
    ) from None
  if not isinstance(entries, list):
    raise errors.UserError(
      f"{file} holds a JSON {type(entries).__name__}; expected a list of"
      ' {"path": "...", "class_id": 0}'
    )
  if not entries:
    raise errors.UserError(
      f"{file} lists no image; a split needs at least one: fill the list, or"
      " leave the domain out of config.domains"
    )
  return entries


def _are_sound(entries: list[Any], split: str) -> bool:
  """Tells fast whether `_problem` surely finds nothing; False is no answer."""
  try:
    paths = [entry["path"] for entry in entries]
    ids = [entry["class_id"] for entry in entries]
    text = "\n".join(paths)
    text.encode()
  except (TypeError, KeyError, IndexError, UnicodeEncodeError):
    return False
  # What `in` and the expression find can be harmless, what they miss cannot.
  if not all(paths) or "\0" in text or ".." in text or _ROOTS.search(text):
    return False
  # No row of several labels is on the fast way; bool is no int here.
  if set(map(type, entries)) != {dict} or set(map(type, ids)) != {int}:
    return False
  return min(ids) >= 0 and max(ids) <= MAX_CLASS_ID


def _problem(entry: Any, split: str) -> str | None:
  """Returns what is wrong with an entry, if anything."""
  if not isinstance(entry, dict) or not {"path", "class_id"} <= entry.keys():
    return f'{_short(entry)} is no {{"path": "...", "class_id": 0}}'
  path, class_id = entry["path"], entry["class_id"]
  if problem := path_problem(path):
    return problem
  ids = class_id if isinstance(class_id, list) else [class_id]
  if not ids or not all(_is_class_id(value) for value in ids):
    return (
      f"class_id {_short(class_id)} is neither an integer from 0 nor a list"
      " of them"
    )
  if split == domains.TRAIN_SPLIT and len(ids) > 1:
    return f"a training image has one class, not {len(ids)}"
  return None


def path_problem(path: Any) -> str | None:
  """Returns what is wrong with the path of an image, if anything."""
  if not isinstance(path, str) or not path or not _is_name(path):
    return f"path {_short(path)} is no file name"
  if _leaves_root(path):
    return (
      f"path {_short(path)} leads out of the folder of the images; make it"
      " relative to that"
    )
  return None


def _is_name(path: str) -> bool:
  """Tells whether a path can be one: no NUL, no half of a character."""
  try:
    return b"\0" not in path.encode()
  except UnicodeEncodeError:
    return False


def _leaves_root(path: str) -> bool:
  """Tells whether a path is absolute or has `..`, on any system."""
  return _ROOT.match(path) is not None or ".." in _SEPARATOR.split(path)


def _is_class_id(value: Any) -> bool:
  return type(value) is int and 0 <= value <= MAX_CLASS_ID


def _short(value: Any) -> str:
  text = _REPR.repr(value)
  return text if len(text) <= 80 else text[:77] + "..."


def _pad(class_ids: list[int | list[int]]) -> Int[np.ndarray, "n l"]:
  """Returns rows of class ids, padded with -1 to the longest."""
  if set(map(type, class_ids)) == {int}:
    return np.array(class_ids, np.int32)[:, None]
  ids = [row if isinstance(row, list) else [row] for row in class_ids]
  width = max(len(row) for row in ids)
  labels = np.full((len(ids), width), -1, np.int32)
  lengths = np.array([len(row) for row in ids])
  labels[np.arange(width) < lengths[:, None]] = [i for row in ids for i in row]
  return labels


def _check_class_count(file: epath.Path, info: SplitInfo) -> None:
  """Raises if there would be more classes than images to fill them."""
  if info.num_classes > len(info.paths):
    number = int(info.labels.max(1).argmax())
    raise errors.UserError(
      f"{file}: entry {number}: class_id {info.num_classes - 1} is out of"
      f" range: {len(info.paths)} images cannot fill {info.num_classes}"
      " classes; number the classes 0, 1, 2, ... without gaps"
    )
