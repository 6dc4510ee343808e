"""Whether the records of a split are of the entries of its info file.

Shape legend: r records, n entries, w a hash as two words.
"""

from jaxtyping import Int, UInt64
import numpy as np

from udon_jax import domains
from udon_jax.data import keys, metadata, records
from udon_jax.data.verification import digests, findings, infos


def check(
  split: infos.Split,
  files: records.RecordFiles,
  *,
  paths: UInt64[np.ndarray, "r w"],
  labelled: UInt64[np.ndarray, "r w"],
) -> tuple[Int[np.ndarray, "r"], list[findings.Group]]:
  """Finds which entry every record is of, and what does not agree.

  Of equal entries, the k-th is the k-th record's.

  Args:
    split: the split.
    files: its records.
    paths: hash of every record's path, zeros where it has none.
    labelled: hash of path and classes, zeros where they could not be read.

  Returns:
    The entry of every record, -1 where it is of none; and the findings.
  """
  listed = digests.pack(_entries(split))
  is_read = labelled.any(1)
  rows = digests.match(digests.number(labelled), digests.number(listed))
  rows[~is_read] = -1
  others = np.flatnonzero(is_read & (rows < 0))
  raw_paths = digests.pack(digests.of_bytes(p.encode()) for p in split.paths)
  return rows, [
    *_unlisted(
      split,
      files,
      others,
      same=digests.match(labelled[others], listed),
      named=digests.match(paths[others], raw_paths),
    ),
    *_without_record(split, digests.match(raw_paths, paths)),
    *_out_of_order(split, rows),
  ]


def hash_entry(path: str, ids: Int[np.ndarray, "l"]) -> bytes:
  """Returns the hash of a path and its classes, ascending, each once."""
  classes = np.asarray(ids, np.int64).tobytes()
  return digests.of_bytes(path.encode() + b"\0" + classes)


def _entries(split: infos.Split) -> list[bytes]:
  labels = split.labels.astype(np.int64)
  counts = (labels >= 0).sum(1).tolist()
  return [
    hash_entry(path, labels[i, : counts[i]])
    for i, path in enumerate(split.paths)
  ]


def _unlisted(
  split: infos.Split,
  files: records.RecordFiles,
  others: Int[np.ndarray, "m"],
  *,
  same: Int[np.ndarray, "m"],
  named: Int[np.ndarray, "m"],
) -> list[findings.Group]:
  """Returns the findings of records that are of no entry.

  Args:
    split: the split.
    files: its records.
    others: those records.
    same: an entry with the path and the classes of each, -1 if none.
    named: likewise, with its path.
  """

  def tell(i: int) -> findings.Finding:
    record = int(others[i])
    file, number = files.locate(record)
    key = keys.read(files, record)
    says = "which the info file does not list"
    if same[i] >= 0:
      says = f"which is listed less often, as {split.entry(int(same[i]))}"
    elif named[i] >= 0:
      row = int(named[i])
      says = f"with other classes than {split.entry(row)}: {split.classes(row)}"
    return findings.Finding(
      findings.OTHER,
      split.domain,
      split.name,
      str(file),
      number,
      key,
      f"{file}: record {number} is of image {key!r}, {says}",
    )

  if not len(others):
    return []
  return [findings.Group(findings.OTHER, len(others), tell)]


def _without_record(
  split: infos.Split, record: Int[np.ndarray, "n"]
) -> list[findings.Group]:
  return findings.of_entries(
    findings.OTHER,
    split,
    np.flatnonzero(record < 0),
    says=lambda _: "has no record",
  )


def _out_of_order(
  split: infos.Split, rows: Int[np.ndarray, "r"]
) -> list[findings.Group]:
  """Finds evaluation records in another order than their metadata claims."""
  folder = split.place.records(split.domain, split.name)
  known = metadata.read(folder)
  if split.name == domains.TRAIN_SPLIT or not (known and known.in_order):
    return []
  wrong = np.flatnonzero((rows >= 0) & (rows != np.arange(len(rows))))
  if not len(wrong) or len(rows) != len(split.paths):
    return []
  message = (
    f"{folder}: {len(wrong)} records are not in the order of the info file,"
    f" though {metadata.FILE_NAME} says so; the first is record {wrong[0]}, of"
    f" entry {rows[wrong[0]]}"
  )
  return [
    findings.one(
      findings.OTHER, split.domain, split.name, file=folder, message=message
    )
  ]
