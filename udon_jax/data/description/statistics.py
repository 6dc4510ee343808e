"""Numbers of images and classes, and how unevenly these are filled.

Shape legend: n images, l labels of an image.
"""

from collections.abc import Sequence
import dataclasses
import io

from jaxtyping import Int
import numpy as np
from PIL import Image

from udon_jax import domains
from udon_jax.data import examples, info, places, records, splits, storing

_FEW = 5  # images of a class that belongs to the tail
_LOOKED_AT = 64  # images whose size is read


@dataclasses.dataclass(frozen=True)
class SplitNumbers:
  """Numbers of a split.

  Attributes:
    name: of the split.
    images: how many.
    classes: that have images.
    per_class: least, median and most images of a class.
    few: share of the classes that have fewer than 5 images.
    head: share of the images that the tenth of largest classes holds.
    num_bytes: of the records.
    store: how they hold images.
    sizes: "width x height" of the smallest, a middle and the largest of some
      images.
  """

  name: str
  images: int
  classes: int
  per_class: tuple[int, int, int]
  few: float
  head: float
  num_bytes: int
  store: str
  sizes: tuple[str, str, str]


def of_domain(place: places.Place) -> list[SplitNumbers]:
  """Returns the numbers of all splits of a domain, training first.

  Raises:
    UserError: a file is missing or wrong.
  """
  return [_of_split(place, split) for split in place.spec.splits]


def _of_split(place: places.Place, split: str) -> SplitNumbers:
  where = place.layout
  images = info.read_info(where.info_file(place.name, split), split=split)
  files = splits.open_records(where, place.name, split)
  counts = class_counts(images.labels)
  return SplitNumbers(
    name=split,
    images=len(images.paths),
    classes=len(counts),
    per_class=(int(counts[0]), int(np.median(counts)), int(counts[-1])),
    few=float(np.mean(counts < _FEW)),
    head=head_share(counts),
    num_bytes=sum(file.stat().length for file in files.files),
    store=files.store.name,
    sizes=_sizes(files),
  )


def class_counts(labels: Int[np.ndarray, "n l"]) -> Int[np.ndarray, "c"]:
  """Returns how many images each class that has any has, fewest first."""
  counts = np.unique(labels[labels >= 0], return_counts=True)[1]
  return np.sort(counts)


def head_share(counts: Int[np.ndarray, "c"]) -> float:
  """Returns the share of the images that the largest tenth of classes has.

  Args:
    counts: images of every class, fewest first.
  """
  tenth = -(-len(counts) // 10)
  return float(counts[-tenth:].sum() / counts.sum())


def _sizes(files: records.RecordFiles) -> tuple[str, str, str]:
  """Returns sizes of some images, by their number of pixels."""
  numbers = np.unique(
    np.linspace(0, len(files) - 1, min(len(files), _LOOKED_AT)).astype(int)
  )
  found = []
  for number in numbers.tolist():
    data = storing.to_file(examples.image_bytes(files.read(number)), files)
    try:
      with Image.open(io.BytesIO(data)) as image:
        found.append(image.size)
    except OSError:
      continue  # what is damaged is the matter of `verify`
  found.sort(key=lambda size: size[0] * size[1])
  if not found:
    return ("?", "?", "?")
  low, middle, high = (
    "{}x{}".format(*found[i]) for i in (0, len(found) // 2, -1)
  )
  return low, middle, high


def to_text(place: places.Place, numbers: Sequence[SplitNumbers]) -> str:
  """Returns a table of a domain's splits."""
  head = (
    "split",
    "images",
    "classes",
    "images of a class",
    "classes < 5",
    "largest 10 %",
    "GB",
    "store",
    "pixels",
  )
  rows = [
    (
      each.name,
      f"{each.images:,}",
      f"{each.classes:,}",
      "{} - {} - {}".format(*each.per_class),
      f"{each.few:.0%}",
      f"{each.head:.0%}",
      f"{each.num_bytes / 1e9:.3f}",
      each.store,
      " - ".join(dict.fromkeys(each.sizes)),
    )
    for each in numbers
  ]
  widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
  lines = [
    "  ".join(
      cell.ljust(width) if i in (0, 7, 8) else cell.rjust(width)
      for i, (cell, width) in enumerate(zip(row, widths, strict=True))
    ).rstrip()
    for row in [head, *rows]
  ]
  return "\n".join([f"{place.name}: {protocols(place.spec)}", *lines])


def protocols(spec: domains.DomainSpec) -> str:
  """Returns who searches whom, in words."""
  words = []
  for name in domains.EVAL_SPLITS:
    pair = spec.protocol(name)
    among = "itself" if pair.query == pair.index else pair.index
    words.append(f"{pair.query} searches {among}")
  return "; ".join(words)
