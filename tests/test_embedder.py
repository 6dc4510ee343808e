"""A trained model embeds images, however they are given."""

import dataclasses

import jax
import numpy as np
from PIL import Image
import pytest

from tests import data_files, fakes
import udon_jax
from udon_jax import (
  build,
  checkpointing,
  embedder,
  errors,
  run,
  trained,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """Returns a folder of 21 images of any kind, of which 2 are unreadable."""
  root = tmp_path_factory.mktemp("images")
  rng = np.random.default_rng(0)
  for i in range(19):
    size = int(rng.integers(16, 60)), int(rng.integers(16, 60))
    mode = "L" if i % 7 == 0 else "RGB"
    image = Image.fromarray(rng.integers(0, 255, (*size, 3), np.uint8))
    place = root / f"sub {i % 3}"
    place.mkdir(exist_ok=True)
    suffix = ("jpg", "png", "webp", "JPEG")[i % 4]
    image.convert(mode).save(place / f"größe {i}.{suffix}")
  (root / "empty.jpg").write_bytes(b"")
  (root / "sub 0" / "text.png").write_text("no image")
  (root / "notes.txt").write_text("no image, and not named like one")
  return root


def paths_of(folder):
  return sorted(p for p in folder.rglob("*.*") if p.stem[:5] == "größe")


def test_all_ways_to_give_an_image_are_one(tiny_run, folder):
  model = udon_jax.load(tiny_run)
  paths = [p for p in paths_of(folder) if p.suffix == ".png"]
  rows = model.embed(paths)
  assert rows.shape == (len(paths), 8)
  assert rows.dtype == np.float32
  np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
  opened = [Image.open(p) for p in paths]
  pixels = [np.asarray(image.convert("RGB")) for image in opened]
  contents = [p.read_bytes() for p in paths]
  for images in (opened, pixels, contents, iter(map(str, paths))):
    np.testing.assert_array_equal(model.embed(images), rows)


def test_embeddings_are_those_of_the_checkpoint(tiny_run):
  rng = np.random.default_rng(1)
  images = rng.integers(0, 255, (5, fakes.SIZE, fakes.SIZE, 3), np.uint8)
  checkpoints = checkpointing.open_existing(tiny_run, best=run.BEST_METRIC)
  step = checkpoints.best_step
  config = build.from_json(checkpoints.restore_meta(step).config)
  mesh = build.eval_mesh(config)
  model = build.model(config, len(config.domains))
  params = checkpoints.restore_params(
    step, build.abstract_params(config, model, mesh)
  )
  checkpoints.close()
  expected = model.apply({"params": params}, images, 2, train=False)
  domain = config.domains[2]
  for name in ("student", "teacher", "backbone"):
    rows = embedder.load(tiny_run, embedding=name, domain=domain).embed(images)
    np.testing.assert_allclose(rows, getattr(expected, name), atol=1e-5)


def test_more_images_than_a_batch_and_none(tiny_run):
  model = udon_jax.load(tiny_run)
  rng = np.random.default_rng(2)
  images = rng.integers(0, 255, (37, 20, 30, 3), np.uint8)
  assert model.batch_size == 16
  rows = model.embed(images)
  np.testing.assert_allclose(rows[33:], model.embed(images[33:]), atol=1e-6)
  assert model.embed([]).shape == (0, 8)


def test_images_are_taken_as_they_are_needed(tiny_run):
  model = udon_jax.load(tiny_run, batch_size=8, num_threads=1)
  taken = 0

  def images():
    nonlocal taken
    for i in range(10_000):
      taken += 1
      yield b"no image" if i == 50 else np.full((20, 20, 3), i, np.uint8)

  with pytest.raises(errors.UserError, match="image 50 cannot be read"):
    model.embed(images())
  assert taken < 100


def test_unreadable_images_keep_their_positions(tiny_run, folder):
  model = udon_jax.load(tiny_run)
  good = paths_of(folder)
  images = [*good[:3], folder / "empty.jpg", *good[3:], folder / "gone.jpg"]
  rows, unreadable = model.embed_readable(images)
  assert unreadable == [3, len(images) - 1]
  np.testing.assert_allclose(rows, model.embed(good), atol=1e-6)


def test_what_a_model_says_of_itself(tiny_run):
  model = udon_jax.load(tiny_run, embedding="teacher", domain="sop")
  assert (model.step, model.dim, model.batch_size) == (2, 16, 16)
  same = udon_jax.load(tiny_run, batch_size=24, num_threads=1)
  assert (same.dim, same.batch_size, same.num_threads) == (8, 24, 1)
  assert same.fingerprint == model.fingerprint


@pytest.mark.parametrize(
  ("key", "value", "same"),
  [
    ("unroll", 3, True),
    ("remat", "blocks", True),
    ("attention", "xla", True),
    ("norm_eps", 1e-3, False),
  ],
)
def test_how_it_is_computed_is_no_part_of_the_fingerprint(
  tiny_run, key, value, same
):
  found = trained.load(tiny_run)
  config = found.config.copy_and_resolve_references()
  with config.unlocked():
    config.model[key] = value
  other = dataclasses.replace(found, config=config)
  assert (other.fingerprint() == found.fingerprint()) == same


def test_another_weight_is_another_fingerprint(tiny_run):
  found = trained.load(tiny_run)
  leaves, tree = jax.tree.flatten(found.params)
  changed = [*leaves[:-1], leaves[-1].at[0].add(1e-6)]
  other = dataclasses.replace(found, params=tree.unflatten(changed))
  assert other.fingerprint() != found.fingerprint()


def test_pixels_are_those_of_the_runs_evaluation(tiny_run, folder):
  """Of a run whose pixels are not rounded too."""
  found = trained.load(tiny_run)
  data = [path.read_bytes() for path in paths_of(folder)]
  prints = set()
  for round_pixels in (True, False):
    config = found.config.copy_and_resolve_references()
    with config.unlocked():
      config.data.round_pixels = round_pixels
    run_of = dataclasses.replace(found, config=config)
    prints.add(run_of.fingerprint())
    with pytest.MonkeyPatch.context() as patch:
      patch.setattr(trained, "load", lambda *_, run_of=run_of, **__: run_of)
      model = udon_jax.load(tiny_run)
    assert model.dim == 8
    images = [
      data_files.eval_image(x, crop_size=16, round_pixels=round_pixels)
      for x in data
    ]
    padding = [np.zeros_like(images[0])] * (-len(images) % model.batch_size)
    batches = np.stack([*images, *padding])
    assert batches.dtype == (np.uint8 if round_pixels else np.float32)
    expected = run_of.evaluator().embed_batches(
      run_of.params,
      np.split(batches, len(batches) // model.batch_size),
      domain="cars",
      names=["student"],
    )["student"][: len(data)]
    np.testing.assert_array_equal(model.embed(data), expected)
  assert len(prints) == 2


def test_mistakes(tiny_run, folder, tmp_path):
  model = udon_jax.load(tiny_run)
  with pytest.raises(errors.UserError, match=r"empty\.jpg cannot be read"):
    model.embed([folder / "empty.jpg", *paths_of(folder)])
  with pytest.raises(errors.UserError, match=r"float32 \(8, 8, 3\)"):
    model.embed([np.zeros((8, 8, 3), np.float32)])
  with pytest.raises(errors.UserError, match="the teacher of one of cars"):
    udon_jax.load(tiny_run, embedding="teacher")
  with pytest.raises(errors.UserError, match="'head' is unknown"):
    udon_jax.load(tiny_run, embedding="head")
  with pytest.raises(errors.UserError, match="holds no checkpoint"):
    udon_jax.load(tmp_path)
  with pytest.raises(errors.UserError, match=r"write \[image\]"):
    model.embed(str(paths_of(folder)[0]))
  with pytest.raises(errors.UserError, match="--batch_size=12 is not divis"):
    udon_jax.load(tiny_run, batch_size=12)
  with pytest.raises(errors.UserError, match="no checkpoint of step 7"):
    udon_jax.load(tiny_run, step=7)
