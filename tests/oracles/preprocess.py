"""Resizing and cropping, written again.

In numpy and float64; and, as `official_*`, in the TensorFlow operations that
the official code calls (datasets.py), in its order and precision.
"""

import numpy as np
import tensorflow as tf


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


def official_eval(data, *, crop_size):
  """Float32 pixels of an evaluation image, before they are normalised."""
  image = tf.io.decode_jpeg(data, channels=3)
  height, width = tf.unstack(tf.shape(image)[:2])
  if height <= width:
    wanted = [crop_size, tf.cast((width / height) * crop_size, tf.int32)]
  else:
    wanted = [tf.cast((height / width) * crop_size, tf.int32), crop_size]
  image = tf.image.resize(image, wanted, method="bilinear")
  height, width = int(wanted[0]), int(wanted[1])
  side = min(height, width)
  return tf.image.crop_to_bounding_box(
    image, (height - side) // 2, (width - side) // 2, side, side
  )


def official_train(data, *, top, left, flip, resize_size, crop_size):
  """Float32 pixels of a training image whose augmentation is given."""
  image = tf.io.decode_jpeg(data, channels=3)
  image = tf.image.resize(image, [resize_size] * 2, method="bilinear")
  image = tf.image.crop_to_bounding_box(image, top, left, crop_size, crop_size)
  return tf.image.flip_left_right(image) if flip else image


def official_normalize(image, *, mean, std):
  """What the official network sees of float32 pixels."""
  image = image / tf.constant(255, tf.float32)
  return (image - tf.constant(mean)) / tf.constant(std)
