"""Models by name."""

import dataclasses
import re
from typing import Any

import jax.numpy as jnp

from udon_jax import errors
from udon_jax.models import vit


@dataclasses.dataclass(frozen=True)
class Size:
  """Size of a Vision Transformer."""

  width: int
  depth: int
  num_heads: int
  mlp_dim: int


# ti, s: arXiv 2012.12877; b, l: arXiv 2010.11929. mu and xs are for tests and
# for training from scratch on a laptop.
SIZES = {
  "mu": Size(width=32, depth=2, num_heads=2, mlp_dim=64),
  "xs": Size(width=128, depth=6, num_heads=4, mlp_dim=512),
  "ti": Size(width=192, depth=12, num_heads=3, mlp_dim=768),
  "s": Size(width=384, depth=12, num_heads=6, mlp_dim=1536),
  "b": Size(width=768, depth=12, num_heads=12, mlp_dim=3072),
  "l": Size(width=1024, depth=24, num_heads=16, mlp_dim=4096),
}
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
  name: str,
  *,
  image_size: int,
  dtype: str,
  stochastic_depth: float,
  position_stddev: float,
  unroll: int,
) -> vit.ViT:
  """Returns the ViT of a name such as "vit_b16".

  Args:
    name: "vit_<size><patch>", the patch in pixels.
    image_size: side of the images, a multiple of the patch.
    dtype: a name of DTYPES.
    stochastic_depth: share of branches dropped at the last block.
    position_stddev: of the initial position embeddings.
    unroll: blocks written out in one iteration of the scan.

  Raises:
    UserError: the name is unknown, or the patch does not fit the images.
  """
  match = re.fullmatch(r"vit_([a-z]+)(\d+)", name)
  if match is None or match[1] not in SIZES or int(match[2]) == 0:
    raise errors.UserError(
      f"config.model.name={name!r} is unknown; known: vit_<size><patch>, such "
      f"as vit_b16, with sizes {', '.join(SIZES)}"
    )
  patch = int(match[2])
  if image_size % patch:
    raise errors.UserError(
      f"config.data.crop_size={image_size} is not a multiple of the patch of "
      f"config.model.name={name!r}; use for example {patch * 14}"
    )
  if not 0.0 <= stochastic_depth < 1.0:
    raise errors.UserError(
      f"config.model.stochastic_depth={stochastic_depth} must be in [0, 1)"
    )
  return vit.ViT(
    patch_size=patch,
    **dataclasses.asdict(SIZES[match[1]]),
    stochastic_depth=stochastic_depth,
    position_stddev=position_stddev,
    unroll=unroll,
    dtype=get_dtype(dtype),
  )
