"""Kinds of files of weights, by the name that stands before their path."""

from collections.abc import Callable

from etils import epath

from udon_jax import errors
from udon_jax.pretrained import (
  augreg,
  clip,
  huggingface,
  official,
  weights,
)

# A whole run of ours, which `warm_start` reads; only training starts from it.
OF_RUNS = "udon"
KINDS: dict[str, Callable[..., weights.Weights]] = {
  "augreg": augreg.open_weights,
  "clip": clip.open_weights,
  "hf": huggingface.open_weights,
  "official": official.open_weights,
}


def open_weights(
  spec: str, *, key: str = "config.pretrained"
) -> weights.Weights:
  """Returns the backbone of a file.

  Args:
    spec: KIND:PATH.
    key: what the user set it with, for messages.

  Raises:
    UserError: unknown kind, or a file that cannot be read or is of another
      kind.
  """
  kind, _, path = spec.partition(":")
  if kind not in KINDS or not path:
    known = [*KINDS, OF_RUNS] if key == "config.pretrained" else list(KINDS)
    raise errors.UserError(
      f"{key}={spec!r} must be KIND:PATH with a kind of {', '.join(known)}"
    )
  return KINDS[kind](epath.Path(path).expanduser(), key=key)
