"""Which images must not be in two splits, and which classes.

The rule, for one domain:

- a query must not be a training image, nor a query of the test one of the
  validation, which chooses the checkpoint;
- a query is left out of its neighbours by its path, so that one that is also in
  its index, another split, is only noted; under another name it must not be;
- where evaluation is on classes that training has not seen (`Classes.NEW`), no
  class of an evaluation split is a training class, so that no image of an
  index is a training image either. Where training classes are searched
  (`Classes.TRAINED`), the index may hold the training images or be the train
  split itself, as Met's does. Where neither is known (`Classes.UNKNOWN`), both
  are told of and not held against the data: class ids may be numbered anew in
  every split.

What the protocol itself makes one split is no leak. Between domains, no query
may be a training image of another one, as one model is trained on all.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import enum
import typing

from jaxtyping import Int, UInt64
import numpy as np

from udon_jax import domains
from udon_jax.data.verification import digests, findings, infos


class Classes(enum.Enum):
  """How the classes of evaluation relate to those of training."""

  NEW = "new"
  TRAINED = "trained"
  UNKNOWN = "unknown"


ClassRule = Callable[[domains.DomainSpec], Classes]
# Its test is to recognise what was trained.
_TRAINED = ("met",)


def of_uned(spec: domains.DomainSpec) -> Classes:
  """Returns the rule of UnED's domains; that of others is not known."""
  if spec.name in _TRAINED:
    return Classes.TRAINED
  return Classes.NEW if spec.name in domains.UNED else Classes.UNKNOWN


class Pair(typing.NamedTuple):
  """Two splits that must not share an image.

  Attributes:
    one: name of the split whose images are told of.
    other: name of the split that holds them as well.
    kind: of `findings.KINDS`.
    is_note: see `findings.Group`.
  """

  one: str
  other: str
  kind: str
  is_note: bool = False


def pairs(spec: domains.DomainSpec, classes: Classes) -> list[Pair]:
  """Returns all pairs of a domain's splits that must not share an image."""
  train = domains.TRAIN_SPLIT
  protocols = (spec.val, spec.test)
  queries = {protocol.query: None for protocol in protocols}
  indexes = {
    protocol.index: None
    for protocol in protocols
    if protocol.index not in queries
  }
  found = [Pair(query, train, findings.LEAK) for query in queries]
  if classes is not Classes.TRAINED:
    is_note = classes is Classes.UNKNOWN
    found += [Pair(i, train, findings.LEAK, is_note) for i in indexes]
  found.append(Pair(spec.test.query, spec.val.query, findings.LEAK))
  found += [Pair(p.query, p.index, findings.OWN_INDEX) for p in protocols]
  known: dict[tuple[str, str], Pair] = {}
  for pair in found:
    if pair.one != pair.other:
      known.setdefault((pair.one, pair.other), pair)
  return list(known.values())


@dataclasses.dataclass(frozen=True)
class Marked:
  """Images of a split with what two of them must not share.

  Attributes:
    split: their split.
    rows: their entries.
    hashes: of their paths or contents.
    are_paths: which of both.
  """

  split: infos.Split
  rows: Int[np.ndarray, "n"]
  hashes: UInt64[np.ndarray, "n w"]
  are_paths: bool


def by_path(split: infos.Split) -> Marked:
  """Returns all images of a split by their paths."""
  return Marked(split, np.arange(len(split.paths)), split.places, True)


def shared(
  kind: str, one: Marked, other: Marked, *, is_note: bool = False
) -> list[findings.Group]:
  """Finds the images of one split that are in another one.

  Args:
    kind: of `findings.KINDS`.
    one: the images that are told of.
    other: where they must not be.
    is_note: see `findings.Group`.
  """
  hits = digests.match(one.hashes, other.hashes)
  return _tell(kind, one, other, hits, is_note=is_note)


