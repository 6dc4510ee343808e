"""Descriptors of any form, and the retrieval tasks that they are for."""

from collections.abc import Collection, Mapping, Sequence
import dataclasses
import functools
import logging
import pathlib

from etils import epath

from udon_jax import domains as domain_table
from udon_jax import errors, structs
from udon_jax.data import (
  descriptor_files,
  info,
  layout,
  notes,
  vectors,
)

_LOGGER = logging.getLogger("udon_jax.evaluate")

_Key = tuple[str, str]  # (domain, split)


@dataclasses.dataclass(frozen=True)
class Descriptors:
  """Vectors and what they are the vectors of.

  Attributes:
    tasks: of every evaluation split, one a domain, in UnED's order, others
      after them by name.
    embeddings: rows of every (domain, split), by the embedding's name.
    odd: of every embedding whose rows are not of unit length, which row is
      farthest from it.
  """

  tasks: Mapping[str, Sequence[structs.RetrievalTask]]
  embeddings: Mapping[str, Mapping[_Key, vectors.FileRows]]
  odd: Sequence[str]


def read(
  path: pathlib.Path,
  *,
  info_files: epath.Path,
  splits: Sequence[str],
  domains: Sequence[str] | None,
  normalize: bool,
  folder: pathlib.Path,
) -> Descriptors:
  """Reads and checks descriptors of any form.

  Args:
    path: the file or folder.
    info_files: folder of the info files.
    splits: of "val" and "test".
    domains: which ones to take; all of the file if None.
    normalize: whether rows of an embedding are divided by their lengths where
      one is not of unit length.
    folder: for temporary files, which live as long as the result is used.

  Raises:
    UserError: anything is wrong with what the user gave.
  """
  wanted = _Wanted(path, splits, domains, info_files=info_files)
  load_split = functools.cache(
    functools.partial(_image_split, info_files=info_files)
  )
  found: dict[str, dict[_Key, vectors.FileRows]] = {}
  try:
    for domain, split, name, load in descriptor_files.entries(
      path, splits_of=wanted.splits_of, folder=folder
    ):
      rows = found.setdefault(name, {})
      where = f"{path}: {domain}/{split}"
      where += "" if name == descriptor_files.NAMELESS else f"/{name}"
      if (domain, split) in rows:
        raise errors.UserError(f"{where} stands there twice; keep one of them")
      expected = vectors.Expected(
        where,
        num_rows=len(load_split(domain, split).labels),
        info_file=layout.info_file(info_files, domain, split),
      )
      rows[domain, split] = read_rows = load(expected)
      _LOGGER.info("%s: %d vectors of %d dimensions", where, *read_rows.shape)
  except OSError as error:
    raise errors.UserError(
      f"{error.filename or path}: {error.strerror or error}; {path} must be "
      f"readable, and {folder.parent} have room for its vectors"
    ) from error
  wanted.check(found)
  return _describe(
    found, wanted=wanted, normalize=normalize, load_split=load_split
  )


class _Wanted:
  """Which splits of which domains are to be evaluated."""

  def __init__(self, path, splits, domains, *, info_files):
    self._path = path
    self.splits = splits
    self._chosen = domains
    self._info_files = info_files
    self._seen: set[str] = set()
    for name in domains or ():
      self._spec(name, key="--domains")

  def splits_of(self, domain: str) -> Collection[str]:
    """Returns the splits that are needed of a domain of the file.

    Raises:
      UserError: nobody knows the domain, and it was not left out.
    """
    self._seen.add(domain)
    if self._chosen is not None and domain not in self._chosen:
      return ()
    return self._needs(domain)

  @property
  def domains(self) -> list[str]:
    """The domains to evaluate, after all of the file were seen."""
    names = self._seen if self._chosen is None else set(self._chosen)
    return domain_table.in_order(names)

  def protocols(self, domain: str) -> dict[str, tuple[str, str]]:
    """Returns the splits of (queries, index) for every evaluation split."""
    spec = self._spec(domain, key=f"{self._path}: the domain")
    return {
      split: (spec.protocol(split).query, spec.protocol(split).index)
      for split in self.splits
    }

  def _spec(self, name: str, *, key: str) -> domain_table.DomainSpec:
    try:
      return notes.spec_of(self._info_files, name, key=key)
    except errors.UserError as error:
      raise errors.UserError(
        f"{error}; --domains takes some of the file's domains and leaves out"
        " others"
      ) from None

  def _needs(self, domain: str) -> set[str]:
    return {s for pair in self.protocols(domain).values() for s in pair}

  def check(self, found: Mapping[str, Mapping[_Key, vectors.FileRows]]) -> None:
    """Raises a UserError unless all is there, in one dimension."""
    if not self.domains:
      raise errors.UserError(
        f"{self._path} holds no domain; expected {{domain: {{split: ...}}}} "
        f"with domains of {', '.join(domain_table.UNED_NAMES)}"
      )
    absent = [name for name in self.domains if name not in self._seen]
    if absent:
      raise errors.UserError(
        f"--domains={absent[0]} is not in {self._path}, which has "
        f"{', '.join(sorted(self._seen))}"
      )
    for name in found or (descriptor_files.NAMELESS,):
      rows = found.get(name, {})
      for domain in self.domains:
        for split in sorted(self._needs(domain)):
          if (domain, split) not in rows:
            raise self._missing(name, domain, split)
      dims = {f"{d}/{s}": x.shape[1] for (d, s), x in rows.items()}
      if len(set(dims.values())) > 1:
        raise errors.UserError(
          f"{self._path}: {name} has vectors of several dimensions: {dims}; "
          "one search needs one dimension"
        )

  def _missing(self, name: str, domain: str, split: str) -> errors.UserError:
    of = "" if name == descriptor_files.NAMELESS else f" of embedding {name!r}"
    return errors.UserError(
      f"{self._path}: {domain}/{split}{of} is missing; add its vectors, choose "
      "--splits that are there, or name the other domains by --domains"
    )


def _describe(found, *, wanted, normalize, load_split) -> Descriptors:
  """Returns checked rows with their tasks."""
  odd, embeddings = list[str](), {}
  for name, rows in found.items():
    domain, split = key = max(rows, key=lambda key: rows[key].distance)
    if not rows[key].is_unit:
      row, length = rows[key].oddest
      odd.append(f"{name}: row {row} of {domain}/{split} has {length:.4g}")
    embeddings[name] = {
      key: dataclasses.replace(
        each, normalize=normalize and not rows[domain, split].is_unit
      )
      for key, each in rows.items()
    }
  tasks = {
    split: [
      structs.RetrievalTask(
        domain,
        *(load_split(domain, s) for s in wanted.protocols(domain)[split]),
      )
      for domain in wanted.domains
    ]
    for split in wanted.splits
  }
  return Descriptors(tasks, embeddings, odd)


def _image_split(
  domain: str, split: str, *, info_files: epath.Path
) -> structs.ImageSplit:
  """Returns a split of which only keys and labels are known."""
  images = info.read_info(
    layout.info_file(info_files, domain, split), split=split
  )
  return structs.ImageSplit(
    domain, split, keys=images.paths, labels=images.labels, open=_no_images
  )


def _no_images():
  raise AssertionError("descriptors come without images")
