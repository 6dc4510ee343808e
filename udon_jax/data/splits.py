"""The records of a split, opened and checked against its info file."""

from udon_jax import domains, errors
from udon_jax.data import examples, info, layout, metadata, offsets, records


def open_records(
  place: layout.Layout, domain: str, split: str
) -> records.RecordFiles:
  """Opens the records of a split.

  Raises:
    UserError: files are missing or damaged, or the info file changed since
      they were made.
  """
  folder = place.records(domain, split)
  files = records.find_files(
    folder,
    base=records.file_name(domain, split),
    cure=f"run {place.prepare} --domains={domain}",
  )
  known = metadata.read(folder)
  info_file = place.info_file(domain, split)
  if known and known.info_fingerprint != info.fingerprint(info_file):
    raise errors.UserError(
      f"{info_file} changed since {folder} was prepared from it; run"
      f" {place.prepare} --domains={domain}, or restore the info file"
    )
  opened = records.RecordFiles(files)
  if known is None and split == domains.TRAIN_SPLIT:
    # Evaluation splits are compared with their info files in any case.
    check_agreement(
      opened,
      info.read_info(info_file, split=split),
      in_order=False,
      cure=f"delete {folder} and run {place.prepare} --domains={domain}",
    )
  if known is None or len(opened) == known.num_examples:
    return opened
  # A sidecar of another file of the same size, or an edited split.
  for file in opened.files:
    offsets.rebuild(file)
  opened = records.RecordFiles(files)
  if len(opened) != known.num_examples:
    raise errors.UserError(
      f"{folder} holds {len(opened)} records, but was prepared with"
      f" {known.num_examples}; delete it and run"
      f" {place.prepare} --domains={domain}"
    )
  return opened


def num_classes(place: layout.Layout, domain: str) -> int:
  """Returns the number of training classes of a domain.

  Read from the metadata of the records where it is of this very info file,
  otherwise from the info file.

  Raises:
    UserError: the info file is missing or wrong.
  """
  file = place.info_file(domain, domains.TRAIN_SPLIT)
  known = metadata.read(place.records(domain, domains.TRAIN_SPLIT))
  if known and known.info_fingerprint == info.fingerprint(file):
    return known.num_classes
  return info.read_info(file, split=domains.TRAIN_SPLIT).num_classes


def check_agreement(
  files: records.RecordFiles,
  images: info.SplitInfo,
  *,
  in_order: bool,
  cure: str,
) -> None:
  """Checks that records are those of an info file, as far as that is cheap.

  Their numbers must be equal; so must the keys of the first and the last
  record, which in records out of order need only be listed.

  Args:
    files: the records.
    images: the contents of the info file.
    in_order: whether the records are in the order of the info file.
    cure: what the user can do, for the message.

  Raises:
    UserError: they differ.
  """
  where = files.files[0].parent
  if len(files) != len(images.paths):
    raise errors.UserError(
      f"{where} holds {len(files)} records, but its info file lists"
      f" {len(images.paths)} images; {cure}"
    )
  for record in (0, len(files) - 1):
    key = examples.key(files.read(record))
    listed = [images.paths[record]] if in_order else images.paths
    if key not in listed:
      file, number = files.locate(record)
      raise errors.UserError(
        f"{file}: record {number} is of image {key!r}, where the info file"
        f" lists {listed[0]!r}; {cure}"
        if in_order
        else f"{file}: record {number} is of image {key!r}, which the info"
        f" file does not list; {cure}"
      )
