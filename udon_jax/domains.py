"""Domains: the UnED table, and how a split's queries and index relate.

Source: "Towards Universal Image Embeddings" (ICCV 2023), table 1, and the
official implementation: dataset_infos.py.
"""

from collections.abc import Collection
import dataclasses
import types

from udon_jax import errors

TRAIN_SPLIT = "train"
EVAL_SPLITS = ("val", "test")


@dataclasses.dataclass(frozen=True)
class Protocol:
  """Which split is searched by which; equal names exclude the query itself."""

  query: str
  index: str


@dataclasses.dataclass(frozen=True)
class DomainSpec:
  """What is known of a domain before its data is read.

  Attributes:
    name: the name used in configs, folders and records.
    val: protocol of the validation split.
    test: protocol of the test split.
    num_classes: training classes; None where only the data tells.
    num_examples: images of every split; empty where only the data tells.
  """

  name: str
  val: Protocol
  test: Protocol
  num_classes: int | None = None
  num_examples: types.MappingProxyType[str, int] = dataclasses.field(
    default_factory=lambda: types.MappingProxyType({})
  )

  def protocol(self, split: str) -> Protocol:
    """Returns the protocol of an evaluation split, "val" or "test"."""
    return {"val": self.val, "test": self.test}[split]

  @property
  def splits(self) -> tuple[str, ...]:
    """Names of all splits that training and evaluation read."""
    names = (TRAIN_SPLIT, self.val.query, self.val.index)
    return tuple(dict.fromkeys((*names, self.test.query, self.test.index)))


def _uned(name, num_classes, train, val, test, *, index=None, small_index=None):
  """One row of the UnED table."""
  counts = {"train": train, "val": val, "test": test}
  if index:
    counts["index"] = index
  if small_index:
    counts["small_index"] = small_index
  return DomainSpec(
    name,
    val=Protocol("val", "small_index" if small_index else "val"),
    test=Protocol("test", "index" if index else "test"),
    num_classes=num_classes,
    num_examples=types.MappingProxyType(counts),
  )


_UNED_TABLE = (
  _uned("cars", 78, 6_346, 1_708, 8_131),
  _uned("sop", 9_054, 48_942, 10_609, 60_502),
  _uned("inshop", 3_198, 20_897, 4_982, 14_218, index=12_612),
  _uned("inat", 4_552, 273_929, 51_917, 136_093),
  _uned("met", 224_408, 397_121, 129, 1_003, index=397_121, small_index=38_307),
  _uned("gldv2", 73_182, 1_422_914, 157_556, 1_129, index=761_757),
  _uned("food2k", 900, 472_349, 49_323, 9_979),
  _uned("rp2k", 1_074, 188_724, 17_185, 10_931),
)

UNED = types.MappingProxyType({spec.name: spec for spec in _UNED_TABLE})
UNED_NAMES = tuple(UNED)


def in_order(names: Collection[str]) -> list[str]:
  """Returns names of domains: UnED's in its order, then others by name."""
  others = sorted(set(names) - UNED.keys())
  return [*(name for name in UNED_NAMES if name in names), *others]


def from_splits(name: str, splits: Collection[str]) -> DomainSpec:
  """Returns a domain that is not of UnED, its protocols by its splits' names.

  The index of a split is `<split>_index`; of the test, `index` too; where there
  is none of these, the queries search one another.

  Args:
    name: of the domain.
    splits: those that it has.
  """

  def protocol(query, *others):
    found = [other for other in others if other in splits]
    return Protocol(query, found[0] if found else query)

  return DomainSpec(
    name,
    val=protocol("val", "val_index"),
    test=protocol("test", "test_index", "index"),
  )


def get_domain(name: str, *, key: str = "config.domains") -> DomainSpec:
  """Returns the description of a domain.

  Args:
    name: a name of `UNED_NAMES`.
    key: what the user named it in, for the message.

  Raises:
    UserError: the name is unknown.
  """
  if name not in UNED:
    raise errors.UserError(
      f"{key}: {name!r} is unknown; known domains: {', '.join(UNED_NAMES)}"
    )
  return UNED[name]
