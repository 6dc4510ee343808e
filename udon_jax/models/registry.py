"""From the values of config.model to the backbone that they describe."""

from typing import Any

import jax.numpy as jnp
from jax.sharding import Mesh

from udon_jax import errors
from udon_jax.models import architecture, vit
from udon_jax.models import attention as kernels

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


def get_dtype(name: str) -> Any:
  """Returns the precision of the computation.

  Raises:
    UserError: the name is unknown.
  """
  if name not in DTYPES:
    raise errors.UserError(
      f"config.model.dtype={name!r} is unknown; known: {', '.join(DTYPES)}"
    )
  return DTYPES[name]


def get_backbone(
  arch: architecture.Architecture,
  *,
  image_size: int,
  dtype: str,
  stochastic_depth: float,
  position_stddev: float,
  unroll: int,
  remat: str | None = None,
  attention: str | None = None,
  mesh: Mesh | None = None,
) -> vit.ViT:
  """Returns the ViT of an architecture.

  Args:
    arch: of `architecture.parse`.
    image_size: side of the images, a multiple of the patch.
    dtype: a name of DTYPES.
    stochastic_depth: share of branches dropped at the last block.
    position_stddev: of the initial position embeddings.
    unroll: blocks written out in one iteration of the scan.
    remat: see `vit.ViT`.
    attention: name of a kernel; None for the one that fits.
    mesh: devices on which the parameters are cut; None if they are whole.

  Raises:
    UserError: the patch does not fit the images, or a value cannot be.
  """
  if image_size % arch.patch_size:
    raise errors.UserError(
      f"config.data.crop_size={image_size} is not a multiple of the patch of "
      f"{arch.patch_size} pixels of config.model.name; use for example "
      f"{arch.patch_size * 14}"
    )
  if not 0.0 <= stochastic_depth < 1.0:
    raise errors.UserError(
      f"config.model.stochastic_depth={stochastic_depth} must be in [0, 1)"
    )
  return vit.ViT(
    arch,
    stochastic_depth=stochastic_depth,
    position_stddev=position_stddev,
    unroll=unroll,
    dtype=get_dtype(dtype),
    remat=remat,
    attention=kernels.choose(
      attention,
      dtype=get_dtype(dtype),
      head_dim=arch.width // arch.num_heads,
      capability=kernels.find_capability(),
    ),
    mesh=mesh,
  )
