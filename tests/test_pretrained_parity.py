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
