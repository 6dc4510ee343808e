"""The paper's setting, and variants of it by name, for the files of configs/.

A variant is a function that changes a config. --config=FILE:A,B makes the
changes A and then B.
"""

from collections.abc import Callable, Mapping
from typing import TypeAlias

import ml_collections

from udon_jax import default_config, errors

Config: TypeAlias = ml_collections.ConfigDict
Variants: TypeAlias = Mapping[str, Callable[[Config], None]]

# In the order of the official config: an index in its checkpoints.
OFFICIAL_DOMAINS = (
  "food2k",
  "cars",
  "sop",
  "inshop",
  "inat",
  "met",
  "gldv2",
  "rp2k",
)


def vary(config: Config, variant: str, variants: Variants) -> Config:
  """Returns a config file's config, changed as its variants say, locked.

  Args:
    config: what the file describes.
    variant: what follows the colon of --config=FILE:VARIANT, names with commas
      between them, which are applied in their order; "" changes nothing.
    variants: the functions that make the changes, by name.

  Raises:
    UserError: a variant is unknown.
  """
  for name in variant.split(",") if variant else ():
    if name not in variants:
      raise errors.UserError(
        f"--config: the variant {name!r} is unknown; known: "
        f"{', '.join(variants) or 'none'}"
      )
    variants[name](config)
  return config.lock()


def uned(model: str, variant: str) -> Config:
  """Returns the paper's setting on UnED (NeurIPS 2024, sec. 4), locked.

  Args:
    model: name of the ViT.
    variant: see `vary`; the names are those of UNED.
  """
  c = default_config.get_config()  # the paper's, but for what stands here
  c.data_dir = "data/uned"
  c.num_epochs = 10.0
  c.frozen_epochs = 2.0
  # The paper starts from pretrained weights, which you provide. Without them
  # the backbone starts from scratch.
  c.pretrained = None
  c.model.name = model
  # The paper's precision; --config.model.dtype=bfloat16 is faster on
  # accelerators.
  c.model.dtype = "float32"
  return vary(c, variant, UNED)


def make_smoke(config: Config) -> None:
  """Makes a run so small that it ends in a minute on a laptop's CPU.

  It passes through the same code: a frozen phase, several windows of the
  sampler, a validation, a checkpoint and the final test, on the synthetic data.
  """
  config.data_dir = "data/mini_uned"
  config.batch_size = 16
  config.num_train_steps, config.num_epochs = 6, None
  config.frozen_steps, config.frozen_epochs = 2, None
  config.pretrained = None
  config.log_every = 2
  config.eval_every = config.checkpoint_every = 6
  config.data.resize_size = 36
  config.data.crop_size = 32
  config.model.name = "vit_mu8"
  config.sampler.update_every = 2
  config.eval.batch_size = 64


def make_official(config: Config) -> None:
  """Makes the official run: its semantics, order of domains and validations."""
  config.semantics = default_config.OFFICIAL
  config.data.round_pixels = False
  config.domains = OFFICIAL_DOMAINS
  # Once an epoch, which saves the best: steps of an epoch of UnED in batches of
  # 128; with other data or batches, set it to theirs.
  config.eval_every = 22_118


def make_clip(config: Config) -> None:
  """Starts from CLIP's ViT-B/16, with the statistics of its images."""
  config.model.name = "clip_b16"


def make_mlp(config: Config) -> None:
  """Gives teachers and student a hidden layer, as wide as a ViT-B.

  Officially `teacher_dim=(768, 256)` and `universal_student_dim=(768, 64)`.
  """
  config.model.teacher_hidden = (768,)
  config.model.student_hidden = (768,)


UNED: Variants = {
  "smoke": make_smoke,
  "official": make_official,
  "clip": make_clip,
  "mlp": make_mlp,
}
