"""Projections from the backbone's embedding to a teacher's or the student's.

Source: UDON (NeurIPS 2024), sec. 3.2; official implementation: mlp.py.
Shape legend: b batch, d input dim, e embedding dim.
"""

from collections.abc import Sequence

from flax import linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

_MIN_SQUARED_NORM = 1e-24


def normalize(x: Float[Array, "b d"]) -> Float[Array, "b d"]:
  """Returns the rows at unit length; a zero row stays zero."""
  squares = jnp.sum(x**2, axis=-1, keepdims=True)
  return x / jnp.sqrt(jnp.maximum(squares, _MIN_SQUARED_NORM))


class Projection(nn.Module):
  """A linear layer, or an MLP of any depth, to an embedding.

  Attributes:
    hidden: widths of the hidden layers, each followed by a norm and a GELU.
    dim: width of the embedding.
  """

  hidden: Sequence[int]
  dim: int

  @nn.compact
  def __call__(self, x: Float[Array, "b d"]) -> Float[Array, "b e"]:
    """Returns the embedding, not normalised."""
    for width in self.hidden:
      x = nn.gelu(nn.LayerNorm()(nn.Dense(width)(x)), approximate=True)
    return nn.Dense(self.dim)(x)
