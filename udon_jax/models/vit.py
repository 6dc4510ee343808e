"""The Vision Transformer, with the parameter names of AugReg's files.

Blocks are stacked: `Transformer/encoderblock/...` has a leading axis of
layers, and one compiled block serves them all.

Sources: arXiv 2010.11929; google-research/vision_transformer, models_vit.py.
Shape legend: b batch, h height, w width, p patches, n tokens, d hidden dim,
l layers.
"""

import functools
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

LAYER_NORM_EPS = 1e-6


def _attend(query, key, value, **_):
  """Softmax attention by the fastest kernel of the device."""
  return jax.nn.dot_product_attention(query, key, value)


class MlpBlock(nn.Module):
  """Two dense layers with a tanh-GELU between them."""

  mlp_dim: int
  dtype: Any

  @nn.compact
  def __call__(self, x: Float[Array, "b n d"]) -> Float[Array, "b n d"]:
    """Returns the tokens, each transformed alone."""
    dense = functools.partial(
      nn.Dense,
      dtype=self.dtype,
      kernel_init=nn.initializers.xavier_uniform(),
      bias_init=nn.initializers.normal(1e-6),
    )
    hidden = nn.gelu(dense(self.mlp_dim)(x), approximate=True)
    return dense(x.shape[-1])(hidden)


class EncoderBlock(nn.Module):
  """Pre-norm attention and MLP, each residual and dropped at random."""

  num_heads: int
  mlp_dim: int
  dtype: Any

  @nn.compact
  def __call__(
    self,
    x: Float[Array, "b n d"],
    drop_rate: Float[Array, ""] | None,
  ) -> tuple[Float[Array, "b n d"], None]:
    """Applies the block.

    Args:
      x: tokens.
      drop_rate: probability that an image skips a branch; None never does.

    Returns:
      The tokens, and nothing: the form that a scan over blocks asks for.
    """
    norm = functools.partial(
      nn.LayerNorm, epsilon=LAYER_NORM_EPS, dtype=self.dtype
    )
    y = norm(name="LayerNorm_0")(x)
    y = nn.MultiHeadDotProductAttention(
      num_heads=self.num_heads,
      dtype=self.dtype,
      attention_fn=_attend,
      kernel_init=nn.initializers.xavier_uniform(),
      name="MultiHeadDotProductAttention_1",
    )(y, y)
    x = x + self._drop_path(y, drop_rate)
    y = norm(name="LayerNorm_2")(x)
    y = MlpBlock(self.mlp_dim, self.dtype, name="MlpBlock_3")(y)
    return x + self._drop_path(y, drop_rate), None

  def _drop_path(self, branch, drop_rate):
    """Drops the branch for whole images (stochastic depth, 1603.09382)."""
    if drop_rate is None:
      return branch
    keep = (
      jax.random.uniform(self.make_rng("dropout"), (branch.shape[0], 1, 1))
      >= drop_rate
    )
    return jnp.where(keep, branch / (1.0 - drop_rate).astype(self.dtype), 0.0)


class AddPositionEmbs(nn.Module):
  """Adds learned positions."""

  stddev: float
  dtype: Any

  @nn.compact
  def __call__(self, x: Float[Array, "b n d"]) -> Float[Array, "b n d"]:
    """Returns the tokens with their positions."""
    positions = self.param(
      "pos_embedding",
      nn.initializers.normal(self.stddev),
      (1, *x.shape[1:]),
    )
    return x + positions.astype(self.dtype)


class Encoder(nn.Module):
  """Positions, the stack of blocks, and the final norm."""

  depth: int
  num_heads: int
  mlp_dim: int
  stochastic_depth: float
  position_stddev: float
  unroll: int
  dtype: Any

  @nn.compact
  def __call__(
    self, x: Float[Array, "b n d"], *, train: bool
  ) -> Float[Array, "b n d"]:
    """Returns the tokens after the final norm."""
    x = AddPositionEmbs(
      self.position_stddev, self.dtype, name="posembed_input"
    )(x)
    drops = train and self.stochastic_depth > 0
    rates = jnp.linspace(0.0, self.stochastic_depth, self.depth)
    blocks = nn.scan(
      EncoderBlock,
      variable_axes={"params": 0},
      split_rngs={"params": True, "dropout": True},
      in_axes=0 if drops else nn.broadcast,
      length=self.depth,
      unroll=self.unroll,
    )
    x, _ = blocks(
      num_heads=self.num_heads,
      mlp_dim=self.mlp_dim,
      dtype=self.dtype,
      name="encoderblock",
    )(x, rates if drops else None)
    return nn.LayerNorm(
      epsilon=LAYER_NORM_EPS, dtype=self.dtype, name="encoder_norm"
    )(x)


class ViT(nn.Module):
  """Vision Transformer that returns its class token.

  Attributes:
    patch_size: side of a patch, in pixels.
    width: hidden dim.
    depth: number of blocks.
    num_heads: attention heads; a divisor of the width.
    mlp_dim: hidden dim of the MLP.
    stochastic_depth: share of branches dropped at the last block.
    position_stddev: of the initial position embeddings. 0.02 is the usual
      value; a short run from scratch learns sooner from larger ones.
    unroll: blocks written out in one iteration of the scan.
    dtype: precision of the computation; parameters are float32.
  """

  patch_size: int
  width: int
  depth: int
  num_heads: int
  mlp_dim: int
  stochastic_depth: float = 0.0
  position_stddev: float = 0.02
  unroll: int = 1
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(
    self, images: Float[Array, "b h w 3"], *, train: bool
  ) -> Float[Array, "b d"]:
    """Returns the class token after the final norm, float32.

    Args:
      images: normalised images.
      train: whether branches are dropped; needs an rng named "dropout".
    """
    patch = (self.patch_size, self.patch_size)
    x = nn.Conv(
      self.width,
      patch,
      strides=patch,
      padding="VALID",
      dtype=self.dtype,
      name="embedding",
    )(images.astype(self.dtype))
    x = x.reshape(x.shape[0], -1, self.width)
    cls = self.param("cls", nn.initializers.zeros, (1, 1, self.width))
    cls = jnp.broadcast_to(cls.astype(self.dtype), (x.shape[0], 1, self.width))
    x = Encoder(
      depth=self.depth,
      num_heads=self.num_heads,
      mlp_dim=self.mlp_dim,
      stochastic_depth=self.stochastic_depth,
      position_stddev=self.position_stddev,
      unroll=self.unroll,
      dtype=self.dtype,
      name="Transformer",
    )(jnp.concatenate([cls, x], axis=1), train=train)
    return x[:, 0].astype(jnp.float32)
