"""The paper's setting: eight domains, ViT-B/16, 64-d universal embedding.

UDON (NeurIPS 2024), sec. 4: https://arxiv.org/abs/2406.08332

  python -m udon_jax.main --config=configs/uned_vitb16.py --workdir=DIR \\
    --config.data_dir=DATA --config.pretrained=augreg:FILE.npz

DATA holds the UnED data, FILE.npz the AugReg weights of a ViT-B/16 trained
on ImageNet-21k (`B_16-i21k-...npz`). 10 epochs of 2,831,222 images are
221,180 steps. Ours: not run.

  python -m udon_jax.main --config=configs/uned_vitb16.py:smoke --workdir=DIR

takes a few steps of a tiny model on the synthetic data, in a minute.
"""

from udon_jax import default_config

VARIANTS = {"smoke": default_config.make_smoke}


def get_config(variant=""):
  """Returns the config; `variant` is a name of VARIANTS."""
  c = default_config.get_config()  # the paper's, but for what stands here
  c.data_dir = "data/uned"
  c.num_epochs = 10.0
  c.frozen_epochs = 2.0
  # The paper starts from pretrained weights, which you provide. Without them
  # the backbone starts from scratch.
  c.pretrained = None
  c.model.name = "vit_b16"
  # The paper's precision; --config.model.dtype=bfloat16 is faster on
  # accelerators.
  c.model.dtype = "float32"
  return default_config.vary(c, variant, VARIANTS)
