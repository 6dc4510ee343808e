"""How records hold images: as they came, or resized once for all epochs.

Before anything random, training resizes an image to a square, and evaluation
its smaller side to that of the crop. Both can be done when records are made:

  original   the image file, unchanged
  jpeg256    JPEG of quality 95 without chroma subsampling
  webp256    WebP without loss
  raw256     the pixels themselves

The number is the side of a training image; evaluation images have 7/8 of it
(224 of 256). Pixels are rounded to uint8, as the pipeline does by default: raw
and WebP give the very batches that the original does. Needs no TensorFlow;
the pixels are the matter of `storing`.
"""

import dataclasses
import re
from typing import Any

from udon_jax import domains, errors

JPEG, WEBP, RAW = FORMATS = ("jpeg", "webp", "raw")
_NAME = re.compile(rf"({'|'.join(FORMATS)})([1-9][0-9]{{1,3}})")


@dataclasses.dataclass(frozen=True)
class Store:
  """How records hold images.

  Attributes:
    format: of `FORMATS`; None is the image file, unchanged.
    size: side of training images; 0 if they are as they came.
    exif: whether images were turned as their EXIF tells; None if unchanged.
  """

  format: str | None = None
  size: int = 0
  exif: bool | None = None

  @property
  def name(self) -> str:
    """Returns the name that users choose it by."""
    return f"{self.format}{self.size}" if self.format else "original"

  @property
  def crop_size(self) -> int:
    """Returns the side of evaluation images."""
    return self.size * 7 // 8

  def side(self, split: str) -> int:
    """Returns the side of the images of a split."""
    return self.size if split == domains.TRAIN_SPLIT else self.crop_size


ORIGINAL = Store()


def parse(name: str, *, exif: bool, key: str) -> Store:
  """Returns a store by its name.

  Args:
    name: "original", "jpeg256", ...
    exif: whether to turn images that are resized.
    key: what the user set it with, for the message.

  Raises:
    UserError: there is none of this name.
  """
  if name == ORIGINAL.name:
    return ORIGINAL
  match = _NAME.fullmatch(name)
  if match is None or int(match[2]) % 8:
    raise errors.UserError(
      f"{key}={name} is unknown; known: original, jpeg256, webp256, raw256, or"
      " another multiple of 8 in the place of 256"
    )
  return Store(match[1], int(match[2]), exif)


def check(
  store: Store,
  *,
  side: int,
  resize_size: int | None,
  crop_size: int,
  round_pixels: bool,
  exif: bool,
  where: Any,
) -> None:
  """Raises a UserError unless stored images are what a config asks for.

  Args:
    store: of the records.
    side: of the images of this split.
    resize_size: side of training images; None if evaluation asks.
    crop_size: side of crops.
    round_pixels: whether pixels are uint8.
    exif: whether images are turned as their EXIF tells.
    where: the folder of the records, for the message.
  """
  if store.format is None:
    return
  if resize_size is None and side != store.crop_size:
    raise errors.UserError(
      f"{where} was prepared with --store={store.name}, resized for training,"
      " but its images are searched in evaluation too; prepare it with"
      " --store=original, or give evaluation an index of its own"
    )
  is_train = resize_size is not None
  wanted = (
    ("resize_size", resize_size, store.size)
    if is_train
    else ("crop_size", crop_size, store.crop_size),
    ("round_pixels", round_pixels, True),
    ("exif", exif, store.exif),
  )
  for key, value, stored in wanted:
    if value != stored:
      raise errors.UserError(
        f"config.data.{key}={value} does not fit {where}, which was prepared"
        f" with --store={store.name} and has {stored}; set that, or prepare the"
        " data again with another --store"
      )
