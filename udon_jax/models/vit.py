"""The Vision Transformer, with the parameter names of AugReg's files.

Blocks are stacked: `Transformer/encoderblock/...` has a leading axis of
layers, and one compiled block serves them all.

Sources: arXiv 2010.11929; google-research/vision_transformer, models_vit.py.
What other families add (see `architecture`) has names of its own:
`Transformer/pre_norm`, `Transformer/registers`, `encoderblock/LayerScale_<i>`.
Shape legend: b batch, h height, w width, p patches, n tokens, d hidden dim,
l layers.
"""

from collections.abc import Callable
import functools
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Float

from udon_jax.models import architecture, attention, gathered

# What a block keeps for the backward pass, by the name of config.model.remat.
REMAT: dict[str, Any] = {
  "elementwise": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
  "blocks": jax.checkpoint_policies.nothing_saveable,
}


def _quick_gelu(x):
  return x * nn.sigmoid(1.702 * x)


_ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
  "gelu_tanh": functools.partial(nn.gelu, approximate=True),
  "gelu": functools.partial(nn.gelu, approximate=False),
  "quick_gelu": _quick_gelu,
}


class MlpBlock(nn.Module):
  """Two dense layers with an activation between them."""

  arch: architecture.Architecture
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
    if self.arch.activation == "swiglu":
      gate, linear = jnp.split(dense(2 * self.arch.mlp_dim)(x), 2, axis=-1)
      hidden = nn.silu(gate) * linear
    else:
      activate = _ACTIVATIONS[self.arch.activation]
      hidden = activate(dense(self.arch.mlp_dim)(x))
    return dense(x.shape[-1])(hidden)


class LayerScale(nn.Module):
  """Scales every channel by a learned factor (arXiv 2103.17239)."""

  dtype: Any

  @nn.compact
  def __call__(self, x: Float[Array, "b n d"]) -> Float[Array, "b n d"]:
    """Returns the scaled tokens."""
    scale = self.param("scale", nn.initializers.ones, (x.shape[-1],))
    return x * scale.astype(self.dtype)


def _layer_norm(arch: architecture.Architecture, dtype: Any, name: str) -> Any:
  return nn.LayerNorm(epsilon=arch.norm_eps, dtype=dtype, name=name)


class EncoderBlock(nn.Module):
  """Pre-norm attention and MLP, each residual and dropped at random."""

  arch: architecture.Architecture
  dtype: Any
  attention: str

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
    y = _layer_norm(self.arch, self.dtype, "LayerNorm_0")(x)
    y = nn.MultiHeadDotProductAttention(
      num_heads=self.arch.num_heads,
      dtype=self.dtype,
      attention_fn=attention.make(self.attention),
      kernel_init=nn.initializers.xavier_uniform(),
      name="MultiHeadDotProductAttention_1",
    )(y, y)
    if self.arch.layer_scale:
      y = LayerScale(self.dtype, name="LayerScale_1")(y)
    x = x + self._drop_path(y, drop_rate)
    y = _layer_norm(self.arch, self.dtype, "LayerNorm_2")(x)
    y = MlpBlock(self.arch, self.dtype, name="MlpBlock_3")(y)
    if self.arch.layer_scale:
      y = LayerScale(self.dtype, name="LayerScale_3")(y)
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
  """Positions, registers, the stack of blocks, and the norms around it."""

  arch: architecture.Architecture
  stochastic_depth: float
  position_stddev: float
  unroll: int
  dtype: Any
  remat: str | None
  attention: str
  mesh: Mesh | None

  @nn.compact
  def __call__(
    self, x: Float[Array, "b n d"], *, train: bool
  ) -> Float[Array, "b n d"]:
    """Returns the tokens after the final norm; the first stays the first."""
    x = AddPositionEmbs(
      self.position_stddev, self.dtype, name="posembed_input"
    )(x)
    if self.arch.num_registers:
      x = self._add_registers(x)
    if self.arch.pre_norm:
      x = _layer_norm(self.arch, self.dtype, "pre_norm")(x)
    drops = train and self.stochastic_depth > 0
    rates = jnp.linspace(0.0, self.stochastic_depth, self.arch.depth)
    blocks = nn.scan(
      gathered.whole_in_turn(
        EncoderBlock,
        self.mesh,
        prefix="backbone/Transformer",
        dtype=self.dtype,
        policy=None if self.remat is None else REMAT[self.remat],
      ),
      variable_axes={"params": 0},
      split_rngs={"params": True, "dropout": True},
      in_axes=0 if drops else nn.broadcast,
      length=self.arch.depth,
      unroll=self.unroll,
    )
    x, _ = blocks(self.arch, self.dtype, self.attention, name="encoderblock")(
      x, rates if drops else None
    )
    return _layer_norm(self.arch, jnp.float32, "encoder_norm")(x)

  def _add_registers(self, x):
    """Puts the registers, which have no position, behind the first token."""
    registers = self.param(
      "registers",
      nn.initializers.normal(self.position_stddev),
      (1, self.arch.num_registers, x.shape[-1]),
    )
    registers = jnp.broadcast_to(
      registers.astype(self.dtype), (x.shape[0], *registers.shape[1:])
    )
    return jnp.concatenate([x[:, :1], registers, x[:, 1:]], axis=1)


class ViT(nn.Module):
  """Vision Transformer that returns its class token.

  Attributes:
    arch: shape and options.
    stochastic_depth: share of branches dropped at the last block.
    position_stddev: of the initial position embeddings. 0.02 is the usual
      value; a short run from scratch learns sooner from larger ones.
    unroll: blocks written out in one iteration of the scan.
    dtype: precision of the computation; parameters are float32, and so are
      what norms and softmax sum up, and what comes out.
    remat: of REMAT, what is kept for the backward pass; None keeps all.
    attention: of `attention.KERNELS`.
    mesh: devices on which the parameters are cut; None if they are whole.
  """

  arch: architecture.Architecture
  stochastic_depth: float = 0.0
  position_stddev: float = 0.02
  unroll: int = 1
  dtype: Any = jnp.float32
  remat: str | None = None
  attention: str = "xla"
  mesh: Mesh | None = None

  @nn.compact
  def __call__(
    self, images: Float[Array, "b h w 3"], *, train: bool
  ) -> Float[Array, "b d"]:
    """Returns the class token after the final norm, float32.

    Args:
      images: normalised images.
      train: whether branches are dropped; needs an rng named "dropout".
    """
    width, patch = self.arch.width, (self.arch.patch_size,) * 2
    embed = gathered.whole(
      nn.Conv, self.mesh, prefix="backbone/embedding", dtype=self.dtype
    )
    x = embed(
      width,
      patch,
      strides=patch,
      padding="VALID",
      use_bias=self.arch.patch_bias,
      dtype=self.dtype,
      name="embedding",
    )(images.astype(self.dtype))
    x = x.reshape(x.shape[0], -1, width)
    cls = self.param("cls", nn.initializers.zeros, (1, 1, width))
    cls = jnp.broadcast_to(cls.astype(self.dtype), (x.shape[0], 1, width))
    x = Encoder(
      self.arch,
      stochastic_depth=self.stochastic_depth,
      position_stddev=self.position_stddev,
      unroll=self.unroll,
      dtype=self.dtype,
      remat=self.remat,
      attention=self.attention,
      mesh=self.mesh,
      name="Transformer",
    )(
      gathered.keep_split(jnp.concatenate([cls, x], axis=1), self.mesh),
      train=train,
    )
    return x[:, 0].astype(jnp.float32)
