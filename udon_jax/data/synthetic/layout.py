"""Which images the set holds: splits, classes and files, as in UnED."""

import dataclasses
import hashlib
import types

import numpy as np

from udon_jax import domains, errors


@dataclasses.dataclass(frozen=True)
class Image:
  """One image: its file under `images/`, its classes, its number.

  Attributes:
    path: the file, relative to `images/`.
    class_ids: the class, or two where the image shows two.
    number: tells the images of a class apart.
  """

  path: str
  class_ids: tuple[int, ...]
  number: int


@dataclasses.dataclass(frozen=True)
class Counts:
  """How large a domain is.

  Attributes:
    train: training classes.
    per_class: smallest and largest number of training images of a class.
    val: validation classes (in Met: validation queries).
    test: test classes (in Met: test queries).
    queries: images of a class in val and test.
    index: images of a class in the index, where that is a split of its own.
    long_tail: most classes have few images.
  """

  train: int
  per_class: tuple[int, int]
  val: int
  test: int
  queries: int
  index: int = 0
  long_tail: bool = False


# The size "small"; the others scale it.
_SMALL = types.MappingProxyType(
  {
    "cars": Counts(48, (9, 13), 12, 32, 5),
    "sop": Counts(90, (6, 10), 20, 50, 4),
    "inshop": Counts(70, (6, 10), 20, 50, 3, index=4),
    "inat": Counts(80, (6, 12), 20, 50, 4),
    "met": Counts(160, (1, 14), 40, 150, 1, long_tail=True),
    "gldv2": Counts(130, (1, 28), 30, 60, 3, index=8, long_tail=True),
    "food2k": Counts(60, (9, 14), 15, 40, 5),
    "rp2k": Counts(64, (8, 12), 16, 40, 5),
  }
)
# Factors on the number of classes and on the images of a class.
_SCALES = types.MappingProxyType(
  {"small": (1.0, 1.0), "medium": (2.6, 1.7), "large": (7.0, 2.7)}
)
SIZES = ("smoke", *_SCALES)


def counts(size: str) -> dict[str, Counts]:
  """Returns how large each domain is.

  Args:
    size: a name of `SIZES`.

  Raises:
    UserError: the size is unknown.
  """
  if size not in SIZES:
    raise errors.UserError(
      f"--size={size}: unknown; known sizes: {', '.join(SIZES)}"
    )
  return {name: _scale(c, size) for name, c in _SMALL.items()}


def plan(size: str) -> dict[str, dict[str, list[Image]]]:
  """Returns all images: {domain: {split: images}}, in info-file order.

  Labels follow UnED: training classes are 0..C-1; those of val and test come
  after them, except in Met, whose queries show training classes.

  Args:
    size: a name of `SIZES`.
  """
  return {
    name: _plan_met(c) if name == "met" else _plan_domain(name, c)
    for name, c in counts(size).items()
  }


def _scale(count, size):
  """The counts of a domain at another size."""
  if size == "smoke":
    return dataclasses.replace(
      count,
      train=12 if count.long_tail else 6,
      per_class=(1, 5) if count.long_tail else (2, 3),
      val=3,
      test=8 if count.index == 0 and count.long_tail else 4,
      queries=min(count.queries, 2),
      index=min(count.index, 2),
    )
  classes, images = _SCALES[size]
  low, high = count.per_class
  return dataclasses.replace(
    count,
    train=round(count.train * classes),
    per_class=(
      low if count.long_tail else round(low * images),
      round(high * images),
    ),
    val=round(count.val * classes),
    test=round(count.test * classes),
    queries=round(count.queries * images),
    index=round(count.index * images),
  )


def _class_sizes(count, rng):
  """How many training images each class has."""
  low, high = count.per_class
  if not count.long_tail:
    return rng.integers(low, high + 1, size=count.train)
  sizes = np.floor(high * rng.uniform(0.04, 1.0, size=count.train) ** 4)
  sizes = np.clip(sizes, low, high).astype(int)
  sizes[:2] = (high, low)
  return sizes


def _plan_domain(name, count):
  """A domain whose train, val and test classes are disjoint."""
  rng = np.random.default_rng([domains.UNED_NAMES.index(name), 77])
  splits: dict[str, list] = {"train": []}
  for label, size in enumerate(_class_sizes(count, rng)):
    splits["train"] += _images(name, "train", label, range(size))
  label = count.train
  for split, classes in (("val", count.val), ("test", count.test)):
    splits[split] = []
    for _ in range(classes):
      splits[split] += _images(name, split, label, range(count.queries))
      label += 1
  if count.index:
    first = count.train + count.val
    numbers = range(count.queries, count.queries + count.index)
    splits["index"] = []
    for label in range(first, first + count.test):
      splits["index"] += _images(name, "index", label, numbers)
  return splits


def _plan_met(count):
  """Met: queries show training classes, some of them two; index = train."""
  rng = np.random.default_rng([domains.UNED_NAMES.index("met"), 77])
  train = []
  for label, size in enumerate(_class_sizes(count, rng)):
    train += _images("met", "train", label, range(size))
  splits = {"train": train}
  number = 1000  # numbers of queries begin above those of training images
  for split, queries in (("val", count.val), ("test", count.test)):
    labels = np.sort(rng.integers(count.train, size=queries))
    splits[split] = []
    for i, label in enumerate(labels.tolist()):
      other = (label + 1 + int(rng.integers(count.train - 1))) % count.train
      both = (label, other) if i % 6 == 0 else (label,)
      path = _path("met", split, label, number)
      splits[split].append(Image(path, both, number))
      number += 1
  shown = {label for image in splits["val"] for label in image.class_ids}
  others = set(range(0, count.train, 4))
  splits["small_index"] = [
    image for image in train if image.class_ids[0] in shown | others
  ]
  splits["index"] = list(train)
  return splits


def _images(name, split, label, numbers):
  """Images of one class."""
  return [Image(_path(name, split, label, n), (label,), n) for n in numbers]


def _path(name, split, label, number):
  """Where an image lies; each domain has a habit of its own, as in UnED."""
  key = hashlib.md5(f"{name}/{label}/{number}".encode()).hexdigest()
  folder = "train" if split == "train" else "test"
  match name:
    case "cars":
      path = f"cars_{folder}/{label:03d}/{number:05d}.jpg"
    case "sop":
      path = f"{_word(label, _SOP)}_final/{1000 + label}_{number}.JPG"
    case "inshop":
      sex = ("WOMEN", "MEN")[label % 2]
      path = f"img/{sex}/id_{label:08d}/{number:02d}_1_front.jpg"
    case "inat":
      path = f"{_word(label, _INAT)}/{label:04d}/{key}.jpg"
    case "met":
      path = f"MET/{label}/{number}.jpg"
    case "gldv2":
      path = f"{folder}/{key[0]}/{key[1]}/{key[2]}/{key[:16]}.jpg"
    case "food2k":
      path = f"{label}/{label}_{number}.jpg"
    case _:
      path = f"all/{label} {_word(label, _RP2K)}/{number:03d} (1).jpg"
  return f"{name}/{path}"


def _word(label, words):
  """A word for a class."""
  return words[label % len(words)]


_SOP = ("lamp", "kettle", "mug", "chair", "cabinet", "toaster")
_INAT = ("Plantae/Rosa canina", "Plantae/Acer", "Plantae/Quercus robur")
_RP2K = ("tea", "Grüner Tee", "café crème", "绿茶", "чай", "te verde")
