"""Verifies the data of some domains, from info files to pixels."""

from collections.abc import Sequence
import dataclasses
import logging

from udon_jax import domains, errors
from udon_jax.data import layout, records
from udon_jax.data.verification import (
  findings,
  infos,
  leaks,
  missing,
  protocols,
  stored,
)

logger = logging.getLogger("udon_jax.data.verify")
_Key = tuple[str, str]  # (domain, split)


@dataclasses.dataclass(frozen=True)
class Result:
  """What was found.

  Attributes:
    rows: counts of every split that could be read.
    found: what is wrong.
    notes: what may be right.
  """

  rows: Sequence[infos.Row]
  found: Sequence[findings.Group]
  notes: Sequence[findings.Group]


def verify(
  places: Sequence[tuple[domains.DomainSpec, layout.Layout]],
  *,
  class_rule: leaks.ClassRule,
  uned: bool,
  images: bool,
  num_workers: int,
) -> Result:
  """Verifies the data of some domains; damage is found, not raised.

  Args:
    places: the domains, and where the data of each lies.
    class_rule: how the classes of a domain's evaluation relate to those of its
      training, such as `leaks.of_uned`.
    uned: whether counts must be those of UnED's table, of domains that it has.
    images: whether every image is read; needs TensorFlow.
    num_workers: threads that read.

  Raises:
    UserError: `images` are wanted and TensorFlow is not installed.
  """
  if images:  # TensorFlow is slow to import
    from udon_jax.data import preprocess  # noqa: F401, PLC0415 (or says why)
    from udon_jax.data.verification import reading  # noqa: PLC0415

  specs = [spec for spec, _ in places]
  splits: dict[_Key, infos.Split] = {}
  found: list[findings.Group] = []
  for spec, place in places:
    logger.info("reading the info files of %s", spec.name)
    own, unreadable = _read(spec, place)
    splits |= {(spec.name, name): split for name, split in own.items()}
    found += unreadable
    if uned and spec.name in domains.UNED:
      found += infos.check_counts(spec, list(own.values()))
    elif uned:
      logger.info("%s is not in UnED's table; its counts may be any", spec.name)
    for split in own.values():
      found += infos.check(split)
    found += leaks.check(spec, own, class_rule(spec))
    found += protocols.check(spec, own)
  found += leaks.across(
    specs, {key: leaks.by_path(split) for key, split in splits.items()}
  )
  opened: dict[_Key, records.RecordFiles | None] = {}
  for key, split in splits.items():
    files, its = stored.check(split, look_inside=not images)
    found += its
    has_images = split.place.images.is_dir()
    if files is not None or has_images:
      opened[key] = files
    # Where image files are read, reading them tells which are missing.
    if has_images and (files is None) != images:
      found += missing.check(split, num_workers=num_workers)
  if images:
    found += reading.check(
      specs, splits, opened, class_rule=class_rule, num_workers=num_workers
    )
  return Result(
    [infos.count(split) for split in splits.values()],
    [group for group in found if not group.is_note],
    [group for group in found if group.is_note],
  )


def _read(
  spec: domains.DomainSpec, place: layout.Layout
) -> tuple[dict[str, infos.Split], list[findings.Group]]:
  """Returns the splits of a domain that can be read, and what cannot."""
  splits: dict[str, infos.Split] = {}
  found = []
  for name in spec.splits:
    try:
      splits[name] = infos.read(place, spec.name, name)
    except errors.UserError as error:
      file = place.info_file(spec.name, name)
      found.append(
        findings.one(
          findings.INFO, spec.name, name, file=file, message=str(error)
        )
      )
  return splits, found
