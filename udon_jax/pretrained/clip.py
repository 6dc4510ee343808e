"""Visual towers of CLIP, with the names of OpenAI's code and of open_clip.

Either a pickled dict of arrays (`vit_b16.npy`, which the official UDON starts
from), read without unpickling, or safetensors, or .npz; alone or with the
tower for text.

Sources: arXiv 2103.00020; openai/CLIP, model.py. The class token leaves through
`ln_post`; `proj`, into the space shared with text, is not part of the backbone.
"""

import functools
import logging
import math
import re

from etils import epath
import numpy as np

from udon_jax import errors
from udon_jax.models import architecture
from udon_jax.pretrained import (
  arrays,
  bicubic,
  layers,
  pickled,
  tensors,
  weights,
)

logger = logging.getLogger(__name__)

FAMILY = "clip"
_HEAD_WIDTH = 64  # in all of OpenAI's, and most of open_clip's
_LEFT = {r"proj": "into the space shared with text"}
_TEXT = {
  **dict.fromkeys(
    (
      r"transformer\..*",
      r"token_embedding\.weight",
      r"positional_embedding",
      r"ln_final\..*",
      r"text_projection(\..*)?",
      r"text\..*",
    ),
    "the tower for text",
  ),
  **dict.fromkeys((r"logit_scale", r"logit_bias"), "of the loss against texts"),
  **dict.fromkeys(
    (r"context_length", r"input_resolution", r"vocab_size"), "a setting"
  ),
}


def open_weights(path: epath.PathLike, *, key: str) -> weights.Weights:
  """Returns the visual tower of a CLIP.

  Positions of another image size are made as those of Hugging Face's CLIP.

  Args:
    path: .npy, .npz or safetensors; nothing in it is executed.
    key: what the user set it with, for messages.

  Raises:
    UserError: the file cannot be read, or holds no Vision Transformer of CLIP.
  """
  found = _open(epath.Path(path), key)
  resnet = re.compile(r"(visual\.)?(layer1|attnpool)\.")
  if any(resnet.match(name) for name in found.shapes):
    raise found.error(
      "holds a ResNet for images; give a CLIP with a Vision Transformer, such "
      "as ViT-B/16"
    )
  prefix = layers.prefix_of(found, "class_embedding", known=("visual.", ""))
  family = architecture.FAMILIES[FAMILY]
  arch, image_size = _describe(found, prefix)
  logger.info(
    "%s does not tell heads and activation: where config.model does not, they "
    "are OpenAI's, %d and %s (LAION's activation is gelu)",
    path,
    arch.num_heads,
    arch.activation,
  )
  return weights.Weights(
    arrays=found,
    family=FAMILY,
    architecture=arch,
    untold=("num_heads", "activation"),
    image_size=image_size,
    leaves=_leaves(prefix),
    left=layers.behind(prefix, _LEFT) | (_TEXT if prefix else {}),
    resize=functools.partial(bicubic.resize, antialias=False),
    pixel_mean=family.pixel_mean,
    pixel_std=family.pixel_std,
  )


def _open(path: epath.Path, key: str) -> arrays.Arrays:
  """Returns the arrays of a file of any form, told by its first bytes."""
  try:
    with path.open("rb") as file:
      start = file.read(8)
  except OSError as error:
    raise errors.UserError(
      f"{key}: {path} cannot be read ({error}); give the file of a CLIP, .npy "
      "or safetensors"
    ) from error
  if start.startswith(b"\x93NUMPY"):
    return pickled.open_npy(path, key=key)
  if path.suffix in (".pt", ".pth", ".bin") or start.startswith(b"\x80"):
    raise errors.UserError(
      f"{key}: {path} is a file of PyTorch, which can run code; convert it: "
      "safetensors.torch.save_file(model.state_dict(), 'clip.safetensors')"
    )
  if start.startswith(b"PK"):
    return arrays.open_npz(path, key=key)
  return tensors.open_safetensors([path], name=path, key=key)


def _describe(
  found: arrays.Arrays, prefix: str
) -> tuple[architecture.Architecture, int]:
  """Returns the architecture, and the image size that the positions are for."""
  blocks = f"{prefix}transformer.resblocks."
  try:
    width, _, _, patch = found.shape(f"{prefix}conv1.weight")
    tokens, _ = found.shape(f"{prefix}positional_embedding")
    mlp_dim, _ = found.shape(f"{blocks}0.mlp.c_fc.weight")
  except errors.UserError:
    raise
  except ValueError as error:
    raise found.error("has arrays of other ranks than CLIP's") from error
  arch = architecture.Architecture(
    patch_size=patch,
    width=width,
    depth=layers.num_blocks(found, re.escape(blocks) + r"(\d+)\."),
    num_heads=max(1, width // _HEAD_WIDTH),
    mlp_dim=mlp_dim,
    **architecture.FAMILIES[FAMILY].options,
  )
  return arch, math.isqrt(tokens - 1) * patch


def _leaves(prefix: str) -> dict[str, weights.Leaf]:
  """Returns where each of our parameters lies."""
  block = prefix + "transformer.resblocks.{i}."
  return {
    "cls": layers.token(f"{prefix}class_embedding"),
    weights.POSITIONS: layers.positions(f"{prefix}positional_embedding"),
    **layers.patches("embedding", f"{prefix}conv1", bias=False),
    **layers.norm("Transformer/pre_norm", f"{prefix}ln_pre"),
    **layers.norm("Transformer/encoder_norm", f"{prefix}ln_post"),
    **layers.norm(weights.BLOCK + "LayerNorm_0", block + "ln_1"),
    **layers.norm(weights.BLOCK + "LayerNorm_2", block + "ln_2"),
    **{
      f"{layers.ATTENTION}{part}/{leaf}": weights.Leaf(
        (f"{block}attn.in_proj_{kind}",),
        functools.partial(_third, i=i),
        heads=True,
      )
      for i, part in enumerate(("query", "key", "value"))
      for kind, leaf in (("weight", "kernel"), ("bias", "bias"))
    },
    **layers.from_heads(layers.ATTENTION + "out", block + "attn.out_proj"),
    **layers.dense(layers.MLP + "Dense_0", block + "mlp.c_fc"),
    **layers.dense(layers.MLP + "Dense_1", block + "mlp.c_proj"),
  }


def _third(stacked: np.ndarray, *, i: int) -> np.ndarray:
  """Returns one of query, key and value, which are stacked over the output."""
  return np.split(stacked, 3)[i].T
