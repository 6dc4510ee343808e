"""AugReg weights: the .npz files of google-research/vision_transformer.

Source: arXiv 2106.10270. Files such as `B_16-i21k-300ep-lr_0.001-...npz`, with
keys `Transformer/encoderblock_<i>/<module>/<leaf>`; ours are the same names
with the blocks stacked.
"""

import math
import re
from typing import Any

from etils import epath
from flax import traverse_util
import numpy as np
from scipy import ndimage

from udon_jax import errors
from udon_jax.models import architecture
from udon_jax.pretrained import arrays, weights

FAMILY = "vit"
_LEFT = {
  r"head/.*": "the classifier of its training",
  r"pre_logits/.*": "a layer before that classifier",
}
_BLOCK = "Transformer/encoderblock_{i}/"
_INNER = (
  *(f"LayerNorm_{i}/{leaf}" for i in (0, 2) for leaf in ("scale", "bias")),
  *(
    f"MultiHeadDotProductAttention_1/{part}/{leaf}"
    for part in ("query", "key", "value", "out")
    for leaf in ("kernel", "bias")
  ),
  *(
    f"MlpBlock_3/Dense_{i}/{leaf}"
    for i in (0, 1)
    for leaf in ("kernel", "bias")
  ),
)
_OUTER = (
  "cls",
  "embedding/kernel",
  "embedding/bias",
  weights.POSITIONS,
  "Transformer/encoder_norm/scale",
  "Transformer/encoder_norm/bias",
)


def open_weights(path: epath.PathLike, *, key: str) -> weights.Weights:
  """Returns the backbone of an AugReg file.

  Args:
    path: the .npz file; nothing in it is executed.
    key: what the user set it with, for messages.

  Raises:
    UserError: the file cannot be read, or is of another kind.
  """
  found = arrays.open_npz(path, key=key)
  family = architecture.FAMILIES[FAMILY]
  arch, image_size = _describe(found)
  return weights.Weights(
    arrays=found,
    family=FAMILY,
    architecture=arch,
    untold=(),
    image_size=image_size,
    leaves=leaves(),
    left=_LEFT,
    resize=resize,
    pixel_mean=family.pixel_mean,
    pixel_std=family.pixel_std,
  )


def leaves() -> dict[str, weights.Leaf]:
  """Returns where each of our parameters lies in such a file."""
  return {
    **{name: weights.same(name) for name in _OUTER},
    **{weights.BLOCK + name: weights.same(_BLOCK + name) for name in _INNER},
  }


def from_backbone(
  params: Any, *, name: str, arch: architecture.Architecture, key: str
) -> dict[str, np.ndarray]:
  """Returns the arrays of an AugReg file with a backbone.

  Args:
    params: of the backbone, on the host.
    name: config.model.name.
    arch: its architecture.
    key: what the user set the run with, for messages.

  Raises:
    UserError: AugReg has no such model.
  """
  traits = architecture.FAMILIES[FAMILY].options
  sizes = {
    field: getattr(arch, field)
    for field in ("patch_size", "width", "depth", "num_heads", "mlp_dim")
  }
  known = architecture.Architecture(**sizes, **traits)
  if architecture.family_name(name) != FAMILY or arch != known:
    raise errors.UserError(
      f"{key}: config.model.name={name} with its options is no ViT of AugReg; "
      f"only models of the family {FAMILY} can be written as such"
    )
  arrays_by_name = {}
  for path, value in traverse_util.flatten_dict(params, sep="/").items():
    (official,) = leaves()[path].names
    if path.startswith(weights.BLOCK):
      for i, part in enumerate(value):
        arrays_by_name[official.format(i=i)] = np.asarray(part)
    else:
      arrays_by_name[official] = np.asarray(value)
  return arrays_by_name


def _describe(
  found: arrays.Arrays,
) -> tuple[architecture.Architecture, int]:
  """Returns the architecture, and the image size that the positions are for."""
  block = _BLOCK.format(i=0)
  try:
    patch, _, _, width = found.shape("embedding/kernel")
    _, heads, _ = found.shape(
      f"{block}MultiHeadDotProductAttention_1/query/kernel"
    )
    _, mlp_dim = found.shape(f"{block}MlpBlock_3/Dense_0/kernel")
    _, tokens, _ = found.shape(weights.POSITIONS)
  except errors.UserError:
    raise
  except ValueError as error:
    raise found.error("has arrays of other ranks than an AugReg ViT") from error
  numbers = [
    int(match[1])
    for name in found.shapes
    if (match := re.match(r"Transformer/encoderblock_(\d+)/", name))
  ]
  arch = architecture.Architecture(
    patch_size=patch,
    width=width,
    depth=max(numbers) + 1,
    num_heads=heads,
    mlp_dim=mlp_dim,
    **architecture.FAMILIES[FAMILY].options,
  )
  return arch, math.isqrt(tokens - 1) * patch


def resize(grid: np.ndarray, side: int) -> np.ndarray:
  """Returns positions [side, side, d] of another grid, as the official code.

  Linear between the grid's points, corners on corners
  (google-research/vision_transformer, checkpoint.py).
  """
  zoom = (side / grid.shape[0], side / grid.shape[1], 1)
  return ndimage.zoom(grid, zoom, order=1)
