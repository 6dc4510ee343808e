"""Checkpoints: how they are kept, what they hold, how damage is noticed.

Orbax lives here alone.
"""

from udon_jax.checkpointing.checkpointer import (
  FOLDER,
  Checkpointer,
  Meta,
  open_existing,
)

__all__ = ["FOLDER", "Checkpointer", "Meta", "open_existing"]
