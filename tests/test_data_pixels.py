"""Pixels are those of the official code: exactly, or rounded to grey levels."""

import dataclasses
import itertools

from flax import linen as nn
import jax
import numpy as np
import pytest
import tensorflow as tf

from tests import data_files, fakes, official_data, training
from tests.oracles import preprocess as oracle
from udon_jax.data import files, order, pipeline, preprocess, records
from udon_jax.models import udon

# Widths and heights: landscape, portrait, square, smaller than any crop, long.
SIZES = [(500, 375), (375, 500), (301, 300), (64, 64), (225, 224), (223, 224)]
SIZES += [(5, 3), (3, 5), (1, 1), (1, 9), (7, 600), (600, 7), (333, 497)]
KINDS = {
  "grey": {"mode": "L"},
  "cmyk": {"mode": "CMYK"},
  "progressive": {"progressive": True},
  "not subsampled": {"subsampling": 0, "quality": 98},
  "coarse": {"quality": 20},
}
IMAGES = [data_files.encode(i, size=size) for i, size in enumerate(SIZES)]
IMAGES += [
  data_files.encode(i, size=(211, 150), **options)
  for i, options in enumerate(KINDS.values())
]
NAMES = [f"{w}x{h}" for w, h in SIZES] + list(KINDS)
LEVEL = 0.5 + 1e-3  # what rounding may change
MEAN, STD = (0.5, 0.4, 0.3), (0.5, 0.25, 0.2)


@pytest.mark.parametrize("crop_size", [224, 32, 33, 384])
@pytest.mark.parametrize("data", IMAGES, ids=NAMES)
def test_evaluation_images_are_official(data, crop_size):
  expected = oracle.official_eval(data, crop_size=crop_size).numpy()
  exact, rounded = (
    data_files.eval_image(
      data, crop_size=crop_size, round_pixels=round_pixels
    ).numpy()
    for round_pixels in (False, True)
  )
  assert exact.dtype == expected.dtype == np.float32
  np.testing.assert_array_equal(exact, expected)
  assert rounded.dtype == np.uint8
  assert np.abs(rounded - expected).max() <= LEVEL


@pytest.mark.parametrize("sizes", [(256, 224), (41, 32), (32, 32)])
@pytest.mark.parametrize("data", IMAGES, ids=NAMES)
@pytest.mark.parametrize("flip", [False, True])
def test_training_images_are_official(data, sizes, flip):
  sizes = {"resize_size": sizes[0], "crop_size": sizes[1]}
  room = sizes["resize_size"] - sizes["crop_size"]
  top, left = room, room // 3
  expected = oracle.official_train(
    data, top=top, left=left, flip=flip, **sizes
  ).numpy()
  exact, rounded = (
    data_files.train_image(
      data,
      tf.constant([top, left]),
      tf.constant(flip),
      **sizes,
      round_pixels=round_pixels,
    ).numpy()
    for round_pixels in (False, True)
  )
  np.testing.assert_array_equal(exact, expected)
  assert exact.dtype == np.float32 and rounded.dtype == np.uint8
  assert np.abs(rounded - expected).max() <= LEVEL


class _Pixels(nn.Module):
  """A backbone that gives what it sees, and a one, so that no scale is lost."""

  mesh: None = None  # on which nothing is cut

  @nn.compact
  def __call__(self, images, *, train):
    flat = images.reshape(len(images), -1)
    return jax.numpy.concatenate([flat, flat[:, :1] * 0 + 1], axis=1)


@pytest.mark.parametrize("data", IMAGES[:6], ids=NAMES[:6])
def test_the_network_sees_official_pixels(data):
  """From the file to the ViT: to 1e-3, and far less, once normalised."""
  model = udon.Udon(
    backbone=_Pixels(),
    num_domains=1,
    teacher_dim=2,
    teacher_hidden=(),
    student_dim=2,
    student_hidden=(),
    pixel_mean=MEAN,
    pixel_std=STD,
  )
  images = data_files.eval_image(data, crop_size=224, round_pixels=False)
  variables = model.init(
    jax.random.key(0), images[None].numpy(), 0, train=False
  )
  seen = model.apply(variables, images[None].numpy(), 0, train=False).backbone
  found = (np.asarray(seen[0], np.float64) / seen[0, -1])[:-1]
  expected = oracle.official_normalize(
    oracle.official_eval(data, crop_size=224), mean=MEAN, std=STD
  ).numpy()
  np.testing.assert_allclose(found, expected.ravel(), atol=1e-4)


