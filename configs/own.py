"""The paper's setting on domains of your own: copy this file and change it.

Every domain is described by where its images are; docs/own_domains.md has all
keys. Records are made first, then trained on:

  python -m udon_jax.data.prepare --config=configs/own.py
  python -m udon_jax.main --config=configs/own.py --workdir=DIR \\
    --config.pretrained=augreg:FILE.npz

FILE.npz holds the AugReg weights of a ViT-B/16 (`B_16-i21k-...npz`). With

  python -m udon_jax.data.prepare --config=configs/own.py:smoke
  python -m udon_jax.main --config=configs/own.py:smoke --workdir=DIR

a tiny model takes a few steps on folders of the synthetic data, in a minute.
Variants follow the colon, with commas between them:

  clip       CLIP's ViT-B/16; give --config.pretrained=clip:FILE
  mlp        projections with a hidden layer
  smoke      a tiny run on the synthetic data
"""

from udon_jax import default_config, variants


def get_config(variant=""):
  """Returns the config; `variant` is names of VARIANTS, or nothing."""
  c = default_config.get_config()  # the paper's, but for what stands here
  # Lists and records are written below it; images stay where they are.
  c.data_dir = "data/own"
  # UnED's domains may stand beside them, where data_dir holds them.
  c.domains = ("shoes", "bags")
  # shoes/<class>/<image>. Whole classes are held out: a tenth to validate on, a
  # fifth to test on, where every image searches all others.
  c.own.shoes = {
    "folder": "/data/shoes",
    "splits": {"by": "class", "val": 0.1, "test": 0.2},
  }
  # A row for each image, with its path, relative to `images`, and its class.
  # Images of every class are held out, and search those that are trained on.
  c.own.bags = {
    "table": "/data/bags/catalogue.csv",
    "images": "/data/bags/photos",
    "path_column": "file",
    "label_column": "product",
    "splits": {"by": "image", "val": 0.1, "test": 0.2},
  }
  c.num_epochs = 10.0
  c.frozen_epochs = 2.0
  # The paper starts from pretrained weights, which you provide. Without them
  # the backbone starts from scratch.
  c.pretrained = None
  c.model.name = "vit_b16"
  return variants.vary(c, variant, VARIANTS)


def make_smoke(config):
  """Makes a tiny run on two domains of the synthetic data, as image folders."""
  variants.make_smoke(config)
  images = f"{config.data_dir}/images"
  config.own.shoes.folder = f"{images}/met/MET"
  config.own.bags = {
    "folder": f"{images}/food2k",
    "splits": {"by": "image", "val": 0.3, "test": 0.3},
  }


VARIANTS = {
  "smoke": make_smoke,
  "clip": variants.make_clip,
  "mlp": variants.make_mlp,
}
