"""Data sets of TensorFlow Datasets, by name, as they were built.

Their images are written, as they are encoded, below `images/` of the data
directory, so that all else finds them as files.
"""

from collections.abc import Iterator, Mapping
import contextlib
import hashlib
import logging
import os
from typing import Any

from etils import epath
import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

from udon_jax import errors, own_domains
from udon_jax.data import formats, replacing
from udon_jax.data.sources import listing

_LOGGER = logging.getLogger("udon_jax.data.prepare")
_SUFFIXES = {
  "JPEG": ".jpg",
  "MPO": ".jpg",
  "PNG": ".png",
  "GIF": ".gif",
  "WEBP": ".webp",
  "BMP": ".bmp",
}


def read(
  own: own_domains.OwnDomain, *, images: epath.Path, key: str
) -> listing.Listing:
  """Returns the images of a data set, after writing them as files.

  Examples without a class, as tests often have, are left out.

  Args:
    own: the description.
    images: folder that the files are written below.
    key: where the description stands, for messages.

  Raises:
    UserError: there is no such data set, it was not built or is damaged, it
      lacks a feature, or the files cannot be written.
  """
  builder = _open(own, key=key)
  names = _label_names(builder, own, key=key)
  paths, labels, splits = [], [], []
  for split in sorted(builder.info.splits):
    folder = f"{own.name}/{_folder(builder, own, split)}"
    try:
      found = _write_split(
        builder, own, split, folder=images / folder, names=names
      )
    except tf.errors.OpError as error:
      raise errors.UserError(
        f"{key}.tfds={own.tfds}: split {split} is missing or damaged"
        f" ({error.message.splitlines()[0]}); build it again"
      ) from None
    except OSError as error:
      raise errors.UserError(
        f"{images / folder} cannot be written ({error.strerror or error}); make"
        " room and a folder there that you may write to"
      ) from error
    for file, classes in found:
      if classes:
        paths.append(f"{folder}/{file}")
        labels.append(classes)
        splits.append((listing.split_name(split),))
    left_out = sum(not classes for _, classes in found)
    if left_out:
      _LOGGER.warning(
        "%s: %d images of %s have no class and are left out",
        own.name,
        left_out,
        split,
      )
  if not paths:
    raise errors.UserError(
      f"{key}.tfds={own.tfds} has no image with a class; choose another"
      f" {key}.label_feature"
    )
  told = {name for (name,) in splits}
  return listing.Listing(
    images, paths, labels, splits if len(told) > 1 else None, paths
  )


def _folder(builder: Any, own: own_domains.OwnDomain, split: str) -> str:
  """Returns the folder of a split, another one for other images."""
  info = builder.info.splits[split]
  seen = (own.image_feature, info.num_bytes, list(info.shard_lengths))
  digest = hashlib.blake2b(repr(seen).encode(), digest_size=4).hexdigest()
  name = builder.info.full_name.replace("/", "-")
  return f"{name}/{split}-{digest}"


def _open(own: own_domains.OwnDomain, *, key: str) -> Any:
  """Returns the builder of a data set that was built."""
  assert own.tfds is not None
  place = epath.Path(own.tfds).expanduser()
  where = f"{key}.tfds={own.tfds}"
  try:
    if place.is_dir():
      return tfds.builder_from_directory(place)
    folder = own.tfds_dir and os.path.expanduser(own.tfds_dir)
    builder = tfds.builder(own.tfds, data_dir=folder, try_gcs=False)
  except tfds.core.DatasetNotFoundError:
    raise errors.UserError(
      f"{where} is no data set that TensorFlow Datasets knows, and no folder;"
      " correct the name, or give the folder of one that was built"
    ) from None
  except Exception as error:
    # Folders and names of all kinds make it raise all kinds of errors.
    message = " ".join(str(error).split())[:200]
    raise errors.UserError(
      f"{where} cannot be opened ({message}); correct it"
    ) from None
  if not builder.info.splits:
    raise errors.UserError(
      f"{where} was not built in {builder.data_dir}; run `tfds build"
      f" {own.tfds}`, or say where it lies by {key}.tfds_dir"
    )
  return builder


def _label_names(
  builder: Any, own: own_domains.OwnDomain, *, key: str
) -> list[str] | None:
  """Returns the names of the classes; None where they are numbers alone."""
  features = builder.info.features
  if not isinstance(features, tfds.features.FeaturesDict):
    raise errors.UserError(
      f"{key}.tfds={own.tfds} has no features with names; choose another"
    )
  for name in ("image_feature", "label_feature"):
    feature = getattr(own, name)
    if feature not in features:
      raise errors.UserError(
        f"{key}.{name}={feature!r} is not in {own.tfds}, which has"
        f" {', '.join(features)}"
      )
  if not isinstance(features[own.image_feature], tfds.features.Image):
    raise errors.UserError(
      f"{key}.image_feature={own.image_feature!r} of {own.tfds} is no image"
    )
  label = features[own.label_feature]
  label = getattr(label, "feature", label)  # of a sequence of labels
  is_class = (
    isinstance(label, tfds.features.Tensor)
    and len(label.shape) <= 1
    and np.dtype(label.np_dtype).kind in "iuOS"
  )
  if not is_class:
    raise errors.UserError(
      f"{key}.label_feature={own.label_feature!r} of {own.tfds} is neither an"
      " integer nor a text, nor a list of them"
    )
  return getattr(label, "names", None)


def _write_split(
  builder: Any,
  own: own_domains.OwnDomain,
  split: str,
  *,
  folder: epath.Path,
  names: list[str] | None,
) -> list[tuple[str, tuple[str, ...]]]:
  """Writes the images of a split unless they are there; returns the labels."""
  is_new = not folder.is_dir()
  found = []
  opened = (
    replacing.folder(folder) if is_new else contextlib.nullcontext(folder)
  )
  with opened as place:
    for number, example in enumerate(_examples(builder, own, split)):
      data = bytes(example[own.image_feature])
      file = f"{number:08d}{_SUFFIXES.get(formats.kind(data) or '', '.img')}"
      if is_new:
        (place / file).write_bytes(data)
      ids = np.atleast_1d(example[own.label_feature]).tolist()
      classes = [_name(each, names) for each in ids]
      found.append((file, tuple(dict.fromkeys(filter(None, classes)))))
  return found


def _examples(
  builder: Any, own: own_domains.OwnDomain, split: str
) -> Iterator[Mapping[str, Any]]:
  """Yields examples with encoded images, in the order of the files."""
  decoders = tfds.decode.PartialDecoding(
    {own.image_feature: True, own.label_feature: True},
    decoders={own.image_feature: tfds.decode.SkipDecoding()},
  )
  if builder.info.file_format.value == "array_record":
    yield from builder.as_data_source(split=split, decoders=decoders)
    return
  config = tfds.ReadConfig(try_autocache=False, interleave_cycle_length=1)
  dataset = builder.as_dataset(
    split=split, shuffle_files=False, read_config=config, decoders=decoders
  )
  yield from dataset.as_numpy_iterator()


def _name(label: Any, names: list[str] | None) -> str:
  """Returns the name of a class; "" where there is none."""
  if isinstance(label, bytes):
    return label.decode(errors="replace").strip()
  if label < 0:  # as data sets write that they do not tell
    return ""
  return names[label] if names else str(label)