def _tell(
  kind: str,
  one: Marked,
  other: Marked,
  hits: Int[np.ndarray, "n"],
  *,
  is_note: bool = False,
) -> list[findings.Group]:
  """Returns findings of images, each with where it is in another split or -1.

  One file is told of by its path, and not once more by its contents.
  """
  at = np.flatnonzero(hits >= 0)
  rows, there = one.rows[at], other.rows[hits[at]]
  if not one.are_paths and _is_in_one_folder(one, other):
    is_new = (one.split.places[rows] != other.split.places[there]).any(1)
    rows, there = rows[is_new], there[is_new]
  what = "is also" if one.are_paths else "has the same bytes as"
  return findings.of_entries(
    kind,
    one.split,
    rows,
    says=lambda i: f"{what} {other.split.entry(int(there[i]))}",
    is_note=is_note,
  )


def _is_in_one_folder(one: Marked, other: Marked) -> bool:
  return one.split.place.images == other.split.place.images


def check(
  spec: domains.DomainSpec,
  splits: Mapping[str, infos.Split],
  classes: Classes,
) -> list[findings.Group]:
  """Finds images and classes of a domain that stand in two splits.

  Args:
    spec: the domain.
    splits: those that could be read, by name.
    classes: how the classes of evaluation relate to those of training.
  """
  found = []
  for pair in pairs(spec, classes):
    if pair.one in splits and pair.other in splits:
      one, other = by_path(splits[pair.one]), by_path(splits[pair.other])
      is_note = pair.is_note or pair.kind == findings.OWN_INDEX
      found += shared(pair.kind, one, other, is_note=is_note)
  return [*found, *_shared_classes(splits, classes)]


def _shared_classes(
  splits: Mapping[str, infos.Split], classes: Classes
) -> list[findings.Group]:
  """Finds classes of evaluation splits that are trained."""
  trained = splits.get(domains.TRAIN_SPLIT)
  if classes is Classes.TRAINED or trained is None:
    return []
  known = np.unique(infos.pairs(trained.labels)[1])
  found = []
  for split in splits.values():
    if split is trained:
      continue
    rows, ids = infos.pairs(split.labels)
    ids, firsts = np.unique(ids, return_index=True)
    both = np.isin(ids, known)
    found += findings.of_entries(
      findings.SHARED,
      split,
      rows[firsts[both]],
      says=_says_class(ids[both]),
      is_note=classes is Classes.UNKNOWN,
    )
  return found


def _says_class(ids: np.ndarray) -> Callable[[int], str]:
  return lambda i: f"is of class {ids[i]}, which is a training class"


def across(
  specs: Sequence[domains.DomainSpec],
  marked: Mapping[tuple[str, str], Marked],
) -> list[findings.Group]:
  """Finds queries that are training images of another domain.

  Args:
    specs: the domains.
    marked: images by domain and split, as far as they could be read.
  """
  found = []
  for spec in specs:
    trained = marked.get((spec.name, domains.TRAIN_SPLIT))
    if trained is None:
      continue
    queries = [
      marked[key]
      for key in _queries(specs)
      if key[0] != spec.name and key in marked
    ]
    if trained.are_paths:  # which are relative to a folder
      queries = [q for q in queries if _is_in_one_folder(q, trained)]
    if not queries:
      continue
    # A training split is sorted once for all, not once for each of them.
    hits = digests.match(
      np.concatenate([query.hashes for query in queries]), trained.hashes
    )
    ends = np.cumsum([len(query.rows) for query in queries])
    for query, its_hits in zip(queries, np.split(hits, ends[:-1]), strict=True):
      found += _tell(findings.LEAK, query, trained, its_hits)
  return found


def _queries(specs: Sequence[domains.DomainSpec]) -> list[tuple[str, str]]:
  """Returns domain and name of every split of queries but train splits."""
  return [
    (spec.name, name)
    for spec in specs
    for name in dict.fromkeys((spec.val.query, spec.test.query))
    if name != domains.TRAIN_SPLIT
  ]
