"""Splits as their info files have them, and what is wrong within one.

Shape legend: n images, l labels of an image, w a hash as two words, p pairs of
image and label.
"""

from collections.abc import Iterator, Sequence
import dataclasses
import posixpath

from jaxtyping import Int, UInt64
import numpy as np

from udon_jax import domains
from udon_jax.data import info, layout
from udon_jax.data.verification import digests, findings

_PADDING = -1


class Names:
  """Many strings as one, for a fraction of the memory of a list."""

  def __init__(self, names: Sequence[str]):
    """Copies strings."""
    parts = [name.encode() for name in names]
    self._bytes = b"".join(parts)
    ends = np.cumsum(np.fromiter(map(len, parts), np.int64, len(parts)))
    self._starts = np.insert(ends, 0, 0)

  def __len__(self) -> int:
    """Returns the number of strings."""
    return len(self._starts) - 1

  def __getitem__(self, number: int) -> str:
    """Returns one string."""
    start, end = self._starts[number : number + 2]
    return self._bytes[start:end].decode()

  def __iter__(self) -> Iterator[str]:
    """Yields all."""
    return (self[i] for i in range(len(self)))


@dataclasses.dataclass(frozen=True)
class Split:
  """A split as its info file has it.

  Attributes:
    domain: name of the domain.
    name: name of the split.
    place: where the data lies.
    paths: of every image.
    labels: of every image, ascending without repetition, then padded with -1.
    places: hashes of the paths, equal where they lead to one file.
  """

  domain: str
  name: str
  place: layout.Layout
  paths: Names
  labels: Int[np.ndarray, "n l"]
  places: UInt64[np.ndarray, "n w"]

  @property
  def file(self) -> str:
    """Returns the path of the info file."""
    return str(self.place.info_file(self.domain, self.name))

  def entry(self, row: int) -> str:
    """Returns words for an entry, beside a message about another one."""
    return f"entry {row} of {self.domain}/{self.name}.json"

  def classes(self, row: int) -> str:
    """Returns the classes of an entry in words."""
    ids = [str(i) for i in self.labels[row] if i != _PADDING]
    return ("class " if len(ids) == 1 else "classes ") + ", ".join(ids)


def read(place: layout.Layout, domain: str, split: str) -> Split:
  """Reads the info file of a split.

  Raises:
    UserError: the file is missing, or an entry of it is wrong.
  """
  images = info.read_info(place.info_file(domain, split), split=split)
  return Split(
    domain,
    split,
    place,
    paths=Names(images.paths),
    labels=_as_sets(images.labels),
    places=digests.pack(
      digests.of_bytes(_plain(path).encode()) for path in images.paths
    ),
  )


def lists(split: Split, path: str) -> bool:
  """Returns whether an info file lists an image."""
  wanted = digests.pack([digests.of_bytes(_plain(path).encode())])
  return bool((split.places == wanted).all(1).any())


def _plain(path: str) -> str:
  """Returns one path of all that lead to a file."""
  return posixpath.normpath(path) if "//" in path or "./" in path else path


def _as_sets(labels: Int[np.ndarray, "n l"]) -> Int[np.ndarray, "n l"]:
  """Returns labels ascending and each once, the rest of a row padded."""
  if labels.shape[1] == 1:
    return labels
  last = np.iinfo(np.int64).max
  ordered = np.sort(np.where(labels == _PADDING, last, labels.astype(np.int64)))
  again = np.zeros(ordered.shape, bool)
  again[:, 1:] = ordered[:, 1:] == ordered[:, :-1]
  ordered = np.sort(np.where(again, last, ordered))
  return np.where(ordered == last, _PADDING, ordered).astype(np.int32)


def pairs(
  labels: Int[np.ndarray, "n l"],
) -> tuple[Int[np.ndarray, "p"], Int[np.ndarray, "p"]]:
  """Returns the row and the class of every label."""
  rows, columns = np.nonzero(labels != _PADDING)
  return rows, labels[rows, columns]


@dataclasses.dataclass(frozen=True)
class Row:
  """A line of the table of counts.

  Attributes:
    domain: name of the domain.
    split: name of the split.
    images: number of entries.
    classes: number of classes with an image.
    fewest: images of the smallest class.
    median: of the images of a class.
    most: images of the largest class.
    singletons: classes of one image.
  """

  domain: str
  split: str
  images: int
  classes: int
  fewest: int
  median: float
  most: int
  singletons: int


def count(split: Split) -> Row:
  """Returns the counts of a split."""
  _, sizes = np.unique(pairs(split.labels)[1], return_counts=True)
  return Row(
    split.domain,
    split.name,
    images=len(split.paths),
    classes=len(sizes),
    fewest=int(sizes.min()),
    median=float(np.median(sizes)),
    most=int(sizes.max()),
    singletons=int((sizes == 1).sum()),
  )


def check(split: Split) -> list[findings.Group]:
  """Finds images that a split lists again, and classes without an image."""
  return [*_repeated(split), *_empty(split)]


def _repeated(split: Split) -> list[findings.Group]:
  rows, firsts = digests.repeats(split.places)
  same = (split.labels[rows] == split.labels[firsts]).all(1)
  again, at = rows[same], firsts[same]
  other, at_other = rows[~same], firsts[~same]
  return [
    *findings.of_entries(
      findings.REPEATED,
      split,
      again,
      says=lambda i: f"stands at entry {at[i]} already",
    ),
    *findings.of_entries(
      findings.CONFLICT,
      split,
      other,
      says=lambda i: (
        f"is of {split.classes(other[i])}, but at entry {at_other[i]} of"
        f" {split.classes(at_other[i])}"
      ),
    ),
  ]


def _empty(split: Split) -> list[findings.Group]:
  if split.name != domains.TRAIN_SPLIT:
    return []
  empty = np.flatnonzero(np.bincount(pairs(split.labels)[1]) == 0)

  def tell(i: int) -> findings.Finding:
    message = f"{split.file}: class {empty[i]} has no image"
    return findings.Finding(
      findings.EMPTY, split.domain, split.name, split.file, None, None, message
    )

  return (
    [findings.Group(findings.EMPTY, len(empty), tell)] if len(empty) else []
  )


def check_counts(
  spec: domains.DomainSpec, splits: Sequence[Split]
) -> list[findings.Group]:
  """Finds what differs from UnED's table, of a domain that it has."""
  known = domains.UNED[spec.name]
  found = []
  for split in splits:
    numbers = []
    if split.name in known.num_examples:
      numbers.append(
        (len(split.paths), known.num_examples[split.name], "images")
      )
    if split.name == domains.TRAIN_SPLIT and known.num_classes is not None:
      numbers.append(
        (int(split.labels.max()) + 1, known.num_classes, "training classes")
      )
    found += [
      findings.one(
        findings.COUNTS,
        split.domain,
        split.name,
        file=split.file,
        message=f"{split.file}: {number:,} {what}, UnED has {wanted:,}",
      )
      for number, wanted, what in numbers
      if number != wanted
    ]
  return found
