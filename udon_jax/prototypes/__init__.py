"""The class prototypes: loss terms over classes, their gradients and updates.

Every domain has two cosine classifiers, one for its teacher and one for the
student. Together they hold more parameters than the ViT, so they live outside
the module, in tables of blocks that are cut over all devices (`tables`). A step
streams over the blocks of its own domain alone (`step`): its memory does not
grow with the classes, nor its time with those of other domains, whose AdamW
updates are made up for when they are next trained (`catch_up`).
"""

from udon_jax.prototypes.catch_up import AdamW
from udon_jax.prototypes.classes import Terms
from udon_jax.prototypes.step import Batch, Hyper, Scores, Step
from udon_jax.prototypes.tables import (
  PRECISIONS,
  Layout,
  Prototypes,
  by_domain,
  init,
  make_layout,
  pack,
  shardings,
  unpack,
)

__all__ = [
  "PRECISIONS",
  "AdamW",
  "Batch",
  "Hyper",
  "Layout",
  "Prototypes",
  "Scores",
  "Step",
  "Terms",
  "by_domain",
  "init",
  "make_layout",
  "pack",
  "shardings",
  "unpack",
]
