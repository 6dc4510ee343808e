"""What is kept beside the lists of a domain that its user described.

`info_files/<domain>/source.yaml` tells what the lists were made from, where the
images lie, and the protocols; `classes.txt` the names of the classes.
`importing` writes both. Nothing here needs TensorFlow.
"""

from collections.abc import Mapping
import dataclasses
import hashlib
import json
import logging
import os
from typing import Any

from etils import epath
import yaml

from udon_jax import domains, errors, own_domains
from udon_jax.data import layout

_LOGGER = logging.getLogger(__name__)
CLASSES_FILE = "classes.txt"
SOURCE_FILE = "source.yaml"


def source(
  own: own_domains.OwnDomain,
  *,
  images: str,
  spec: domains.DomainSpec,
  lists: Mapping[str, str],
) -> dict[str, Any]:
  """Returns what is kept of a description, as plain values.

  Args:
    own: the description.
    images: folder that paths in the lists are relative to.
    spec: the domain's protocols.
    lists: text of every list, by the name of its file.
  """
  return {
    "from": _origin(own),
    "essence": json.loads(json.dumps(own.essence())),
    "images": images,
    "protocols": {
      split: list(dataclasses.astuple(spec.protocol(split)))
      for split in domains.EVAL_SPLITS
    },
    "lists": {
      name: hashlib.sha256(text.encode()).hexdigest()
      for name, text in lists.items()
    },
  }


def edited(place: layout.Layout, domain: str) -> str | None:
  """Returns a list that was changed or added since it was made, if any is."""
  known = _read(place.info_files, domain).get("lists")
  if not isinstance(known, dict):  # from before they were kept
    return None
  for file in place.lists(domain):
    if known.get(file.name) != hashlib.sha256(file.read_bytes()).hexdigest():
      return file.name
  return None


def _origin(own: own_domains.OwnDomain) -> str:
  """Returns what the source of a description is called, from anywhere."""
  value = getattr(own, own.source)
  is_name = own.source == "tfds" or "://" in value
  return value if is_name else os.path.realpath(os.path.expanduser(value))


def check(
  own: own_domains.OwnDomain, place: layout.Layout, *, info_files_key: str
) -> None:
  """Raises a UserError unless a domain's lists are of its description.

  Another place alone is only told: the data may have moved.

  Args:
    own: the description.
    place: where the lists are looked for.
    info_files_key: what names the folder of lists that lie elsewhere.
  """
  file = place.info_files / own.name / SOURCE_FILE
  again = "run `python -m udon_jax.data.prepare` with the same --config"
  found = _read(place.info_files, own.name)
  known = found.get("essence")
  if not isinstance(known, dict):
    raise errors.UserError(
      f"{file} is missing or damaged, so that config.own.{own.name} was not"
      f" prepared; {again}, or name the folder of its lists, if it lies"
      f" elsewhere, by {info_files_key}"
    )
  wanted = json.loads(json.dumps(own.essence()))
  # Keys that came after it was prepared had their default there.
  defaults = own_domains.defaults()
  known = {**{key: defaults.get(key) for key in wanted}, **known}
  differing = [key for key in wanted if known[key] != wanted[key]]
  if differing:
    key = differing[0]
    raise errors.UserError(
      f"config.own.{own.name}.{key} is {wanted[key]!r}, but its data was"
      f" prepared with {known[key]!r}; {again}"
    )

  origin = found.get("from", _origin(own))
  if origin != _origin(own):
    _LOGGER.warning(
      "config.own.%s.%s is %s, but its lists were made from %s; unless this is"
      " the same data, %s",
      own.name,
      own.source,
      _origin(own),
      origin,
      again,
    )


def splits_by(info_files: epath.Path, domain: str) -> str | None:
  """Returns what the splits of a domain were made by; None if not by us."""
  essence = _read(info_files, domain).get("essence")
  splits = essence.get("splits") if isinstance(essence, dict) else None
  by = splits.get("by") if isinstance(splits, dict) else None
  known = (own_domains.BY_CLASS, own_domains.BY_IMAGE)
  return by if by in known else None


def is_described(info_files: epath.Path, domain: str) -> bool:
  """Whether the lists of a domain were made from a description."""
  return bool(_read(info_files, domain))


def with_images(place: layout.Layout, domain: str) -> layout.Layout:
  """Returns a layout that knows where a domain's images lie."""
  images = _read(place.info_files, domain).get("images")
  if not isinstance(images, str):
    return place
  return dataclasses.replace(place, image_folder=epath.Path(images))


def class_names(place: layout.Layout, domain: str) -> list[str] | None:
  """Returns the names of a domain's classes, or None where nothing tells."""
  try:
    text = (place.info_files / domain / CLASSES_FILE).read_text()
  except (OSError, ValueError):
    return None
  return text.split("\n")[:-1]


def names_of_labels(
  place: layout.Layout, domain: str, *, num_classes: int
) -> tuple[str, ...] | None:
  """Returns the names of the classes that are trained on, by their labels.

  None where nothing tells, or where lists were changed since it was told.
  """
  found = class_names(place, domain)
  if found is None or len(found) < num_classes or edited(place, domain):
    return None
  return tuple(found[:num_classes])


def spec_of(
  info_files: epath.Path, name: str, *, key: str
) -> domains.DomainSpec:
  """Returns a domain of UnED, or one that has lists.

  Args:
    info_files: folder of the lists.
    name: of the domain.
    key: what the user named it in, for the message.

  Raises:
    UserError: it is neither.
  """
  if name in domains.UNED:
    return domains.UNED[name]
  splits = splits_of(info_files, name)
  if not splits:
    raise errors.UserError(
      f"{key}: {name!r} is unknown; known domains:"
      f" {', '.join(domains.UNED_NAMES)}, those that config.own describes, and"
      f" those with lists, but {info_files / name} holds no <split>.json"
    )
  found = domains.from_splits(name, splits)
  pairs = _read(info_files, name).get("protocols")
  told = {
    split: domains.Protocol(*pair)
    for split, pair in (pairs.items() if isinstance(pairs, dict) else ())
    if isinstance(pair, list) and len(pair) == 2
  }
  return dataclasses.replace(
    found, val=told.get("val", found.val), test=told.get("test", found.test)
  )


def splits_of(info_files: epath.Path, name: str) -> frozenset[str]:
  """Returns the splits that a domain has lists of; none if it is no name."""
  folder = info_files / name
  if not own_domains.is_name(name) or not folder.is_dir():
    return frozenset()
  return frozenset(file.stem for file in folder.glob("*.json"))


def names(info_files: epath.Path) -> list[str]:
  """Returns the domains that have a folder of lists, sorted."""
  if not info_files.is_dir():
    return []
  return sorted(
    path.name
    for path in info_files.iterdir()
    if path.is_dir() and not path.name.startswith(".")
  )


def _read(info_files: epath.Path, domain: str) -> Mapping[str, Any]:
  """Returns what source.yaml holds; nothing if it is absent or damaged."""
  try:
    found = yaml.safe_load((info_files / domain / SOURCE_FILE).read_text())
  except (OSError, ValueError, RecursionError, yaml.YAMLError):
    return {}
  return found if isinstance(found, dict) else {}
