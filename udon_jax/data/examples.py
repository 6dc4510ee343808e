"""One record: the encoded image, its class ids and its key.

Source: the UnED repository, convert_to_tfrecord_from_file.py.
"""

from collections.abc import Sequence
from typing import NamedTuple

import tensorflow as tf

from udon_jax.data import formats

# What the training and evaluation streams parse.
IMAGE_FEATURE = {"image_bytes": tf.io.FixedLenFeature([], tf.string)}
LABEL_FEATURE = {"class_id": tf.io.FixedLenFeature([], tf.int64)}


def serialize(*, image_bytes: bytes, class_ids: Sequence[int], key: str):
  """Returns the bytes of a record.

  Args:
    image_bytes: the image file as it is.
    class_ids: one or several class ids.
    key: path of the image, as in the info file.
  """
  example = tf.train.Example()
  feature = example.features.feature
  feature["image_bytes"].bytes_list.value.append(image_bytes)
  feature["class_id"].int64_list.value.extend(class_ids)
  feature["key"].bytes_list.value.append(key.encode())
  return example.SerializeToString(deterministic=True)


class Parts(NamedTuple):
  """What a record holds.

  Attributes:
    key: path of its image.
    class_ids: its classes.
    images: encoded images, of which there must be one.
  """

  key: str
  class_ids: Sequence[int]
  images: Sequence[bytes]


def parse(data: bytes) -> Parts | None:
  """Returns what a record holds, or None if it is no record of images."""
  example = _parse(data)
  if example is None:
    return None
  feature = example.features.feature
  return Parts(
    _key(example),
    list(feature["class_id"].int64_list.value),
    list(feature["image_bytes"].bytes_list.value),
  )


def key(data: bytes) -> str | None:
  """Returns the key of a record: the path of its image."""
  example = _parse(data)
  return _key(example) if example else None


def image_bytes(data: bytes) -> bytes:
  """Returns the encoded image of a record; empty if there is none."""
  example = _parse(data)
  if example is None:
    return b""
  return b"".join(example.features.feature["image_bytes"].bytes_list.value)


def labels(data: bytes) -> list[int]:
  """Returns the class ids of a record."""
  example = _parse(data)
  assert example is not None, "records are checked when they are made"
  return list(example.features.feature["class_id"].int64_list.value)


def is_readable(image: bytes, *, num_bytes: int | None = None) -> bool:
  """Tells whether an image can be read.

  Args:
    image: the encoded image, or bare pixels.
    num_bytes: length of bare pixels; None if it is encoded.
  """
  if num_bytes is not None:
    return len(image) == num_bytes
  return formats.is_readable(image)


def problem(
  data: bytes, *, with_label: bool, num_bytes: int | None = None
) -> str | None:
  """Returns what is wrong with a record, if anything.

  Args:
    data: the bytes of the record.
    with_label: whether exactly one class id is needed.
    num_bytes: length of an image of bare pixels; None if it is encoded.
  """
  example = _parse(data)
  if example is None:
    return "is no serialized tf.train.Example"
  feature = example.features.feature
  images = feature["image_bytes"].bytes_list.value
  name = f"(key {_key(example)!r})"
  if len(images) != 1:
    return f"{name} has no image_bytes"
  labels = feature["class_id"].int64_list.value
  if with_label and len(labels) != 1:
    return f"{name} has {len(labels)} class ids; training needs one"
  if not is_readable(images[0], num_bytes=num_bytes):
    return f"{name} holds no image that can be decoded"
  return None


def _parse(data: bytes) -> tf.train.Example | None:
  try:
    return tf.train.Example.FromString(data)
  except Exception:  # the error's type depends on protobuf's implementation
    return None


def _key(example: tf.train.Example) -> str:
  values = example.features.feature["key"].bytes_list.value
  return b" ".join(values).decode(errors="replace")
