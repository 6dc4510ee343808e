"""Backbones from files of other libraries compute what the originals compute.

`tests/parity/make_fixtures.py` makes the files and the numbers; neither torch
nor transformers are needed here.
"""

import dataclasses
import json
import pathlib

import flax
import jax
import numpy as np
import pytest

from udon_jax.models import registry
from udon_jax.pretrained import kinds, weights

ROOT = pathlib.Path(__file__).parent / "golden/parity"
INDEX = json.loads((ROOT / "index.json").read_text())


def open_case(name):
  kind, _, path = INDEX[name]["spec"].partition(":")
  return kinds.open_weights(f"{kind}:{ROOT / path}")


def embed(found, images, **changes):
  """Returns the class tokens that our model makes of uint8 images."""
  arch = dataclasses.replace(found.architecture, **changes)
  module = registry.get_backbone(
    arch,
    image_size=images.shape[1],
    dtype="float32",
    stochastic_depth=0.0,
    position_stddev=0.02,
    unroll=1,
  )
  pixels = images.astype(np.float32) / 255
  pixels = (pixels - np.float32(found.pixel_mean)) / np.float32(found.pixel_std)
  shapes = jax.eval_shape(
    lambda: module.init(jax.random.key(0), pixels, train=False)
  )["params"]
  params = weights.load_backbone(found, flax.core.unfreeze(shapes))
  with jax.default_matmul_precision("highest"):
    apply = jax.jit(lambda p, x: module.apply({"params": p}, x, train=False))
    return np.asarray(apply(params, pixels))


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
