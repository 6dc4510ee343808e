"""The records of a split, opened and matched with its info file."""

import math

from etils import epath

from udon_jax import domains, errors
from udon_jax.data import info, keys, layout, matching, metadata, records


class LostMetadataError(errors.UserError):
  """Records of which only their metadata, which are gone, told how to read."""


def open_train(
  place: layout.Layout, domain: str
) -> tuple[records.RecordFiles, int]:
  """Opens the records of a training split; returns them and the classes.

  The classes are those of the info file. Records keep the order of the files.

  Raises:
    UserError: files are missing or damaged, or the records are not those of
      the info file.
  """
  split = domains.TRAIN_SPLIT
  known = metadata.read(place.records(domain, split))
  files = open_records(place, domain, split)
  if known:
    return files, known.num_classes
  images = info.read_info(place.info_file(domain, split), split=split)
  agree(
    place,
    domain,
    split,
    files=files,
    images=images,
    ordered=False,
    trusted=False,
  )
  return files, images.num_classes


def open_eval(
  place: layout.Layout, domain: str, split: str
) -> tuple[records.RecordFiles, info.SplitInfo]:
  """Opens the records of an evaluation split, in the order of its info file.

  Raises:
    UserError: files are missing or damaged, or the records are not those of
      the info file.
  """
  images = info.read_info(place.info_file(domain, split), split=split)
  files = open_records(place, domain, split)
  known = metadata.read(place.records(domain, split))
  agree(
    place,
    domain,
    split,
    files=files,
    images=images,
    ordered=True,
    trusted=known is not None
    and known.in_order
    and split != domains.TRAIN_SPLIT,
  )
  return files, images


def open_records(
  place: layout.Layout, domain: str, split: str
) -> records.RecordFiles:
  """Opens the records of a split as they lie, whatever images they hold.

  Raises:
    LostMetadataError: they hold bare pixels, and nothing tells so.
    UserError: files are missing or damaged, or the info file changed since
      they were made.
  """
  folder = place.records(domain, split)
  files = _find_files(place, domain, split)
  known = metadata.read(folder)
  info_file = place.info_file(domain, split)
  if known and known.info_fingerprint != info.fingerprint(info_file):
    raise errors.UserError(
      f"{info_file} changed since {folder} was prepared from it; run"
      f" {place.prepare(domain)}, or restore the info file"
    )
  opened = records.RecordFiles(files)
  opened.hold(metadata.store_of(known), split=split)
  if known is None and _hold_pixels(opened):
    raise LostMetadataError(
      f"{folder} holds bare pixels, and its {metadata.FILE_NAME}, which told"
      " their size, is missing or damaged; restore that file, or delete the"
      f" folder and run {place.prepare(domain)} with its --store"
    )
  if known is None or len(opened) == known.num_examples:
    return opened
  # Offsets of another file of the same size, or an edited split.
  opened = records.RecordFiles(files, use_kept=False)
  opened.hold(metadata.store_of(known), split=split)
  if len(opened) != known.num_examples:
    raise errors.UserError(
      f"{folder} holds {len(opened)} records, but was prepared with"
      f" {known.num_examples}; delete it and run"
      f" {place.prepare(domain)}"
    )
  return opened


def _hold_pixels(files: records.RecordFiles) -> bool:
  """Tells whether some images are in no format, but of a square's size."""
  from udon_jax.data import examples, formats  # noqa: PLC0415 (TensorFlow)

  try:
    some = [
      examples.image_bytes(files.read(record))
      for record in sorted({0, len(files) // 2, len(files) - 1})
      if 0 <= record < len(files)
    ]
  except errors.BadExampleError:  # whoever reads it tells
    return False
  return bool(some) and all(
    data
    and 3 * math.isqrt(len(data) // 3) ** 2 == len(data)
    and formats.kind(data) is None
    for data in some
  )


def count(place: layout.Layout, domain: str, split: str) -> int:
  """Returns the number of a split's records, from metadata where there is any.

  Raises:
    UserError: files are missing or damaged.
  """
  known = metadata.read(place.records(domain, split))
  if known:
    return known.num_examples
  return len(records.RecordFiles(_find_files(place, domain, split)))


def agree(
  place: layout.Layout,
  domain: str,
  split: str,
  *,
  files: records.RecordFiles,
  images: info.SplitInfo,
  ordered: bool,
  trusted: bool,
) -> bool:
  """Brings the records of a split into the order of its info file, if wanted.

  Otherwise, as for training, which has an order of its own, only the number of
  records and the first and the last key are looked at.

  Args:
    place: where the data lies.
    domain: name of the domain.
    split: name of the split.
    files: its records.
    images: contents of its info file.
    ordered: whether the order matters.
    trusted: whether the records are known to be in order; then a few keys are
      looked at, otherwise all of them, once (see `matching`).

  Returns:
    Whether they were in order, or had no order to be in.

  Raises:
    UserError: the records are not those of the info file.
  """
  folder = place.records(domain, split)
  cure = (
    f"restore the info file that the records were made from, or delete"
    f" {folder} and run {place.prepare(domain)}"
  )
  if len(files) != len(images.paths):
    raise errors.UserError(
      f"{folder} holds {len(files)} records, but"
      f" {place.info_file(domain, split)} lists {len(images.paths)} images;"
      f" {cure}"
    )
  if ordered:
    order = matching.find_order(
      files, images.paths, trusted=trusted, where=folder, cure=cure
    )
    files.reorder(order)
    return order is None
  for record in (0, len(files) - 1):
    key = keys.read(files, record)
    if key not in images.paths:
      files.read(record)  # or it is damaged
      file, number = files.locate(record)
      raise errors.UserError(
        f"{file}: record {number} is of image {key!r}, which the info file does"
        f" not list; {cure}"
      )
  return True


def _find_files(
  place: layout.Layout, domain: str, split: str
) -> list[epath.Path]:
  return records.find_files(
    place.records(domain, split),
    base=records.file_name(domain, split),
    cure=f"run {place.prepare(domain)}",
  )
