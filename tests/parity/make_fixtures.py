"""Makes tests/golden/parity anew: tiny originals, and what they compute.

  python -m tests.parity.make_fixtures

Needs the `parity` extra. Every folder holds weights as users have them and
`expected.npz`: uint8 images of one or more sizes, and the class tokens that the
original makes of them, after its last norm.
"""

import json
import pathlib
import shutil

import numpy as np

from tests.parity import originals

ROOT = pathlib.Path(__file__).parents[1] / "golden/parity"
# Grids of 4 and, where positions are made for other images, of 5.
SMALL = {
  "width": 32, "depth": 2, "heads": 2, "mlp": 64, "patch": 8, "image": 32,
}  # fmt: skip
THREE_HEADS = {**SMALL, "width": 36, "heads": 3, "mlp": 60}
GRID_5 = {**SMALL, "image": 40}
SIZES = {
  "augreg": (THREE_HEADS, (32,)),
  "clip_npy": (SMALL, (32,)),
  "clip_safetensors": (THREE_HEADS, (32,)),
  "hf_vit": (GRID_5, (40, 24)),
  "hf_vit_new": (SMALL, (32,)),
  "hf_vit_bfloat16": (SMALL, (32,)),
  "hf_clip": (GRID_5, (40, 24, 64)),
  "hf_clip_vision": (SMALL, (32,)),
  "hf_dinov2": ({**GRID_5, "patch": 14, "image": 70}, (70, 42, 98)),
  "hf_dinov2_swiglu": (SMALL, (32,)),
  "hf_dinov2_registers": (GRID_5, (40, 24, 64)),
  "hf_dinov2_registers_swiglu_new": (SMALL, (32,)),
}


def main():
  """Writes all folders."""
  shutil.rmtree(ROOT, ignore_errors=True)
  index = {}
  for seed, (name, (make, kind, file)) in enumerate(originals.CASES.items()):
    folder = ROOT / name
    folder.mkdir(parents=True)
    size, images = SIZES[name]
    rng = np.random.default_rng(seed)
    embed = make(folder, size, rng)
    expected = {}
    for side in images:
      shape = (2, side, side, 3)
      expected[f"images_{side}"] = rng.integers(0, 256, shape, np.uint8)
      expected[f"tokens_{side}"] = embed(expected[f"images_{side}"])
    np.savez_compressed(folder / "expected.npz", **expected)
    index[name] = {"spec": f"{kind}:{name}/{file}", "heads": size["heads"]}
    print(name, {k: v.std() for k, v in expected.items() if "tok" in k})
  (ROOT / "index.json").write_text(json.dumps(index, indent=2) + "\n")


if __name__ == "__main__":
  main()