OPTIONS = dataclasses.replace(data_files.OPTIONS, round_pixels=False)


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
  """Records of all images, in the form of the official converter."""
  file = tmp_path_factory.mktemp("records") / "cars.train.tfrecord"
  shards = official_data.write_shards(
    file,
    [
      official_data.example(data, i, name)
      for i, (data, name) in enumerate(zip(IMAGES, NAMES, strict=True))
    ],
    num_shards=30,
  )
  assert any(shard.stat().st_size == 0 for shard in shards)
  return records.RecordFiles(shards)


def image_of(opened, record):
  example = tf.train.Example.FromString(opened.read(record))
  return example.features.feature["image_bytes"].bytes_list.value[0]


def train(opened, options, position=0, count=5):
  source = pipeline.TrainSource(
    "cars",
    num_classes=len(IMAGES),
    fingerprint="",
    files=opened,
    batch_size=4,
    seed=3,
    options=options,
  )
  return list(itertools.islice(source.open(position), count))


def test_training_streams_hold_official_pixels(opened):
  found = np.concatenate([b.images for b in train(opened, OPTIONS)])
  assert found.dtype == np.float32
  epochs, numbers = order.records_at(
    np.arange(20), len(opened), seed=3, domain="cars"
  )
  offsets, flips = order.augmentations(
    epochs, numbers, seed=3, domain="cars", room=4
  )
  for image, number, (top, left), flip in zip(
    found, numbers, offsets, flips, strict=True
  ):
    expected = oracle.official_train(
      image_of(opened, int(number)),
      top=int(top),
      left=int(left),
      flip=bool(flip),
      resize_size=20,
      crop_size=16,
    )
    np.testing.assert_array_equal(image, expected)


def test_rounding_changes_pixels_alone(opened):
  """Order, augmentation and labels stay; a position is one of both."""
  exact = train(opened, OPTIONS)
  for batch, other in zip(
    exact, train(opened, data_files.OPTIONS), strict=True
  ):
    np.testing.assert_array_equal(batch.labels, other.labels)
    assert np.abs(batch.images - other.images.astype(float)).max() <= LEVEL
    assert (batch.images != other.images).any()
  for batch, other in zip(exact[3:], train(opened, OPTIONS, 3, 2), strict=True):
    np.testing.assert_array_equal(batch.images, other.images)


@pytest.mark.parametrize("count", [1, 2])
def test_evaluation_streams_hold_official_pixels(opened, count):
  parts = [
    list(
      pipeline.open_eval(
        opened,
        batch_size=8,
        options=dataclasses.replace(
          OPTIONS, process_index=i, process_count=count
        ),
      )
    )
    for i in range(count)
  ]
  for k in range(len(parts[0])):
    images = np.concatenate([part[k].images for part in parts])
    mask = np.concatenate([part[k].mask for part in parts])
    assert images.dtype == np.float32 and images.shape == (8, 16, 16, 3)
    assert not images[~mask].any()
    for row in np.flatnonzero(mask):
      data = image_of(opened, 8 * k + int(row))
      np.testing.assert_array_equal(
        images[row], oracle.official_eval(data, crop_size=16)
      )


def test_files_that_are_embedded_hold_official_pixels(tmp_path):
  for i, data in enumerate(IMAGES):
    (tmp_path / f"{i:02}.jpg").write_bytes(data)
  (tmp_path / "99.jpg").write_bytes(b"no image")
  paths = sorted(path.name for path in tmp_path.iterdir())
  options = {"crop_size": 16, "round_pixels": False, "exif": False}
  options |= {"batch_size": 8, "num_threads": 2}
  expected = [oracle.official_eval(data, crop_size=16) for data in IMAGES]
  ways = (
    files.read_folder(tmp_path, paths, start=0, **options),
    files.read([tmp_path / path for path in paths], **options),
    files.read([*IMAGES, b"no image"], **options),
    files.read(
      [preprocess.decode(data).numpy() for data in IMAGES] + [b""], **options
    ),
  )
  for batches in ways:
    found = np.concatenate([batch.images for batch in batches])
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found[: len(IMAGES)], expected)
    assert not found[len(IMAGES) :].any()


@pytest.mark.slow
def test_a_step_is_of_pixels_whatever_their_type(monkeypatch):
  """Whole grey levels give the same losses as uint8 and as float32."""
  config = fakes.config()

  def losses():
    run = training.set_up(config)
    return training.take_steps(run, run.init_state(), (0, 2, 1))[1]

  as_bytes = losses()
  draw = fakes.draw
  monkeypatch.setattr(
    fakes, "draw", lambda *arguments: draw(*arguments).astype(np.float32)
  )
  np.testing.assert_array_equal(losses(), as_bytes)
