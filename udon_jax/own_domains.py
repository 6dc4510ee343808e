"""Domains that users describe: where their images are, and how they are split.

A description is a mapping of plain values, from `config.own.<name>` or from a
YAML or JSON file:

  shoes:
    folder: /data/shoes            # shoes/<class>/<image>
    splits: {by: class, val: 0.1, test: 0.2}

It names exactly one source: an image folder, a table (CSV, JSONL, Parquet), a
data set of TensorFlow Datasets, or records that were made before.
"""

from collections.abc import Mapping
import dataclasses
import re
from typing import Any

from udon_jax import domains, errors

SOURCES = ("folder", "table", "tfds", "records")
BY_CLASS, BY_IMAGE = "class", "image"
INDEX = "index"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
# Which keys go with which source.
_OF = {
  "images": ("table",),
  "path_column": ("table",),
  "label_column": ("table",),
  "split_column": ("table",),
  "role_column": ("table",),
  "image_feature": ("tfds",),
  "label_feature": ("tfds",),
  "tfds_dir": ("tfds",),
  "splits": ("folder", "table", "tfds"),
}


@dataclasses.dataclass(frozen=True)
class Splits:
  """How a domain's images are split, where nothing tells it.

  Attributes:
    by: "class": whole classes are held out, as in most of UnED; "image":
      images of all classes, as in Met.
    val: share of the classes, or of each class's images, for validation.
    test: likewise, for the test.
    index: share of the images of an evaluation that are searched by the
      others. 0: by class, all images are both; by image, the training images
      are searched.
    seed: of the choice.
  """

  by: str
  val: float = 0.1
  test: float = 0.2
  index: float = 0.0
  seed: int = 0


@dataclasses.dataclass(frozen=True)
class OwnDomain:
  """A description of a domain, checked.

  Attributes:
    name: of the domain.
    folder: folder with a subfolder for each class, or with one for each split
      (train, val, test, ...) that holds those.
    table: file with a row for each image; .csv, .tsv, .jsonl or .parquet.
    tfds: name of a data set of TensorFlow Datasets (`name`, `name/config`,
      `name:1.0.0`), or the folder of one that was built.
    records: data directory with `info_files/<name>/` and the records.
    images: folder that the table's paths are relative to; None is that of the
      table.
    path_column: name of the table's column of paths.
    label_column: of the class, or of a list of them.
    split_column: of "train", "val", "test", ...; it may be absent.
    role_column: of "query", "index" or "both"; it may be absent.
    image_feature: name of the feature that holds the image.
    label_feature: of the class.
    tfds_dir: where data sets lie; None is TensorFlow Datasets' default.
    splits: how to split; None as the source tells, or by class.
    val: splits of (queries, index) of the validation; None is found out.
    test: likewise, of the test.
  """

  name: str
  folder: str | None = None
  table: str | None = None
  tfds: str | None = None
  records: str | None = None
  images: str | None = None
  path_column: str = "path"
  label_column: str = "label"
  split_column: str = "split"
  role_column: str = "role"
  image_feature: str = "image"
  label_feature: str = "label"
  tfds_dir: str | None = None
  splits: Splits | None = None
  val: tuple[str, str] | None = None
  test: tuple[str, str] | None = None

  @property
  def source(self) -> str:
    """Returns the name of the key that holds the source."""
    return next(key for key in SOURCES if getattr(self, key) is not None)

  def essence(self) -> dict[str, Any]:
    """Returns what decides classes and splits, as plain values: no places."""
    values = dataclasses.asdict(self)
    for key in (*SOURCES, "images", "tfds_dir", "name", "val", "test"):
      values.pop(key)
    return {"source": self.source, **values}

  def spec(self, splits: frozenset[str]) -> domains.DomainSpec:
    """Returns the protocols of the domain.

    Args:
      splits: those that it has.
    """
    found = domains.from_splits(self.name, splits)
    if self.splits and self.splits.by == BY_IMAGE and not self.splits.index:
      train = domains.TRAIN_SPLIT
      found = dataclasses.replace(
        found,
        val=domains.Protocol("val", train),
        test=domains.Protocol("test", train),
      )
    return dataclasses.replace(
      found,
      val=domains.Protocol(*self.val) if self.val else found.val,
      test=domains.Protocol(*self.test) if self.test else found.test,
    )


PATHS = ("folder", "table", "records", "images", "tfds_dir")
_STRINGS = tuple(
  field.name
  for field in dataclasses.fields(OwnDomain)
  if field.name not in ("name", "splits", "val", "test")
)
_KEYS = tuple(field.name for field in dataclasses.fields(OwnDomain))[1:]


