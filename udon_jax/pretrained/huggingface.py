"""Vision Transformers in the folders of Hugging Face's transformers.

A folder holds `config.json` and safetensors, in one file or in parts that an
index lists. Names of arrays are those of the classes until transformers 4, in
which version 5 still saves, or those of the classes of version 5.

Sources: transformers, modeling_{vit,clip,dinov2,dinov2_with_registers}.py and
conversion_mapping.py.
"""

import functools
import math
from typing import Any

from etils import epath
import numpy as np

from udon_jax.models import architecture
from udon_jax.pretrained import (
  arrays,
  bicubic,
  folders,
  layers,
  tensors,
  weights,
)

# Families by model_type, and what stands before all names of their arrays.
_FAMILIES = {
  "vit": ("hfvit", ("", "vit.")),
  "clip": ("clip", ("vision_model.", "")),
  "clip_vision_model": ("clip", ("vision_model.", "")),
  "dinov2": ("dinov2", ("", "dinov2.")),
  "dinov2_with_registers": ("dinov2reg", ("", "dinov2_with_registers.")),
}
# What a config.json may leave out: transformers' own defaults.
_DEFAULTS = {
  "hidden_size": 768,
  "num_hidden_layers": 12,
  "num_attention_heads": 12,
  "intermediate_size": 3072,
  "mlp_ratio": 4,
  "num_channels": 3,
  "qkv_bias": True,
  "use_swiglu_ffn": False,
}
_FAMILY_DEFAULTS: dict[str, dict[str, Any]] = {
  "hfvit": {"hidden_act": "gelu", "layer_norm_eps": 1e-12, "patch_size": 16},
  "clip": {
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
    "patch_size": 32,
  },
  "dinov2": {"hidden_act": "gelu", "layer_norm_eps": 1e-6, "patch_size": 14},
  "dinov2reg": {
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-6,
    "patch_size": 14,
    "num_register_tokens": 4,
  },
}
_ACTIVATIONS = {
  "gelu": "gelu",
  "gelu_python": "gelu",
  "gelu_new": "gelu_tanh",
  "gelu_fast": "gelu_tanh",
  "gelu_pytorch_tanh": "gelu_tanh",
  "quick_gelu": "quick_gelu",
}
_LEFT = {
  r"classifier\..*": "the classifier of its training",
  r"(.*\.)?pooler\..*": "a layer behind the class token",
  r"decoder\..*": "the decoder of its training",
  r"(.*\.)?mask_token": "for training with masked patches",
  r"text_model\..*": "the tower for text",
  r"(text|visual)_projection\..*": "into the space shared with text",
  r"logit_scale": "of the loss against texts",
  r"(.*\.)?position_ids": "numbers of the positions",
}


def open_weights(path: epath.PathLike, *, key: str) -> weights.Weights:
  """Returns the backbone of a folder of Hugging Face.

  Args:
    path: the folder; nothing in it is executed.
    key: what the user set it with, for messages.

  Raises:
    UserError: the folder cannot be read, or holds another kind of model.
  """
  folder = folders.Folder(epath.Path(path), key)
  config: Any = folder.read_json("config.json")
  kind = config.get("model_type")
  if not isinstance(kind, str) or kind not in _FAMILIES:
    raise folder.error(
      f"has a config.json of model_type {kind!r}; known: {', '.join(_FAMILIES)}"
    )
  family, prefixes = _FAMILIES[kind]
  if kind == "clip":
    # As transformers does: the second, where there is one, counts.
    config = config.get("vision_config_dict") or config.get("vision_config")
  if not isinstance(config, dict):
    raise folder.error("has a config.json without vision_config")
  settings = {**_DEFAULTS, **_FAMILY_DEFAULTS[family], **config}
  found = tensors.open_safetensors(folder.files(), name=path, key=key)
  arch = _describe(settings, family, folder)
  token = "class_embedding" if family == "clip" else "cls_token"
  prefix = layers.prefix_of(found, f"embeddings.{token}", known=prefixes)
  leaves = (_clip if family == "clip" else _vit)(found, prefix, arch)
  if not settings["qkv_bias"]:
    leaves |= _without_biases(arch.width)
  mean, std = folder.pixels(architecture.FAMILIES[family])
  return weights.Weights(
    arrays=found,
    family=family,
    architecture=arch,
    untold=(),
    image_size=_image_size(found, leaves, arch, folder),
    leaves=leaves,
    left=_LEFT,
    # DINOv2 with registers alone antialiases.
    resize=functools.partial(bicubic.resize, antialias=family == "dinov2reg"),
    pixel_mean=mean,
    pixel_std=std,
  )


