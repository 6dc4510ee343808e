"""The paper's setting with the smaller ViT-S/16.

UDON (NeurIPS 2024), sec. 4: https://arxiv.org/abs/2406.08332

  python -m udon_jax.main --config=configs/uned_vits16.py --workdir=DIR \\
    --config.data_dir=DATA --config.pretrained=augreg:FILE.npz

DATA holds the UnED data, FILE.npz the AugReg weights of a ViT-S/16 trained
on ImageNet-21k (`S_16-i21k-...npz`). 10 epochs of 2,831,222 images are
221,180 steps. Ours: not run.

  python -m udon_jax.main --config=configs/uned_vits16.py:smoke --workdir=DIR

takes a few steps of a tiny model on the synthetic data, in a minute. Variants
follow the colon, with commas between them (`:official,mlp`):

  official   trains as the official code does, step by step
  clip       CLIP's ViT-B/16; give --config.pretrained=clip:FILE
  mlp        projections with a hidden layer
  smoke      a tiny run on the synthetic data
"""

from udon_jax import variants

VARIANTS = variants.UNED


def get_config(variant=""):
  """Returns the config; `variant` is names of VARIANTS, or nothing."""
  return variants.uned("vit_s16", variant)
