"""Runs of the official code (UDON, UnED): read as they are, and written."""

from udon_jax.pretrained.official.checkpoint import CONFIG_FILE, Checkpoint
from udon_jax.pretrained.official.config_out import from_config
from udon_jax.pretrained.official.configs import to_config
from udon_jax.pretrained.official.reading import (
  backbone,
  load_module,
  load_projection,
  load_prototypes,
  open_moments,
  open_weights,
  prototype_shapes,
)
from udon_jax.pretrained.official.workdir import is_official, open_checkpoint
from udon_jax.pretrained.official.writing import state_tree

__all__ = [
  "CONFIG_FILE",
  "Checkpoint",
  "backbone",
  "from_config",
  "is_official",
  "load_module",
  "load_projection",
  "load_prototypes",
  "open_checkpoint",
  "open_moments",
  "open_weights",
  "prototype_shapes",
  "state_tree",
  "to_config",
]
