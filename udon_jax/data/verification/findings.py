"""What a verification finds, by kind.

There can be as many findings as images, so those of a kind and a split are a
`Group`: the numbers of what is wrong, and a function that tells of one.
"""

from collections.abc import Callable, Iterator, Sequence
import dataclasses
from typing import Any

import numpy as np

INFO = "unreadable info file"
COUNTS = "counts"
EMPTY = "empty classes"
REPEATED = "listed twice"
CONFLICT = "conflicting labels"
LEAK = "leak"
OWN_INDEX = "query in its index"
SHARED = "shared classes"
UNANSWERABLE = "no positives"
RECORDS = "records"
DAMAGED = "damaged records"
OTHER = "foreign records"
UNREADABLE = "undecodable images"
MISSING = "missing images"
DUPLICATE = "duplicates"

# What a kind is and what helps, in the order of a report.
KINDS = {
  INFO: "what they list was not looked at; correct them",
  COUNTS: "other numbers than UnED's table; complete the data",
  EMPTY: "training classes without an image, which have prototypes that nothing"
  " trains; number the classes 0, 1, 2, ... without gaps",
  REPEATED: "a split lists an image again, in the same class; drop the entry",
  CONFLICT: "one image in different classes; decide on one, or drop both",
  LEAK: "what is tested was trained on, or chosen by; drop it from one side",
  OWN_INDEX: "a query's own image is in the index it searches under another"
  " name, and is its nearest neighbour; drop it from the index",
  SHARED: "classes of evaluation that are trained, though they must be new;"
  " drop them from one side, or number them apart",
  UNANSWERABLE: "queries without an image of their class in their index always"
  " count as misses; complete the index or drop them",
  RECORDS: "a run would stop at them, or read them from start to end again;"
  " delete files that are damaged, and run `python -m udon_jax.data.prepare`",
  DAMAGED: "their bytes are not those that were written; delete their folder"
  " and prepare the data again",
  OTHER: "what is stored is not what the info file lists; delete the folder and"
  " prepare the data again",
  UNREADABLE: "replace the image or drop its entry, and prepare the data again",
  MISSING: "no such file in images/; add it or drop its entry",
  DUPLICATE: "the same bytes under two names, in the same class; drop one",
}
# Likewise, of kinds that are noted where the rule for a domain is not known.
NOTES = {
  LEAK: "index images that are trained too; fine where training images are what"
  " is searched for",
  OWN_INDEX: "queries that are in the index they search, as by the role `both`"
  " of a table; evaluation leaves each out of its own results",
  SHARED: "classes of evaluation with the number of a training class; fine if"
  " each split numbers its own",
}


@dataclasses.dataclass(frozen=True)
class Finding:
  """One thing that is wrong.

  Attributes:
    kind: of KINDS.
    domain: where it was found.
    split: likewise.
    file: the file to look into.
    entry: number of the entry or record there, from 0; None if it is not one.
    path: of the image, as the info file has it; None if it is not one.
    message: a sentence that names the file and the entry.
  """

  kind: str
  domain: str
  split: str
  file: str
  entry: int | None
  path: str | None
  message: str

  def to_json(self) -> dict[str, Any]:
    """Returns it as plain values."""
    return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True)
class Group:
  """Findings of one kind in one split.

  Attributes:
    kind: of KINDS.
    count: number of findings.
    tell: returns the i-th one, from 0.
    is_note: whether it is told without being held against the data.
  """

  kind: str
  count: int
  tell: Callable[[int], Finding]
  is_note: bool = False

  def __iter__(self) -> Iterator[Finding]:
    """Yields all findings."""
    return (self.tell(i) for i in range(self.count))


def one(
  kind: str, domain: str, split: str, *, file: Any, message: str
) -> Group:
  """Returns a group of a single finding about a file as a whole."""
  found = Finding(kind, domain, split, str(file), None, None, message)
  return Group(kind, 1, lambda _: found)


def several(found: Sequence[Finding]) -> list[Group]:
  """Returns groups of findings that exist already, one for each kind."""
  by_kind: dict[str, list[Finding]] = {}
  for finding in found:
    by_kind.setdefault(finding.kind, []).append(finding)
  return [
    Group(kind, len(members), members.__getitem__)
    for kind, members in by_kind.items()
  ]


def of_entries(
  kind: str,
  split: Any,
  rows: np.ndarray,
  *,
  says: Callable[[int], str],
  is_note: bool = False,
) -> list[Group]:
  """Returns the findings about entries of an info file, if there are any.

  Args:
    kind: of KINDS.
    split: an `infos.Split`.
    rows: the entries.
    says: what is wrong with the i-th of them, as the end of a sentence.
    is_note: see `Group`.
  """

  def tell(i: int) -> Finding:
    row = int(rows[i])
    path = split.paths[row]
    message = f"{split.file}: entry {row}: {path} {says(i)}"
    return Finding(
      kind, split.domain, split.name, split.file, row, path, message
    )

  return [Group(kind, len(rows), tell, is_note)] if len(rows) else []
