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


def raw_params():
  """Returns the official parameters, flat, under their official names."""
  return load("tiny_vit_params.npz")


def module_params(raw=None):
  """Returns official parameters, by default the golden ones, as our tree."""
  raw = raw_params() if raw is None else raw
  tree = {}
  for name, value in raw.items():
    if "output_projection" in name:
      continue
    first, *rest = name.split("/")
    if first.startswith("teacher_projection_domain_"):
      continue
    if first == "universal_student_projection_domain_0":
      tree["student_projection", *rest] = value
    elif rest and rest[0].startswith("encoderblock_"):
      inner = (BLOCK_NAMES[rest[1]], *rest[2:])
      path = ("backbone", "Transformer", "encoderblock", *inner)
      tree.setdefault(path, []).append(value)
    else:
      tree["backbone", first, *rest] = value
  prefix = "teacher_projection_domain_"
  for name in raw:
    if name.startswith(f"{prefix}0/"):
      rest = name.split("/")[1:]
      tree["teacher_projection", *rest] = [
        raw["/".join((f"{prefix}{i}", *rest))] for i in range(len(DOMAINS))
      ]
  return flax.traverse_util.unflatten_dict(
    {
      k: jnp.asarray(np.stack(v) if isinstance(v, list) else v)
      for k, v in tree.items()
    }
  )


def class_rows(role, raw=None):
  """Returns {domain: [classes, dim]} of "teacher" or "student"."""
  raw = raw_params() if raw is None else raw
  official = {"teacher": "teacher", "student": "universal_student"}[role]
  return {
    name: np.asarray(raw[f"{official}_output_projection_{i}/kernel"]).T
    for i, name in enumerate(DOMAINS)
  }