def _describe(
  settings: dict[str, Any], family: str, folder: folders.Folder
) -> architecture.Architecture:
  """Returns the architecture that a config.json tells."""

  def whole(key):
    value = settings.get(key)
    if isinstance(value, list) and len(value) == 2 and value[0] == value[1]:
      value = value[0]  # height and width
    if type(value) is not int or value < 1:
      raise folder.error(f"has a config.json with {key}={value!r}, no size")
    return value

  width, heads = whole("hidden_size"), whole("num_attention_heads")
  if width % heads or whole("num_channels") != 3:
    raise folder.error(
      f"has a config.json with hidden_size={width}, num_attention_heads={heads}"
      f" and num_channels={settings['num_channels']}; heads must divide the "
      "size, and images have three channels"
    )
  eps = settings["layer_norm_eps"]
  if not isinstance(eps, float) or not 0 < eps < 1:
    raise folder.error(f"has a config.json with layer_norm_eps={eps!r}")
  activation = _ACTIVATIONS.get(str(settings["hidden_act"]))
  if activation is None:
    raise folder.error(
      f"has a config.json with hidden_act={settings['hidden_act']!r}; known: "
      f"{', '.join(_ACTIVATIONS)}"
    )
  if family.startswith("dinov2"):
    ratio = settings["mlp_ratio"]
    if not isinstance(ratio, int | float) or not 0 < ratio < 1e3:
      raise folder.error(f"has a config.json with mlp_ratio={ratio!r}")
    mlp_dim = int(width * ratio)
    if settings["use_swiglu_ffn"]:
      activation = "swiglu"
      # Two thirds, as there are three matrices for two, in steps of 8.
      mlp_dim = (int(mlp_dim * 2 / 3) + 7) // 8 * 8
  else:
    mlp_dim = whole("intermediate_size")
  options = dict(architecture.FAMILIES[family].options)
  options |= {"activation": activation, "norm_eps": eps}
  if family == "dinov2reg":
    options["num_registers"] = whole("num_register_tokens")
  return architecture.Architecture(
    patch_size=whole("patch_size"),
    width=width,
    depth=whole("num_hidden_layers"),
    num_heads=heads,
    mlp_dim=mlp_dim,
    **options,
  )


def _image_size(
  found: arrays.Arrays,
  leaves: dict[str, weights.Leaf],
  arch: architecture.Architecture,
  folder: folders.Folder,
) -> int:
  """Returns the side of the images that the model is used with.

  DINOv2 has positions for 518 pixels and is used with 224.
  """
  (name,) = leaves[weights.POSITIONS].names
  shape = found.shape(name)
  if len(shape) < 2:
    raise found.error(f"has {name} {shape}, no positions")
  told = folder.image_size()
  if told is not None and told % arch.patch_size == 0:
    return told
  return math.isqrt(max(shape[-2] - 1, 0)) * arch.patch_size


def _clip(
  found: arrays.Arrays, prefix: str, arch: architecture.Architecture
) -> dict[str, weights.Leaf]:
  """Returns where each of our parameters lies in a CLIP."""
  del found, arch
  block, attention = f"{prefix}encoder.layers.{{i}}.", layers.ATTENTION
  embeddings = f"{prefix}embeddings."
  leaves = {
    "cls": layers.token(f"{embeddings}class_embedding"),
    weights.POSITIONS: layers.positions(
      f"{embeddings}position_embedding.weight"
    ),
    **layers.patches("embedding", f"{embeddings}patch_embedding", bias=False),
    # Misspelt so by transformers.
    **layers.norm("Transformer/pre_norm", f"{prefix}pre_layrnorm"),
    **layers.norm("Transformer/encoder_norm", f"{prefix}post_layernorm"),
    **layers.norm(weights.BLOCK + "LayerNorm_0", block + "layer_norm1"),
    **layers.norm(weights.BLOCK + "LayerNorm_2", block + "layer_norm2"),
    **layers.from_heads(attention + "out", block + "self_attn.out_proj"),
    **layers.dense(layers.MLP + "Dense_0", block + "mlp.fc1"),
    **layers.dense(layers.MLP + "Dense_1", block + "mlp.fc2"),
  }
  for part in ("query", "key", "value"):
    name = f"{block}self_attn.{part[0]}_proj"
    leaves |= layers.to_heads(attention + part, name)
  return leaves


