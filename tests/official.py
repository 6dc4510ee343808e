"""Reads the official implementation's numbers into our trees."""

import pathlib

import flax
import jax.numpy as jnp
import numpy as np

from udon_jax.models import architecture, udon, vit

FOLDER = pathlib.Path(__file__).parent / "golden" / "official"
DOMAINS = ("food2k", "cars", "sop", "inshop", "inat", "met", "gldv2", "rp2k")
BLOCK_NAMES = {
  "LayerNorm_0": "LayerNorm_0",
  "MultiHeadDotProductAttention_0": "MultiHeadDotProductAttention_1",
  "LayerNorm_1": "LayerNorm_2",
  "MlpBlock_0": "MlpBlock_3",
}


def load(name):
  with np.load(FOLDER / name, allow_pickle=False) as file:
    return dict(file)


def model():
  """Returns the tiny model of the golden files."""
  return udon.Udon(
    backbone=vit.ViT(
      architecture.parse("vit_16", width=64, depth=2, num_heads=2, mlp_dim=128)
    ),
    num_domains=len(DOMAINS),
    teacher_dim=256,
    teacher_hidden=(),
    student_dim=64,
    student_hidden=(),
    pixel_mean=(0.5,) * 3,
    pixel_std=(0.5,) * 3,
  )


def module_params():
  """Returns the official parameters as a tree of our model."""
  raw = load("tiny_vit_params.npz")
  tree = {}
  for name, value in raw.items():
    if "output_projection" in name:
      continue
    parts = name.split("/")
    if parts[0].startswith("teacher_projection_domain_"):
      continue
    if parts[0] == "universal_student_projection_domain_0":
      tree["student_projection", *parts[1:]] = value
    elif len(parts) > 1 and parts[1].startswith("encoderblock_"):
      inner = (BLOCK_NAMES[parts[2]], *parts[3:])
      path = ("backbone", "Transformer", "encoderblock", *inner)
      tree.setdefault(path, []).append(value)
    else:
      tree["backbone", *parts] = value
  for leaf in ("kernel", "bias"):
    tree["teacher_projection", "Dense_0", leaf] = [
      raw[f"teacher_projection_domain_{i}/Dense_0/{leaf}"]
      for i in range(len(DOMAINS))
    ]
  return flax.traverse_util.unflatten_dict(
    {
      k: jnp.asarray(np.stack(v) if isinstance(v, list) else v)
      for k, v in tree.items()
    }
  )


def class_rows(role):
  """Returns {domain: [classes, dim]} of "teacher" or "student"."""
  raw = load("tiny_vit_params.npz")
  official = {"teacher": "teacher", "student": "universal_student"}[role]
  return {
    name: raw[f"{official}_output_projection_{i}/kernel"].T
    for i, name in enumerate(DOMAINS)
  }
