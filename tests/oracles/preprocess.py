"""Resizing and cropping, written again in numpy and float64."""

import numpy as np


def resize(image, height, width):
  """Bilinear, half-pixel centres, edge pixels repeated, no antialiasing."""
  image = np.asarray(image, np.float64)
  for axis, size in enumerate((height, width)):
    old = image.shape[axis]
    centres = (np.arange(size) + 0.5) * old / size - 0.5
    floor = np.floor(centres)
    weight = (centres - floor).reshape([-1] + [1] * (2 - axis))
    low = np.take(image, np.clip(floor, 0, old - 1).astype(int), axis)
    high = np.take(image, np.clip(floor + 1, 0, old - 1).astype(int), axis)
    image = low * (1 - weight) + high * weight
  return image


def train_image(image, *, top, left, flip, resize_size, crop_size):
  image = resize(image, resize_size, resize_size)
  image = image[top : top + crop_size, left : left + crop_size]
  return image[:, ::-1] if flip else image


def eval_image(image, *, crop_size):
  height, width = image.shape[:2]
  smaller = min(height, width)
  new_height = int(height / smaller * crop_size)
  new_width = int(width / smaller * crop_size)
  top, left = (new_height - crop_size) // 2, (new_width - crop_size) // 2
  image = resize(image, new_height, new_width)
  return image[top : top + crop_size, left : left + crop_size]
