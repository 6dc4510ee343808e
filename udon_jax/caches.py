"""Where this machine keeps what it can make again."""

import os
import pathlib

VARIABLE = "UDON_JAX_CACHE"


def folder() -> pathlib.Path:
  """Returns $UDON_JAX_CACHE, or $XDG_CACHE_HOME/udon_jax, or ~/.cache/udon_jax.

  It need not exist, nor be writable.
  """
  if own := os.environ.get(VARIABLE):
    return pathlib.Path(os.path.expanduser(own))
  root = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
  return pathlib.Path(root) / "udon_jax"