def defaults() -> dict[str, Any]:
  """Returns the default of every key that has one."""
  return {
    field.name: field.default
    for field in dataclasses.fields(OwnDomain)
    if field.default is not dataclasses.MISSING
  }


def parse(name: str, described: Any, *, key: str) -> OwnDomain:
  """Returns a description, checked.

  Args:
    name: of the domain.
    described: the description.
    key: where it stands, for the message: "config.own.shoes".

  Raises:
    UserError: a key or value is wrong.
  """
  check_name(name, key)
  if not isinstance(described, Mapping):
    raise errors.UserError(
      f'{key}={described!r} is no description; expected {{"folder": ...}} or'
      f" another of {', '.join(SOURCES)}"
    )
  given = {k: v for k, v in described.items() if v is not None}
  for name_of in given:
    if name_of not in _KEYS:
      raise errors.UserError(
        f"{key}.{name_of} is unknown; known: {', '.join(_KEYS)}"
      )
  for name_of in _STRINGS:
    value = given.get(name_of, "x")
    if not isinstance(value, str) or not value:
      raise errors.UserError(f"{key}.{name_of}={value!r} must be a text")
  sources = [source for source in SOURCES if source in given]
  if len(sources) != 1:
    raise errors.UserError(
      f"{key} names {' and '.join(sources) or 'no source'}; give exactly one"
      f" of {', '.join(SOURCES)}"
    )
  for name_of, allowed in _OF.items():
    if name_of in given and sources[0] not in allowed:
      raise errors.UserError(
        f"{key}.{name_of} goes with {' or '.join(allowed)}, not with"
        f" {sources[0]}; leave it out"
      )
  for split in domains.EVAL_SPLITS:
    if split in given:
      given[split] = _protocol(given[split], key=f"{key}.{split}")
  if "splits" in given:
    given["splits"] = _splits(given["splits"], key=f"{key}.splits")
  return OwnDomain(name, **given)


def parse_all(own: Mapping[str, Any]) -> dict[str, OwnDomain]:
  """Returns the descriptions of `config.own`, as plain values, by name."""
  return {
    name: parse(name, described, key=f"config.own.{name}")
    for name, described in own.items()
  }


def is_name(value: Any) -> bool:
  """Tells whether a domain or split can have this name."""
  return isinstance(value, str) and _NAME.fullmatch(value) is not None


def check_name(name: Any, key: str) -> None:
  """Raises a UserError unless a domain can be described under a name."""
  if not is_name(name) or "." in name:  # which separates keys of configs
    raise errors.UserError(
      f"{key}: {name!r} is no name of a domain; use letters, digits, '_' and"
      " '-', as it names folders"
    )
  if name in domains.UNED:
    raise errors.UserError(
      f"{key} describes a domain of UnED; choose another name, or leave the"
      " description out"
    )


def _protocol(pair: Any, *, key: str) -> tuple[str, str]:
  if (
    not isinstance(pair, list | tuple)
    or len(pair) != 2
    or not all(map(is_name, pair))
  ):
    raise errors.UserError(
      f"{key}={pair!r} must be two splits, of the queries and of the index, as"
      ' ("test", "index")'
    )
  return tuple(pair)


def _splits(given: Any, *, key: str) -> Splits:
  known = [field.name for field in dataclasses.fields(Splits)]
  if not isinstance(given, Mapping) or not {"by"} <= given.keys() <= set(known):
    raise errors.UserError(
      f"{key}={given!r} must be of {', '.join(known)}, as"
      ' {"by": "class", "val": 0.1, "test": 0.2}'
    )
  if given["by"] not in (BY_CLASS, BY_IMAGE):
    raise errors.UserError(
      f"{key}.by={given['by']!r} must be {BY_CLASS!r} or {BY_IMAGE!r}"
    )
  for name in ("val", "test", INDEX):
    value = given.get(name, 0)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not 0 <= value < 1:
      raise errors.UserError(f"{key}.{name}={value!r} must be in [0, 1)")
  made = Splits(**given)
  if type(made.seed) is not int or not 0 <= made.seed < 2**32:
    raise errors.UserError(
      f"{key}.seed={made.seed!r} must be an integer in 0 .. {2**32 - 1}"
    )
  if not made.val or not made.test or made.val + made.test >= 1:
    raise errors.UserError(
      f"{key}: val={made.val} and test={made.test} must be above 0 and leave"
      " something to train on"
    )
  return made
