"""`metadata.json`: what the records of a split were made from.

It is the last file written into the folder of a split, so that a folder with
it is complete.
"""

from collections.abc import Sequence
import dataclasses
import json

from etils import epath

from udon_jax.data import records, stores

FILE_NAME = "metadata.json"


@dataclasses.dataclass(frozen=True)
class Metadata:
  """What the records of a split were made from.

  Attributes:
    num_examples: number of images.
    num_classes: highest class id plus one.
    num_shards: number of record files.
    num_bytes: size of every record file, in the order of the shards.
    info_fingerprint: hash of the info file, see `info.fingerprint`.
    in_order: whether records are known to be in the order of the info file,
      where that matters.
    store: name of how they hold images, see `stores`.
    exif: whether images were turned as their EXIF tells; None if unchanged.
    made_elsewhere: whether another converter made the records.
  """

  num_examples: int
  num_classes: int
  num_shards: int
  num_bytes: Sequence[int]
  info_fingerprint: str
  in_order: bool = True
  store: str = stores.ORIGINAL.name
  exif: bool | None = None
  made_elsewhere: bool = False


def write(folder: epath.Path, metadata: Metadata) -> None:
  """Writes the metadata of a split, whole or not at all."""
  temporary = folder / f".{FILE_NAME}.tmp"
  text = json.dumps(dataclasses.asdict(metadata), indent=2)
  temporary.write_text(text + "\n")
  temporary.replace(folder / FILE_NAME)


def read(folder: epath.Path) -> Metadata | None:
  """Returns the metadata of a split, or None where there is none to trust."""
  try:
    found = Metadata(**json.loads((folder / FILE_NAME).read_text()))
  except (OSError, ValueError, TypeError, RecursionError):
    return None
  numbers = (found.num_examples, found.num_classes, found.num_shards)
  sizes = found.num_bytes if isinstance(found.num_bytes, list) else [None]
  if type(found.in_order) is not bool or found.exif not in (None, True, False):
    return None
  if not all(type(n) is int and n >= 0 for n in (*numbers, *sizes)):
    return None
  if type(found.store) is not str:
    return None
  return found


def store_of(metadata: Metadata | None) -> stores.Store:
  """Returns how records hold images."""
  if metadata is None:
    return stores.ORIGINAL
  return stores.parse(
    metadata.store, exif=bool(metadata.exif), key=FILE_NAME + ": store"
  )


def describe(
  files: records.RecordFiles,
  *,
  num_classes: int,
  info_fingerprint: str,
  in_order: bool,
) -> Metadata:
  """Returns the metadata of record files."""
  return Metadata(
    num_examples=len(files),
    num_classes=num_classes,
    num_shards=len(files.files),
    num_bytes=[file.stat().length for file in files.files],
    info_fingerprint=info_fingerprint,
    in_order=in_order,
    store=files.store.name,
    exif=files.store.exif,
  )
