"""Images of the same bytes: within a split, and where they must not be.

Shape legend: n images.
"""

from collections.abc import Mapping, Sequence

from jaxtyping import Bool
import numpy as np

from udon_jax import domains
from udon_jax.data.verification import digests, findings, infos, leaks


def mark(
  split: infos.Split, hashes: np.ndarray, known: Bool[np.ndarray, "n"]
) -> leaks.Marked:
  """Returns the images of a split by their contents, as far as known.

  An image that is listed again under its own path is left out: it is told of
  by its path.
  """
  once = known.copy()
  once[digests.repeats(split.places)[0]] = False
  rows = np.flatnonzero(once)
  return leaks.Marked(split, rows, hashes[rows], are_paths=False)


def check(
  specs: Sequence[domains.DomainSpec],
  marked: Mapping[tuple[str, str], leaks.Marked],
  *,
  class_rule: leaks.ClassRule,
) -> list[findings.Group]:
  """Finds images of the same bytes under different paths.

  Args:
    specs: the domains.
    marked: images by domain and split, as `mark` returns them.
    class_rule: how the classes of evaluation relate to those of training.
  """
  found = []
  for images in marked.values():
    found += _within(images)
  for spec in specs:
    for pair in leaks.pairs(spec, class_rule(spec)):
      one = marked.get((spec.name, pair.one))
      other = marked.get((spec.name, pair.other))
      if one is not None and other is not None:
        found += leaks.shared(pair.kind, one, other, is_note=pair.is_note)
  return found + leaks.across(specs, marked)


def _within(images: leaks.Marked) -> list[findings.Group]:
  split = images.split
  again, firsts = digests.repeats(images.hashes)
  rows, at = images.rows[again], images.rows[firsts]
  same = (split.labels[rows] == split.labels[at]).all(1)
  equal, at_equal = rows[same], at[same]
  other, at_other = rows[~same], at[~same]
  return [
    *findings.of_entries(
      findings.DUPLICATE,
      split,
      equal,
      says=lambda i: _says(split, int(at_equal[i])),
    ),
    *findings.of_entries(
      findings.CONFLICT,
      split,
      other,
      says=lambda i: (
        f"{_says(split, int(at_other[i]))}, but is of"
        f" {split.classes(other[i])}, not {split.classes(at_other[i])}"
      ),
    ),
  ]


def _says(split: infos.Split, row: int) -> str:
  return f"has the same bytes as entry {row}, {split.paths[row]}"
