"""Info files of a domain that its user described.

`info_files/<name>/` then holds a list for each split, as any domain's does;
`classes.txt`, the name of every class in the order of their numbers; and
`source.yaml`, what all of it was made from. Classes that are trained on have
the first numbers.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import json
import logging
import os
from typing import Any

from etils import epath
import yaml

from udon_jax import domains, errors, own_domains
from udon_jax.data import info, layout, replacing
from udon_jax.data.sources import listing, making

_LOGGER = logging.getLogger("udon_jax.data.prepare")
CLASSES_FILE = "classes.txt"
SOURCE_FILE = "source.yaml"
_TRAIN = domains.TRAIN_SPLIT
_DEFAULT = own_domains.Splits(by=own_domains.BY_CLASS)


def import_lists(
  own: own_domains.OwnDomain, place: layout.Layout
) -> layout.Layout:
  """Writes the info files of a domain; returns where its data lies.

  Files that would be the same are left alone.

  Args:
    own: the description; not one of records.
    place: of the data directory.

  Raises:
    UserError: the source cannot be read, or makes no splits to train and test.
  """
  key = f"config.own.{own.name}"
  found = _read(own, images=place.images, key=key)
  splits = found.splits
  how = own.splits
  if how is not None or splits is None:
    splits = making.split(found.paths, found.labels, how=how or _DEFAULT)
  _check(found, splits)
  counts = {name: sum(name in s for s in splits) for name in _names(splits)}
  _check_protocols(own.spec(frozenset(counts)), counts, key=key)
  files = _contents(own, found, splits)
  target = place.info_files / own.name
  if not _same(target, files):
    try:
      with replacing.folder(target) as temporary:
        for name, text in files.items():
          (temporary / name).write_text(text)
    except OSError as error:
      raise errors.UserError(
        f"{target} cannot be written ({error.strerror or error}); make room and"
        " a folder there that you may write to"
      ) from error
  _LOGGER.info(
    "%s: %s",
    own.name,
    ", ".join(f"{count:,} images in {name}" for name, count in counts.items()),
  )
  return with_images(place, own.name)


def check(own: own_domains.OwnDomain, place: layout.Layout) -> None:
  """Raises a UserError unless a domain's lists are of its description."""
  file = place.info_files / own.name / SOURCE_FILE
  cure = "run `python -m udon_jax.data.prepare` with the same --config"
  try:
    known = yaml.safe_load(file.read_text())["essence"].copy()
  except (OSError, ValueError, LookupError, AttributeError, yaml.YAMLError):
    raise errors.UserError(
      f"{file} is missing or damaged, so that config.own.{own.name} was not"
      f" prepared; {cure}"
    ) from None
  wanted = json.loads(json.dumps(own.essence()))
  differing = [key for key in wanted if known.get(key) != wanted[key]]
  if differing:
    key = differing[0]
    raise errors.UserError(
      f"config.own.{own.name}.{key} is {wanted[key]!r}, but its data was"
      f" prepared with {known.get(key)!r}; {cure}"
    )


def with_images(place: layout.Layout, domain: str) -> layout.Layout:
  """Returns a layout that knows where a domain's images lie."""
  try:
    source = (place.info_files / domain / SOURCE_FILE).read_text()
    folder = epath.Path(yaml.safe_load(source)["images"])
  except (OSError, ValueError, LookupError, TypeError, yaml.YAMLError):
    return place
  return dataclasses.replace(place, image_folder=folder)


def class_names(place: layout.Layout, domain: str) -> list[str] | None:
  """Returns the names of a domain's classes, or None where nothing tells."""
  try:
    text = (place.info_files / domain / CLASSES_FILE).read_text()
  except OSError:
    return None
  return text.split("\n")[:-1]


def _read(
  own: own_domains.OwnDomain, *, images: epath.Path, key: str
) -> listing.Listing:
  # TensorFlow is slow to import, and most callers only ask what was imported.
  if own.source == "folder":
    from udon_jax.data.sources import folder

    assert own.folder is not None
    return folder.read(own.folder, key=f"{key}.folder")
  if own.source == "table":
    from udon_jax.data.sources import table

    return table.read(own, key=key)
  from udon_jax.data.sources import built

  return built.read(own, images=images, key=key)


def _names(splits: Sequence[tuple[str, ...]]) -> list[str]:
  """Returns the names of all splits, training first."""
  names = {name for each in splits for name in each}
  return sorted(names, key=lambda name: (name != _TRAIN, name))


def _check(found: listing.Listing, splits: Sequence[tuple[str, ...]]) -> None:
  """Raises for paths that lead outside and for training on several classes."""
  for path, labels, row, names in zip(
    found.paths, found.labels, found.rows, splits, strict=True
  ):
    problem = info.path_problem(path)
    if problem is None and any("\n" in label for label in labels):
      problem = f"class {labels!r} has a line break"
    if problem is None and len(labels) > 1 and _TRAIN in names:
      problem = f"a training image has one class, not {len(labels)}"
    for name in names:
      if problem is None and not own_domains.is_name(name):
        problem = f"split {name!r} is no name for a folder"
    if problem:
      raise errors.UserError(f"{row}: {problem}; correct it")


def _contents(
  own: own_domains.OwnDomain,
  found: listing.Listing,
  splits: Sequence[tuple[str, ...]],
) -> dict[str, str]:
  """Returns the files of a domain by name."""
  trained = {
    label
    for labels, names in zip(found.labels, splits, strict=True)
    for label in labels
    if _TRAIN in names
  }
  classes = sorted(
    {label for labels in found.labels for label in labels},
    key=lambda label: (label not in trained, _natural(label)),
  )
  numbers = {label: number for number, label in enumerate(classes)}
  lists: dict[str, list[str]] = {name: [] for name in _names(splits)}
  for path, labels, names in zip(
    found.paths, found.labels, splits, strict=True
  ):
    ids = [numbers[label] for label in labels]
    entry = {"path": path, "class_id": ids if len(ids) > 1 else ids[0]}
    line = json.dumps(entry, ensure_ascii=False)
    for name in names:
      lists[name].append(line)
  source = {
    "essence": json.loads(json.dumps(own.essence())),
    "images": os.path.abspath(found.images)
    if "://" not in str(found.images)
    else str(found.images),
  }
  return {
    **{
      f"{name}.json": "[\n" + ",\n".join(lines) + "\n]\n"
      for name, lines in lists.items()
    },
    CLASSES_FILE: "".join(f"{label}\n" for label in classes),
    SOURCE_FILE: yaml.safe_dump(source, sort_keys=False),
  }


def _natural(label: str) -> tuple[int, int, str]:
  """Sorts numbers by value, before names."""
  is_number = label.isascii() and label.isdigit()
  return (0, int(label), label) if is_number else (1, 0, label)


def _same(target: epath.Path, files: Mapping[str, Any]) -> bool:
  """Whether a folder holds just these files."""
  try:
    there = {path.name for path in target.iterdir()}
    return there == files.keys() and all(
      (target / name).read_text() == text for name, text in files.items()
    )
  except (OSError, ValueError):
    return False


def _check_protocols(
  spec: domains.DomainSpec, counts: Mapping[str, int], *, key: str
) -> None:
  """Raises unless all splits of training and evaluation are there."""
  for name in spec.splits:
    if not counts.get(name):
      raise errors.UserError(
        f"{key} has no images of the split {name!r}, only of"
        f" {', '.join(counts)}; add some, name others by `val` and `test`, or"
        ' let them be made: splits = {"by": "class"}'
      )
