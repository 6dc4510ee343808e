"""What a source lists: images, their classes, and their splits if it tells."""

from collections.abc import Sequence
import dataclasses

from etils import epath

# Splits as we name them.
SPLITS = frozenset(("train", "val", "test", "index", "val_index", "test_index"))
# What others call them.
_ALIASES = {
  "training": "train",
  "valid": "val",
  "validation": "val",
  "dev": "val",
  "testing": "test",
}


@dataclasses.dataclass(frozen=True)
class Listing:
  """The images of a source.

  Attributes:
    images: folder that paths are relative to.
    paths: of every image.
    labels: names of the classes of every image, at least one.
    splits: names of the splits of every image, at least one; None where
      nothing tells.
    rows: names the n-th image in messages.
  """

  images: epath.Path
  paths: Sequence[str]
  labels: Sequence[tuple[str, ...]]
  splits: Sequence[tuple[str, ...]] | None
  rows: Sequence[str]


def split_name(text: str) -> str:
  """Returns our name of a split that has another name elsewhere."""
  text = text.strip()
  lower = text.lower()
  return _ALIASES.get(lower, lower if lower in SPLITS else text)
