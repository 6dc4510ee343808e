"""Which splits need their records made, and from which image files."""

import collections
from collections.abc import Mapping, Sequence
import contextlib
import dataclasses
import logging

from etils import epath

from udon_jax import domains, errors, own_domains
from udon_jax.data import (
  image_files,
  importing,
  info,
  layout,
  metadata,
  notes,
  pieces,
  places,
  records,
  splits,
  stores,
  writer,
)

_LOGGER = logging.getLogger("udon_jax.data.prepare")
# Beside records; the second where a kill came at the very end.
_OURS = (metadata.FILE_NAME, pieces.PROGRESS_FILE)


@dataclasses.dataclass(frozen=True)
class Options:
  """How records are made.

  Attributes:
    num_shards: files of a training split; None for a default.
    num_workers: threads that read and check images.
    seed: seed of the order of training images in files.
    store: name of how records hold images; None leaves what is done as it is,
      and is "original" for what is new.
    exif: whether images that are resized are turned as their EXIF tells; None
      does with what is new, and leaves what is done as it is.
  """

  num_shards: int | None
  num_workers: int
  seed: int
  store: str | None = None
  exif: bool | None = None


def find_splits(
  place: layout.Layout,
  names: Sequence[str] | None,
  own: Mapping[str, own_domains.OwnDomain],
) -> list[tuple[layout.Layout, str, str]]:
  """Returns all (place, domain, split) to prepare."""
  found = []
  known = notes.names(place.info_files)
  if not known and not own:
    raise errors.UserError(
      f"{place.info_files} holds no <domain>/<split>.json; copy the info files"
      " of the data set there, or write your own"
    )
  for name in dict.fromkeys((*known, *own)) if names is None else names:
    where = place
    if name in own:
      if own[name].records is not None:
        _LOGGER.info("%s: records of %s", name, own[name].records)
        continue
      where = importing.import_lists(own[name], places.of_lists(place))
    elif name not in known:
      raise errors.UserError(
        f"--domains or config.domains: {place.info_files / name} is missing;"
        f" domains with info files: {', '.join(known) or 'none'}"
      )
    where = notes.with_images(where, name)
    splits_there = sorted(notes.splits_of(where.info_files, name))
    if name in domains.UNED:
      # The official lists hold splits that nothing reads.
      wanted = domains.UNED[name].splits
      splits_there = [split for split in wanted if split in splits_there]
    if not splits_there:
      raise errors.UserError(
        f"{where.info_files / name} holds no <split>.json; add train.json,"
        " val.json, ..."
      )
    found += [(where, name, split) for split in splits_there]
  return found


def make(
  place: layout.Layout, domain: str, split: str, options: Options
) -> writer.Job | None:
  """Returns what there is to do for a split; None if it is done."""
  info_file = place.info_file(domain, split)
  fingerprint = info.fingerprint(info_file)
  folder = place.records(domain, split)
  known = metadata.read(folder)
  name = f"{domain}/{split}"
  before = metadata.store_of(known)
  exif = before.exif if options.exif is None else options.exif
  store = stores.parse(
    options.store or before.name, exif=exif is not False, key="--store"
  )
  if known:
    reason = _why_again(
      folder, known, domain, split, fingerprint, options.num_shards
    )
    if options.store is not None and before != store:
      reason = f"it is stored as {known.store}, with other settings"
    if reason is None:
      with contextlib.suppress(OSError):  # others may own the folder
        pieces.finish(folder)
      _LOGGER.info("%s: done before, %d images", name, known.num_examples)
      return None
    _LOGGER.info("%s: %s; preparing it again", name, reason)
  if split == domains.TRAIN_SPLIT and store.format is not None:
    _check_not_searched(place, domain, store)
  images = info.read_info(info_file, split=split)
  _warn_of_repeats(info_file, images.paths)
  found = known is None and folder.exists()
  is_foreign = found or (known is not None and known.made_elsewhere)
  if is_foreign and store.format is not None:
    _check_unknown(place, domain, split, store=store)
  elif found and _adopt(place, domain, split, images, fingerprint):
    return None
  _check_replaceable(folder, domain, split)
  files = [image_files.find_name(place.images, path) for path in images.paths]
  return writer.Job(
    domain, split, images, fingerprint, place.images, files, store
  )


def _check_not_searched(
  place: layout.Layout, domain: str, store: stores.Store
) -> None:
  """Raises where training images, made small for training, are searched too."""
  spec = notes.spec_of(place.info_files, domain, key="--domains")
  if domains.TRAIN_SPLIT in (spec.val.index, spec.test.index):
    raise errors.UserError(
      f"--store={store.name} resizes the images of {domain}/train for training,"
      " but evaluation searches them too, in another size; prepare the domain"
      " with --store=original, or give its evaluation an index of its own"
      ' (config.own: splits = {"index": 0.5, ...})'
    )


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


def _check_unknown(
  place: layout.Layout, domain: str, split: str, *, store: stores.Store
) -> None:
  """Raises where records that nothing tells of would be made small for good."""
  folder = place.records(domain, split)
  try:
    records.find_files(folder, base=records.file_name(domain, split), cure="")
  except errors.UserError:  # it holds no records, or not all
    return
  raise errors.UserError(
    f"{folder} holds records without {metadata.FILE_NAME}, as others make them,"
    f" which --store={store.name} would replace; choose another folder for"
    " yours (--output), or delete them"
  )


def _check_replaceable(folder: epath.Path, domain: str, split: str) -> None:
  """Raises where the place of records holds anything else.

  With --output=/data/photos, the images of the user's /data/photos/shoes/train
  lie where the records of shoes/train would.
  """
  if not folder.is_dir():
    return
  base = records.file_name(domain, split)
  for path in folder.iterdir():
    name = path.name
    # Hidden are sidecars, and what systems leave.
    is_ours = name in _OURS or name.startswith((base, "."))
    if path.is_dir() or not is_ours:
      raise errors.UserError(
        f"{folder}, where the records of {domain}/{split} go, holds"
        f" {name!r}, which is none of them and would be lost; move it away, or"
        " choose another folder for the records (--output)"
      )


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
      place,
      domain,
      split,
      files=files,
      images=images,
      ordered=split != domains.TRAIN_SPLIT,
      trusted=False,
    )
  except splits.LostMetadataError:
    raise
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
  metadata.write(folder, dataclasses.replace(description, made_elsewhere=True))
  _LOGGER.info("%s/%s: found %d records made before", domain, split, len(files))
  return True