def _vit(
  found: arrays.Arrays, prefix: str, arch: architecture.Architecture
) -> dict[str, weights.Leaf]:
  """Returns where each of our parameters lies in a ViT or a DINOv2."""

  def either(old, new):
    """Returns the name of a layer of a block that is there."""
    names = [
      prefix + root + name
      for root in ("encoder.layer.{i}.", "layers.{i}.")
      for name in (old, new)
    ]
    there = (x for x in names if x.format(i=0) + ".weight" in found.shapes)
    return next(there, names[0])

  attention, block = layers.ATTENTION, weights.BLOCK
  dino = arch.layer_scale
  norms = (
    ("norm1", "norm2") if dino else ("layernorm_before", "layernorm_after")
  )
  embeddings = f"{prefix}embeddings."
  out = either("attention.output.dense", "attention.o_proj")
  leaves = {
    "cls": layers.token(f"{embeddings}cls_token"),
    weights.POSITIONS: layers.positions(f"{embeddings}position_embeddings"),
    **layers.patches(
      "embedding", f"{embeddings}patch_embeddings.projection", bias=True
    ),
    **layers.norm("Transformer/encoder_norm", f"{prefix}layernorm"),
    **layers.norm(block + "LayerNorm_0", either(norms[0], norms[0])),
    **layers.norm(block + "LayerNorm_2", either(norms[1], norms[1])),
    **layers.from_heads(attention + "out", out),
  }
  for part in ("query", "key", "value"):
    name = either(f"attention.attention.{part}", f"attention.{part[0]}_proj")
    leaves |= layers.to_heads(attention + part, name)
  if arch.activation == "swiglu":
    leaves |= _swiglu(found, prefix + "encoder.layer.{i}.mlp.")
  else:
    for i, old in enumerate(("intermediate.dense", "output.dense")):
      name = either("mlp.fc" + str(i + 1) if dino else old, f"mlp.fc{i + 1}")
      leaves |= layers.dense(f"{layers.MLP}Dense_{i}", name)
  if dino:
    for ours, theirs in ((1, 1), (3, 2)):
      leaves[f"{block}LayerScale_{ours}/scale"] = weights.same(
        f"{prefix}encoder.layer.{{i}}.layer_scale{theirs}.lambda1"
      )
  if arch.num_registers:
    leaves["Transformer/registers"] = weights.same(
      f"{embeddings}register_tokens"
    )
  return leaves


def _swiglu(found: arrays.Arrays, mlp: str) -> dict[str, weights.Leaf]:
  """Returns the leaves of a gated MLP, whose first half is the gate."""
  if f"{mlp.format(i=0)}gate_proj.weight" not in found.shapes:
    return {
      **layers.dense(layers.MLP + "Dense_0", mlp + "weights_in"),
      **layers.dense(layers.MLP + "Dense_1", mlp + "weights_out"),
    }
  first = layers.MLP + "Dense_0/"
  parts = (mlp + "gate_proj.", mlp + "up_proj.")
  return {
    first + "kernel": weights.Leaf(
      tuple(part + "weight" for part in parts),
      lambda gate, up: np.concatenate([gate, up]).T,
    ),
    first + "bias": weights.Leaf(
      tuple(part + "bias" for part in parts),
      lambda gate, up: np.concatenate([gate, up]),
    ),
    **layers.dense(layers.MLP + "Dense_1", mlp + "down_proj"),
  }


def _without_biases(width: int) -> dict[str, weights.Leaf]:
  """Returns the biases of a model that has none before its attention."""
  return {
    f"{layers.ATTENTION}{part}/bias": weights.Leaf(
      (), lambda: np.zeros(width, np.float32), heads=True
    )
    for part in ("query", "key", "value")
  }
