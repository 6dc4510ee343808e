"""Whether records are there and are those of the info file.

Only their structure is looked at: files, offsets, counts, and the keys of the
first and the last one. What they hold is read in `contents`.
"""

from typing import NamedTuple

from udon_jax import domains, errors
from udon_jax.data import info, keys, metadata, offsets, records
from udon_jax.data.verification import findings, infos


class Stored(NamedTuple):
  """The records of a split, if they can be read, and what was found."""

  files: records.RecordFiles | None
  found: list[findings.Group]


def check(split: infos.Split, *, look_inside: bool) -> Stored:
  """Opens the records of a split and finds what is wrong with them.

  Args:
    split: the split.
    look_inside: whether the keys of the first and the last one are read.
  """
  folder = split.place.records(split.domain, split.name)
  try:
    paths = records.find_files(
      folder,
      base=records.file_name(split.domain, split.name),
      cure=f"run {split.place.prepare(split.domain)}",
    )
    kept = [(file, offsets.problem_of_kept(file)) for file in paths]
    # Only what the files tell themselves is believed once offsets were wrong.
    sound = not any(problem for _, problem in kept)
    files = records.RecordFiles(paths, use_kept=sound)
    known = metadata.read(folder)
    if known and len(files) != known.num_examples and sound:
      files = records.RecordFiles(paths, use_kept=False)
    files.hold(metadata.store_of(known), split=split.name)
  except errors.UserError as error:
    return Stored(None, [_finding(split, folder, str(error))])
  problems = [
    f"{file}: the offsets that were kept {problem}; they have been made anew"
    for file, problem in kept
    if problem
  ]
  problems += _of_metadata(split, files, known)
  if len(files) != len(split.paths):
    problems.append(
      f"{folder} holds {len(files)} records, {split.file} lists"
      f" {len(split.paths)} images"
    )
  found = [_finding(split, folder, problem) for problem in problems]
  if look_inside:
    found += _of_ends(split, files, known)
  return Stored(files, found)


def _finding(split: infos.Split, folder, message: str) -> findings.Group:
  return findings.one(
    findings.RECORDS, split.domain, split.name, file=folder, message=message
  )


def _of_metadata(
  split: infos.Split,
  files: records.RecordFiles,
  known: metadata.Metadata | None,
) -> list[str]:
  """Returns where the metadata differs from records or info file."""
  file = split.place.records(split.domain, split.name) / metadata.FILE_NAME
  if known is None:
    exists = file.exists()  # records of the official converter have none
    return [f"{file} is damaged, or none that `prepare` wrote"] * exists
  info_file = split.place.info_file(split.domain, split.name)
  found = metadata.describe(
    files,
    num_classes=int(split.labels.max()) + 1,
    info_fingerprint=info.fingerprint(info_file),
    in_order=known.in_order,
  )
  words = {
    "num_examples": "records",
    "num_classes": "classes",
    "num_shards": "files",
    "num_bytes": "sizes of its files",
  }
  problems = [
    f"{file}: {what} {getattr(known, name)}, found {getattr(found, name)}"
    for name, what in words.items()
    if getattr(known, name) != getattr(found, name)
  ]
  if known.info_fingerprint != found.info_fingerprint:
    problems.append(
      f"{info_file} changed since the records of {file.parent} were made"
    )
  return problems


def _of_ends(
  split: infos.Split,
  files: records.RecordFiles,
  known: metadata.Metadata | None,
) -> list[findings.Group]:
  """Finds that the first or the last record is none of the info file."""
  if not len(files):
    return []
  ordered = (
    split.name != domains.TRAIN_SPLIT
    and known is not None
    and known.in_order
    and len(files) == len(split.paths)
  )
  found = []
  for record in dict.fromkeys((0, len(files) - 1)):
    file, number = files.locate(record)
    kind, key = findings.OTHER, None
    try:
      key = keys.read(files, record)
      says = _disagreement(split, record, key, ordered=ordered)
    except errors.UserError as error:
      kind, says = findings.DAMAGED, str(error)
    except ImportError:  # TensorFlow, which reads records of any form
      says = f"{file}: record {number} has another form than converters write"
    if says:
      found.append(
        findings.Finding(
          kind,
          split.domain,
          split.name,
          str(file),
          number,
          key,
          says if key is None else f"{file}: record {number} {says}",
        )
      )
  return findings.several(found)


def _disagreement(
  split: infos.Split, record: int, key: str, *, ordered: bool
) -> str | None:
  """Returns why a record cannot be where it is, if it cannot."""
  if not infos.lists(split, key):
    return f"is of image {key!r}, which {split.file} does not list"
  wanted = split.paths[record] if ordered else key
  return None if key == wanted else f"is of image {key!r}, not of {wanted!r}"
