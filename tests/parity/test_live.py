"""Backbones as large as users have, against the originals beside them.

Needs the `parity` extra; `tests/test_pretrained_parity.py` needs none.
"""

import importlib.util

import numpy as np
import pytest

from tests.test_pretrained_parity import embed
from udon_jax.pretrained import bicubic, kinds

pytestmark = [
  pytest.mark.slow,
  pytest.mark.skipif(
    any(
      importlib.util.find_spec(name) is None
      for name in ("torch", "transformers", "timm")
    ),
    reason="the extra `parity` is not installed",
  ),
]

BASE = {
  "width": 768, "depth": 12, "heads": 12, "mlp": 3072, "patch": 16,
  "image": 224,
}  # fmt: skip
SMALL = {**BASE, "width": 384, "heads": 6, "mlp": 1536}
DINO = {**SMALL, "patch": 14, "image": 518}
# What is made, and the sizes of images that it is shown.
CASES = {
  "augreg": (BASE, (224,)),
  "clip_npy": (BASE, (224,)),
  "clip_safetensors": ({**BASE, "patch": 32}, (224,)),
  "hf_vit": (BASE, (224, 384)),
  "hf_clip": (BASE, (224, 336)),
  "hf_clip_vision": (SMALL, (224,)),
  "hf_dinov2": (DINO, (224,)),
  "hf_dinov2_swiglu": ({**SMALL, "patch": 14}, (224,)),
  "hf_dinov2_registers": (DINO, (224,)),
  "hf_dinov2_registers_swiglu_new": ({**SMALL, "patch": 14}, (224,)),
}


@pytest.mark.parametrize("name", CASES)
def test_class_tokens_are_those_of_the_original(name, tmp_path):
  from tests.parity import originals  # noqa: PLC0415

  size, images = CASES[name]
  make, kind, file = originals.CASES[name]
  rng = np.random.default_rng(7)
  original = make(tmp_path, size, rng)
  found = kinds.open_weights(f"{kind}:{tmp_path / file}")
  for side in images:
    pixels = rng.integers(0, 256, (2, side, side, 3), np.uint8)
    expected = original(pixels)
    ours = embed(found, pixels, num_heads=size["heads"])
    print(
      f"{name} at {side}: largest difference "
      f"{np.abs(ours - expected).max():.1e} of values of deviation "
      f"{expected.std():.2f}"
    )
    np.testing.assert_allclose(ours, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize(
  ("old", "new"), [(37, 16), (16, 37), (14, 24), (24, 14), (7, 7), (2, 9)]
)
def test_grids_are_resized_as_by_pytorch(old, new, antialias):
  import torch  # noqa: PLC0415

  grid = np.random.default_rng(0).normal(size=(old, old, 5))
  grid = grid.astype(np.float32)
  expected = torch.nn.functional.interpolate(
    torch.from_numpy(grid.transpose(2, 0, 1)[None].copy()),
    size=(new, new),
    mode="bicubic",
    align_corners=False,
    antialias=antialias,
  )
  ours = bicubic.resize(grid, new, antialias=antialias)
  # PyTorch keeps coordinates in float32.
  np.testing.assert_allclose(
    ours, expected[0].numpy().transpose(1, 2, 0), atol=1e-5
  )
