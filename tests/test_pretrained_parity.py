"""Backbones from files of other libraries compute what the originals compute.

`tests/parity/make_fixtures.py` makes the files and the numbers; neither torch
nor transformers are needed here.
"""

import dataclasses
import functools
import json
import pathlib

import jax
import numpy as np
import pytest

from tests import fakes
from tests.test_checkpointing import set_up
from udon_jax import build
from udon_jax.models import registry
from udon_jax.pretrained import kinds, weights

ROOT = pathlib.Path(__file__).parent / "golden/parity"
INDEX = json.loads((ROOT / "index.json").read_text())


def open_case(name):
  kind, _, path = INDEX[name]["spec"].partition(":")
  return kinds.open_weights(f"{kind}:{ROOT / path}")


def backbone(found, image_size, **changes):
  """Returns the module of a file, for images of a size."""
  return registry.get_backbone(
    dataclasses.replace(found.architecture, **changes),
    image_size=image_size,
    dtype="float32",
    stochastic_depth=0.0,
    position_stddev=0.02,
    unroll=1,
  )


def shapes_of(found, *, image_size, **changes):
  """Returns the shapes of the parameters of a file's model."""
  module = backbone(found, image_size, **changes)
  image = np.zeros((1, image_size, image_size, 3), np.float32)
  init = functools.partial(module.init, train=False)
  return jax.eval_shape(init, jax.random.key(0), image)["params"]


def embed(found, images, **changes):
  """Returns the class tokens that our model makes of uint8 images."""
  size = images.shape[1]
  module = backbone(found, size, **changes)
  pixels = images.astype(np.float32) / 255
  pixels = (pixels - np.float32(found.pixel_mean)) / np.float32(found.pixel_std)
  params = weights.load_backbone(
    found, shapes_of(found, image_size=size, **changes)
  )
  with jax.default_matmul_precision("highest"):
    apply = jax.jit(functools.partial(module.apply, train=False))
    return np.asarray(apply({"params": params}, pixels))


CASES = [
  (name, array.removeprefix("images_"))
  for name in INDEX
  for array in np.load(ROOT / name / "expected.npz").files
  if array.startswith("images_")
]


@pytest.mark.parametrize(("name", "size"), CASES)
def test_class_tokens_are_those_of_the_original(name, size):
  expected = np.load(ROOT / name / "expected.npz")
  found = open_case(name)
  changes = {}
  if "num_heads" in found.untold:
    changes["num_heads"] = INDEX[name]["heads"]
  tokens = embed(found, expected[f"images_{size}"], **changes)
  np.testing.assert_allclose(
    tokens, expected[f"tokens_{size}"], atol=1e-5, rtol=1e-5
  )


@pytest.mark.parametrize(
  ("case", "name"),
  [
    ("clip_npy", "clip_mu8"),
    ("hf_vit", "hfvit_mu8"),
    ("hf_clip", "clip_mu8"),
    ("hf_dinov2_registers", "dinov2reg_mu8"),
  ],
)
def test_a_run_starts_from_each_kind(case, name):
  """By its name alone; on eight devices, each with its part."""
  kind, _, path = INDEX[case]["spec"].partition(":")
  changes = {
    "model__name": name,
    "data__crop_size": 40,
    "data__resize_size": 40,
    "pretrained": f"{kind}:{ROOT / path}",
  }
  before = set_up("2x4", **changes).abstract_state.params
  after = build.load_pretrained(fakes.changed(**changes), before)["backbone"]
  whole = weights.load_backbone(
    open_case(case), shapes_of(open_case(case), image_size=40, num_heads=2)
  )
  jax.tree.map(np.testing.assert_array_equal, after, whole)
  for ours, like in zip(
    jax.tree.leaves(after), jax.tree.leaves(before["backbone"]), strict=True
  ):
    assert ours.sharding == like.sharding
