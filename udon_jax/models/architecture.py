"""What tells one Vision Transformer from another, and its name.

A name is "<family>_<size><patch>": the family decides norms, activation and
extra tokens, the size widths and depth, the patch is in pixels.
"""

from collections.abc import Mapping
import dataclasses
import re
from typing import Any

from udon_jax import errors

ACTIVATIONS = ("gelu_tanh", "gelu", "quick_gelu", "swiglu")


@dataclasses.dataclass(frozen=True)
class Architecture:
  """Shape and options of a Vision Transformer.

  Attributes:
    patch_size: side of a patch, in pixels.
    width: hidden dim.
    depth: number of blocks.
    num_heads: attention heads; a divisor of the width.
    mlp_dim: hidden dim of the MLP.
    activation: of the MLP, one of ACTIVATIONS; "gelu" is the exact one,
      "swiglu" gates a linear half by a SiLU half (arXiv 2002.05202).
    norm_eps: added to the variance in every LayerNorm.
    patch_bias: whether the patch embedding has a bias.
    pre_norm: whether tokens are normalised before the first block.
    layer_scale: whether each branch is scaled by learned factors
      (arXiv 2103.17239).
    num_registers: extra tokens that carry no image (arXiv 2309.16588).
  """

  patch_size: int
  width: int
  depth: int
  num_heads: int
  mlp_dim: int
  activation: str = "gelu_tanh"
  norm_eps: float = 1e-6
  patch_bias: bool = True
  pre_norm: bool = False
  layer_scale: bool = False
  num_registers: int = 0


@dataclasses.dataclass(frozen=True)
class Family:
  """What the Vision Transformers of one origin share.

  Attributes:
    about: where they come from, for lists.
    options: fields of `Architecture` that differ from its defaults.
    pixel_mean: mean of every channel that they were trained with, of values
      in 0..1.
    pixel_std: likewise, the standard deviation.
  """

  about: str
  options: Mapping[str, Any]
  pixel_mean: tuple[float, ...] = (0.5, 0.5, 0.5)
  pixel_std: tuple[float, ...] = (0.5, 0.5, 0.5)


_IMAGENET = {
  "pixel_mean": (0.485, 0.456, 0.406),
  "pixel_std": (0.229, 0.224, 0.225),
}
_DINOV2 = {"activation": "gelu", "layer_scale": True}

# Sources: google-research/vision_transformer, models_vit.py; openai/CLIP,
# model.py; transformers, modeling_{vit,clip,dinov2,dinov2_with_registers}.py.
FAMILIES: dict[str, Family] = {
  "vit": Family("AugReg and the official code", {}),
  "clip": Family(
    "OpenAI CLIP, the visual tower",
    {
      "activation": "quick_gelu",
      "norm_eps": 1e-5,
      "patch_bias": False,
      "pre_norm": True,
    },
    pixel_mean=(0.48145466, 0.4578275, 0.40821073),
    pixel_std=(0.26862954, 0.26130258, 0.27577711),
  ),
  "hfvit": Family(
    "ViT of Hugging Face", {"activation": "gelu", "norm_eps": 1e-12}
  ),
  "dinov2": Family("DINOv2", _DINOV2, **_IMAGENET),
  "dinov2reg": Family(
    "DINOv2 with registers", {**_DINOV2, "num_registers": 4}, **_IMAGENET
  ),
}

# width, depth, heads, MLP. ti, s: arXiv 2012.12877; b, l, h: arXiv 2010.11929;
# g: arXiv 2304.07193. mu and xs are for tests and for training from scratch on
# a laptop.
SIZES = {
  "mu": (32, 2, 2, 64),
  "xs": (128, 6, 4, 512),
  "ti": (192, 12, 3, 768),
  "s": (384, 12, 6, 1536),
  "b": (768, 12, 12, 3072),
  "l": (1024, 24, 16, 4096),
  "h": (1280, 32, 16, 5120),
  "g": (1536, 40, 24, 4096),
}
_SIZE_FIELDS = ("width", "depth", "num_heads", "mlp_dim")
_NAME = re.compile(r"([a-z0-9]+)_([a-z]*)(\d+)")
KNOWN = (
  f"<family>_<size><patch>, such as vit_b16, with families "
  f"{', '.join(FAMILIES)} and sizes {', '.join(SIZES)}"
)


def parse(name: str, **overrides: Any) -> Architecture:
  """Returns the architecture of a name such as "vit_b16".

  Args:
    name: family, size and patch. Without a size ("vit_16"), the overrides
      must hold all of it.
    **overrides: fields of `Architecture` that differ from what the name says;
      None leaves a field as it is.

  Raises:
    UserError: the name is unknown, or a size cannot be.
  """
  match = _NAME.fullmatch(name)
  given = {k: v for k, v in overrides.items() if v is not None}
  if (
    match is None
    or match[1] not in FAMILIES
    or match[2] not in {*SIZES, ""}
    or int(match[3]) == 0
  ):
    raise errors.UserError(
      f"config.model.name={name!r} is unknown; known: {KNOWN}"
    )
  fields = dict(FAMILIES[match[1]].options)
  if match[2]:
    fields |= dict(zip(_SIZE_FIELDS, SIZES[match[2]], strict=True))
    if match[1].startswith("dinov2") and match[2] == "g":
      fields["activation"] = "swiglu"
  fields |= given
  missing = [key for key in _SIZE_FIELDS if key not in fields]
  if missing:
    raise errors.UserError(
      f"config.model.name={name!r} names no size; set "
      f"{', '.join(f'config.model.{key}' for key in missing)}"
    )
  if fields["width"] % fields["num_heads"]:
    raise errors.UserError(
      f"config.model.num_heads={fields['num_heads']} does not divide the width "
      f"{fields['width']} of config.model.name={name!r}; choose a divisor"
    )
  return Architecture(patch_size=int(match[3]), **fields)


def family(name: str) -> Family:
  """Returns the family of a name that `parse` knows."""
  return FAMILIES[family_name(name)]


def family_name(name: str) -> str:
  """Returns the name of the family of a name that `parse` knows."""
  return name.partition("_")[0]


def describe(architecture: Architecture, *, family: str) -> dict[str, Any]:
  """Returns the values of config.model that name an architecture.

  Inverse of `parse`: `name`, and what the name does not say.

  Args:
    architecture: whose fields the name and the overrides must give.
    family: a name of FAMILIES.
  """
  size = tuple(getattr(architecture, key) for key in _SIZE_FIELDS)
  names = [name for name, fields in SIZES.items() if fields == size]
  name = f"{family}_{names[0] if names else ''}{architecture.patch_size}"
  values = dataclasses.asdict(architecture)
  base: dict[str, Any] = {}
  if names:
    base = dataclasses.asdict(parse(name))
  else:
    sized = dict(zip(_SIZE_FIELDS, size, strict=True))
    base = {
      **dataclasses.asdict(parse(name, **sized)),
      **dict.fromkeys(_SIZE_FIELDS),
    }
  return {
    "name": name,
    **{k: v for k, v in values.items() if v != base[k]},
  }
