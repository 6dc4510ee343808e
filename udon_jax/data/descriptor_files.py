"""The forms in which descriptors are exchanged.

Told apart by what stands in the file, whatever its name; rows are in info-file
order:

  JSON    {domain: {split: [[...], ...]}}, as in the UnED repository
  JSON    {domain: {split: {embedding: [[...], ...]}}}, written by the official
          UDON code (as `descriptors_step_<n>.pkl`, which is JSON all the same)
  .npz    keys domain/split or domain/split/embedding
  folder  <domain>/<split>.npy or <domain>/<split>/<embedding>.npy

What is no `.npy` file yet is written as one, so that vectors of any number are
read a slice at a time.
"""

from collections.abc import Callable, Collection, Iterator
import functools
import itertools
import pathlib
import shutil
from typing import TypeAlias
import zipfile
import zlib

from udon_jax import errors
from udon_jax.data import json_rows, vectors

NAMELESS = "descriptors"  # the embedding of forms that name none

SplitsOf: TypeAlias = Callable[[str], Collection[str]]
Load: TypeAlias = Callable[[vectors.Expected], vectors.FileRows]
# Domain, split, embedding, and what checks and opens the rows.
Entry: TypeAlias = tuple[str, str, str, Load]

_PICKLE_START = b"\x80"  # of protocol 2 and later
_PICKLE_SUFFIXES = (".pkl", ".pickle")
_ZIP_START = b"PK"
_TORN = (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError)


def entries(
  path: pathlib.Path, *, splits_of: SplitsOf, folder: pathlib.Path
) -> Iterator[Entry]:
  """Yields what a file or folder holds of the splits that are wanted.

  Each must be loaded before the next is asked for.

  Args:
    path: the file or folder.
    splits_of: called with every domain that is met; returns its splits that
      are wanted.
    folder: for temporary files.

  Raises:
    UserError: the form is none of those above, or the file is damaged.
  """
  targets = (folder / f"{number}.npy" for number in itertools.count())
  if path.is_dir():
    found = _in_folder(path, splits_of)
  elif _start(path) == _ZIP_START:
    found = _in_npz(path, splits_of, targets)
  else:
    _check_json(path)
    found = _in_json(path, splits_of, targets)
  for domain, split, name, load in found:
    if not name or "/" in name or "\0" in name:
      raise errors.UserError(
        f"{path}: {domain}/{split}: embedding {name!r} cannot name a file; "
        "rename it"
      )
    yield domain, split, name, load


def _start(path: pathlib.Path) -> bytes:
  """Returns the first bytes of a file, without blanks."""
  with path.open("rb") as file:
    return file.read(64).lstrip()[:2]


def _check_json(path: pathlib.Path) -> None:
  """Raises a UserError unless a file begins as a JSON object."""
  start = _start(path)
  if start[:1] == b"{":
    return
  if start[:1] == _PICKLE_START or path.suffix in _PICKLE_SUFFIXES:
    raise errors.UserError(
      f"{path} is a pickle, which may run code when it is read, and is "
      "refused; save the vectors as .npz, .npy or JSON"
    )
  raise errors.UserError(
    f"{path} {'holds something else' if start else 'is empty'}; expected JSON "
    "{domain: {split: [[0.6, 0.8], ...]}}, an .npz file or a folder of .npy"
  )


def _in_json(path, splits_of, targets) -> Iterator[Entry]:
  with path.open("rb") as file:
    for domain, split, name, rows in json_rows.Reader(path, file).entries(
      splits_of
    ):
      load = functools.partial(vectors.write, next(targets), rows)
      yield domain, split, NAMELESS if name is None else name, load


def _in_npz(path, splits_of, targets) -> Iterator[Entry]:
  try:
    with zipfile.ZipFile(path) as archive:
      for member in archive.namelist():
        domain, *rest = member.removesuffix(".npy").split("/")
        if not 1 <= len(rest) <= 2:
          raise errors.UserError(
            f"{path}: key {member.removesuffix('.npy')!r} is no domain/split "
            "or domain/split/embedding, such as cars/test; rename it"
          )
        if rest[0] in splits_of(domain):
          load = functools.partial(_unpack, archive, member, next(targets))
          yield domain, *_split_and_name(rest), load
  except _TORN as error:
    raise errors.UserError(
      f"{path} is damaged ({error}); write it again, it may have been cut off"
    ) from None


def _unpack(
  archive: zipfile.ZipFile,
  member: str,
  target: pathlib.Path,
  expected: vectors.Expected,
) -> vectors.FileRows:
  """Copies an array out of an archive, whose checksum is verified by it."""
  try:
    with archive.open(member) as source, target.open("wb") as file:
      shutil.copyfileobj(source, file, 2**20)
  except _TORN as error:
    raise errors.UserError(
      f"{expected.where} is damaged ({error}); write the file again"
    ) from None
  return vectors.inspect(target, expected)


def _in_folder(path, splits_of) -> Iterator[Entry]:
  for domain in _visible(path):
    wanted = splits_of(domain.name) if domain.is_dir() else ()
    for place in _visible(domain) if wanted else ():
      if place.is_dir() and place.name in wanted:
        files = [x for x in _visible(place) if x.suffix == ".npy"]
      elif place.suffix == ".npy" and place.stem in wanted:
        files = [place]
      else:
        continue
      for file in files:
        parts = file.relative_to(domain).with_suffix("").parts
        load = functools.partial(vectors.inspect, file)
        yield domain.name, *_split_and_name(parts), load


def _visible(folder: pathlib.Path) -> list[pathlib.Path]:
  return sorted(x for x in folder.iterdir() if not x.name.startswith("."))


def _split_and_name(parts) -> tuple[str, str]:
  """Returns the split and the embedding of (split,) or (split, embedding)."""
  split, name = (*parts, NAMELESS)[:2]
  return split, name
