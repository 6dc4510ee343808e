"""Which splits need their records made, and from which image files.

The command line is `prepare`; writing one split is `writer`.
"""

import collections
from collections.abc import Sequence
import logging

from etils import epath

from udon_jax import domains, errors
from udon_jax.data import (
  image_files,
  info,
  layout,
  metadata,
  records,
  splits,
  writer,
)

_LOGGER = logging.getLogger("udon_jax.data.prepare")
_MAX_SHOWN = 20
find_image = image_files.find


def prepare(
  place: layout.Layout,
  *,
  domain_names: Sequence[str] | None,
  num_shards: int | None,
  num_workers: int,
  seed: int,
) -> None:
  """Makes the records of all splits that are not done.

  Args:
    place: where the data lies.
    domain_names: domains to prepare; None for all that have info files.
    num_shards: files of a training split; None for a default.
    num_workers: threads that read and check images.
    seed: seed of the order of training images in files.

  Raises:
    UserError: an info file is wrong, or images are missing or damaged.
  """
  jobs = [
    job
    for domain, split in _find_splits(place, domain_names)
    if (job := _job(place, domain, split, num_shards=num_shards))
  ]
  missing = [
    f"{job.name}: {place.images / path}"
    for job in jobs
    for path, file in zip(job.images.paths, job.files, strict=True)
    if file is None
  ]
  _fail_if_any(
    missing, "missing", f"add them to {place.images} or drop their entries"
  )
  problems = []
  for job in jobs:
    new = writer.write_split(
      place, job, num_shards=num_shards, num_workers=num_workers, seed=seed
    )
    if not new:
      _LOGGER.info("%s: done, %d images", job.name, len(job.files))
    problems += new
  _fail_if_any(
    problems, "unusable", "replace them or drop their entries in info_files"
  )


def _find_splits(
  place: layout.Layout, names: Sequence[str] | None
) -> list[tuple[str, str]]:
  """Returns all (domain, split) to prepare."""
  root = place.info_files
  known = []
  if root.is_dir():
    known = sorted(path.name for path in root.iterdir() if path.is_dir())
  if not known:
    raise errors.UserError(
      f"{root} holds no <domain>/<split>.json; copy the info files of the"
      " data set there, or write your own"
    )
  found = []
  for name in known if names is None else names:
    if name not in known:
      raise errors.UserError(
        f"--domains: {root / name} is missing; domains with info files:"
        f" {', '.join(known)}"
      )
    splits_there = sorted(path.stem for path in (root / name).glob("*.json"))
    if name in domains.UNED:
      # The official lists hold splits that nothing reads.
      wanted = domains.UNED[name].splits
      splits_there = [split for split in wanted if split in splits_there]
    if not splits_there:
      raise errors.UserError(
        f"{root / name} holds no <split>.json; add train.json, val.json, ..."
      )
    found += [(name, split) for split in splits_there]
  return found


def _job(
  place: layout.Layout, domain: str, split: str, *, num_shards: int | None
) -> writer.Job | None:
  """Returns what there is to do for a split; None if it is done."""
  info_file = place.info_file(domain, split)
  fingerprint = info.fingerprint(info_file)
  folder = place.records(domain, split)
  known = metadata.read(folder)
  name = f"{domain}/{split}"
  if known:
    reason = _why_again(folder, known, domain, split, fingerprint, num_shards)
    if reason is None:
      _LOGGER.info("%s: done before, %d images", name, known.num_examples)
      return None
    _LOGGER.info("%s: %s; preparing it again", name, reason)
  images = info.read_info(info_file, split=split)
  _warn_of_repeats(info_file, images.paths)
  found = known is None and folder.exists()
  if found and _adopt(place, domain, split, images, fingerprint):
    return None
  files = [find_image(place.images, path) for path in images.paths]
  return writer.Job(domain, split, images, fingerprint, files)


def _warn_of_repeats(file: epath.Path, paths: Sequence[str]) -> None:
  """Says so where images are listed again; a query would find its own copy."""
  repeated = [path for path, n in collections.Counter(paths).items() if n > 1]
  if repeated:
    _LOGGER.warning(
      "%s lists %d images more than once, the first is %s",
      file,
      len(repeated),
      repeated[0],
    )


def _why_again(
  folder: epath.Path,
  known: metadata.Metadata,
  domain: str,
  split: str,
  fingerprint: str,
  num_shards: int | None,
) -> str | None:
  """Returns why a split that was done is to be done again, if it is."""
  if known.info_fingerprint != fingerprint:
    return "its info file changed"
  if split == domains.TRAIN_SPLIT and num_shards:
    wanted = min(num_shards, known.num_examples)
    if known.num_shards != wanted:
      return f"it has {known.num_shards} shards, not {wanted}"
  try:
    files = records.find_files(
      folder, base=records.file_name(domain, split), cure=""
    )
  except errors.UserError:
    return "record files are missing"
  if [file.stat().length for file in files] != list(known.num_bytes):
    return "record files changed"
  return None


def _adopt(
  place: layout.Layout,
  domain: str,
  split: str,
  images: info.SplitInfo,
  fingerprint: str,
) -> bool:
  """Accepts records that another converter made, if they fit; tells whether."""
  folder = place.records(domain, split)
  try:
    files = splits.open_records(place, domain, split)
    in_order = splits.agree(
      place, domain, split, files=files, images=images, trusted=False
    )
  except errors.UserError as error:
    _LOGGER.info(
      "%s/%s: the records there cannot be used (%s); preparing it again",
      domain,
      split,
      error,
    )
    return False
  description = metadata.describe(
    files,
    num_classes=images.num_classes,
    info_fingerprint=fingerprint,
    in_order=in_order,
  )
  metadata.write(folder, description)
  _LOGGER.info("%s/%s: found %d records made before", domain, split, len(files))
  return True


def _fail_if_any(problems: list[str], what: str, cure: str) -> None:
  """Lists problems and raises a `UserError` that counts them."""
  if not problems:
    return
  for problem in problems[:_MAX_SHOWN]:
    _LOGGER.error("%s", problem)
  if len(problems) > _MAX_SHOWN:
    _LOGGER.error("... and %d more", len(problems) - _MAX_SHOWN)
  raise errors.UserError(
    f"{len(problems)} images are {what}, the first is {problems[0]}; {cure},"
    " then run the same command again"
  )
