"""Info files of a domain that its user described.

`info_files/<name>/` then holds a list for each split, as any domain's does;
`classes.txt`, the name of every class in the order of their numbers; and
`source.yaml`, what all of it was made from. Classes that are trained on have
the first numbers.
"""

import collections
from collections.abc import Mapping, Sequence
import json
import logging
import os
import posixpath
from typing import Any

from etils import epath
import yaml

from udon_jax import domains, errors, own_domains
from udon_jax.data import info, layout, notes, replacing
from udon_jax.data.sources import listing, making

_LOGGER = logging.getLogger("udon_jax.data.prepare")
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
  splits: Sequence[tuple[str, ...]]
  how = own.splits or (None if found.splits else _DEFAULT)
  if how is not None:
    _check_repeats(found)
    splits = making.split(found.paths, found.labels, how=how)
  else:
    assert found.splits is not None
    splits = found.splits
  _check(found, splits)
  counts = {name: sum(name in s for s in splits) for name in _names(splits)}
  spec = own.spec(frozenset(counts))
  _check_protocols(spec, counts, how=how, key=key)
  _check_queries(spec, found, splits, key=key)
  files = _contents(own, found, splits, spec=spec)
  target = place.info_files / own.name
  if not _same(target, files):
    _check_target(place, own.name, key=key)
    _tell_of_numbers(place, own.name, classes=files[notes.CLASSES_FILE])
    try:
      with replacing.folder(target) as temporary:
        for name, text in files.items():
          (temporary / name).write_text(text)
    except OSError as error:
      raise errors.UserError(
        f"{target} cannot be written ({error.strerror or error}); make room and"
        " a folder there that you may write to"
      ) from error
  _tell_of_unread(spec, counts, key=key)
  _LOGGER.info(
    "%s: %s",
    own.name,
    ", ".join(f"{count:,} images in {name}" for name, count in counts.items()),
  )
  return notes.with_images(place, own.name)


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
    if problem is None and not all(_is_line(label) for label in labels):
      problem = f"class {labels!r} is no line of text"
    if problem is None and len(labels) > 1 and _TRAIN in names:
      problem = f"a training image has one class, not {len(labels)}"
    for name in names:
      if problem is None and not own_domains.is_name(name):
        problem = f"split {name!r} is no name for a folder"
    if problem:
      raise errors.UserError(f"{row}: {problem}; correct it")


def _is_line(label: str) -> bool:
  """Whether a class can stand in a line of its own."""
  try:
    return not set(b"\n\r") & set(label.encode())
  except UnicodeEncodeError:  # half of a character
    return False


def _check_repeats(found: listing.Listing) -> None:
  """Raises for an image that is listed twice, and might be trained on once."""
  rows: dict[str, str] = {}
  for written, row in zip(found.paths, found.rows, strict=True):
    path = posixpath.normpath(written)  # a/b.jpg is also ./a//b.jpg
    if path in rows:
      raise errors.UserError(
        f"{row}: {written} was listed before ({rows[path]}), and could be both"
        " trained on and tested; list every image once, with all of its"
        " classes, or tell the splits"
      )
    rows[path] = row


def _check_target(place: layout.Layout, name: str, *, key: str) -> None:
  """Raises where lists that somebody made or changed would be lost."""
  target = place.info_files / name
  if any(target.glob("*.json")) and not ((target / notes.SOURCE_FILE).exists()):
    raise errors.UserError(
      f"{target} holds lists that were not made from {key}; give the domain"
      " another name, or move them away"
    )
  if edited := notes.edited(place, name):
    raise errors.UserError(
      f"{target / edited} was changed since it was made from {key}; move the"
      " folder away to have its lists made again, or describe it no longer: a"
      " domain of config.domains whose lists are there needs no description"
    )


def _tell_of_unread(
  spec: domains.DomainSpec, counts: Mapping[str, int], *, key: str
) -> None:
  """Says so where images are in splits that nothing reads."""
  unread = [name for name in counts if name not in spec.splits]
  if unread:
    _LOGGER.warning(
      "%s: neither training nor evaluation reads %s; correct the names of the"
      " splits, or name them by %s.val or .test",
      spec.name,
      ", ".join(f"the {counts[name]:,} images of {name!r}" for name in unread),
      key,
    )


def _tell_of_numbers(place: layout.Layout, name: str, *, classes: str) -> None:
  """Says so where classes get other numbers than they had before."""
  before = notes.class_names(place, name)
  if not before:
    return
  numbers = {label: i for i, label in enumerate(classes.split("\n")[:-1])}
  moved = [x for i, x in enumerate(before) if numbers.get(x) != i]
  if moved:
    _LOGGER.warning(
      "%s: %d of %d classes have another number now or are gone, the first is"
      " %r; class ids and prototypes of earlier runs mean other classes",
      name,
      len(moved),
      len(before),
      moved[0],
    )


def _contents(
  own: own_domains.OwnDomain,
  found: listing.Listing,
  splits: Sequence[tuple[str, ...]],
  *,
  spec: domains.DomainSpec,
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
  images = str(found.images)
  texts = {
    f"{name}.json": "[\n" + ",\n".join(lines) + "\n]\n"
    for name, lines in lists.items()
  }
  source = notes.source(
    own,
    images=images if "://" in images else os.path.abspath(images),
    spec=spec,
    lists=texts,
  )
  return {
    **texts,
    notes.CLASSES_FILE: "".join(f"{label}\n" for label in classes),
    notes.SOURCE_FILE: yaml.safe_dump(source, sort_keys=False),
  }


def _natural(label: str) -> tuple[int, int, str]:
  """Sorts numbers by value, before names."""
  is_number = label.isascii() and label.isdigit() and len(label) < 20
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
  spec: domains.DomainSpec,
  counts: Mapping[str, int],
  *,
  how: own_domains.Splits | None,
  key: str,
) -> None:
  """Raises unless all splits of training and evaluation are there."""
  wanted = dict.fromkeys(spec.splits)
  if how is not None and how.index:
    wanted |= {f"{split}_index": None for split in domains.EVAL_SPLITS}
  for name in wanted:
    if counts.get(name):
      continue
    cure = (
      "add some, name others by `val` and `test`, or let them be made:"
      ' splits = {"by": "class"}'
    )
    if how is not None:
      cure = (
        f"as made by {how.by}, these are too few images or too small shares;"
        f" change {key}.splits, or tell the splits"
      )
    raise errors.UserError(
      f"{key} has no images of the split {name!r}, only of"
      f" {', '.join(counts)}; {cure}"
    )


def _check_queries(
  spec: domains.DomainSpec,
  found: listing.Listing,
  splits: Sequence[tuple[str, ...]],
  *,
  key: str,
) -> None:
  """Raises where no query could find its class: a run would fail late."""
  counts: dict[str, collections.Counter[str]] = {}
  for labels, names in zip(found.labels, splits, strict=True):
    for name in names:
      counts.setdefault(name, collections.Counter()).update(labels)
  for split in domains.EVAL_SPLITS:
    protocol = spec.protocol(split)
    least = 2 if protocol.query == protocol.index else 1
    index = counts[protocol.index]
    if not any(index[label] >= least for label in counts[protocol.query]):
      raise errors.UserError(
        f"{key}: no image of {protocol.query!r} has a class that another of"
        f" {protocol.index!r} has, so that nothing could be found; correct the"
        f" splits, or name others by {key}.{split}"
      )
