"""The official code's names of parameters, for each of ours.

Sources: nikosips/UDON, udon_vit_with_embedding.py,
udon_clip_vit_with_embedding.py; nikosips/Universal-Image-Embeddings (UnED),
vit_with_embedding.py, clip_vit_with_embedding.py; google-research/scenic,
vit.py. Shape legend: w width, n tokens, d embedding dim, c classes.
"""

import re

import numpy as np

from udon_jax.pretrained import weights

# Families that the official code has, and what tells its files apart.
FAMILIES = {"vit": "embedding/kernel", "clip": "conv1/kernel"}
STUDENT = "student_projection"
TEACHER = "teacher_projection"

_NORM, _DENSE = ("scale", "bias"), ("kernel", "bias")
_ATTENTION = ("query", "key", "value", "out")
# {our module: theirs}, with their leaves below.
_OUTER: dict[str, dict[str, tuple[str, tuple[str, ...]]]] = {
  "vit": {
    "embedding": ("embedding", _DENSE),
    "Transformer/encoder_norm": ("Transformer/encoder_norm", _NORM),
  },
  "clip": {
    "embedding": ("conv1", ("kernel",)),
    "Transformer/pre_norm": ("ln_pre", _NORM),
    "Transformer/encoder_norm": ("ln_post", _NORM),
  },
}
_TOKENS = {
  "vit": {"cls": "cls", weights.POSITIONS: weights.POSITIONS},
  "clip": {
    "cls": "class_embedding",
    weights.POSITIONS: "positional_embedding",
  },
}
_BLOCK = {
  "vit": "Transformer/encoderblock_{i}",
  "clip": "transformer/resblocks.{i}",
}
_INNER = {
  "vit": {
    "LayerNorm_0": "LayerNorm_0",
    "MultiHeadDotProductAttention_1": "MultiHeadDotProductAttention_0",
    "LayerNorm_2": "LayerNorm_1",
    "MlpBlock_3/Dense_0": "MlpBlock_0/Dense_0",
    "MlpBlock_3/Dense_1": "MlpBlock_0/Dense_1",
  },
  "clip": {
    "LayerNorm_0": "ln_1",
    "MultiHeadDotProductAttention_1": "attn",
    "LayerNorm_2": "ln_2",
    "MlpBlock_3/Dense_0": "mlp/c_fc",
    "MlpBlock_3/Dense_1": "mlp/c_proj",
  },
}


def backbone(family: str) -> dict[str, str]:
  """Returns {path in our backbone: official name}; "{i}" numbers blocks.

  Where ours has blocks stacked, theirs has an array for each.
  """
  found = dict(_TOKENS[family])
  for ours, (theirs, leaves) in _OUTER[family].items():
    found |= {f"{ours}/{leaf}": f"{theirs}/{leaf}" for leaf in leaves}
  for ours, theirs in _INNER[family].items():
    for leaf in _inner_leaves(ours):
      found[f"{weights.BLOCK}{ours}/{leaf}"] = (
        f"{_BLOCK[family]}/{theirs}/{leaf}"
      )
  return found


def _inner_leaves(module: str) -> tuple[str, ...]:
  if module.startswith("LayerNorm"):
    return _NORM
  if "Attention" in module:
    return tuple(f"{part}/{leaf}" for part in _ATTENTION for leaf in _DENSE)
  return _DENSE


def leaves(family: str) -> dict[str, weights.Leaf]:
  """Returns where each parameter of our backbone lies in a checkpoint."""
  found = {k: weights.same(name) for k, name in backbone(family).items()}
  if family == "clip":  # ours have the axes of a batch of tokens
    for path, axes in (("cls", (0, 1)), (weights.POSITIONS, (0,))):
      found[path] = weights.Leaf(
        found[path].names, lambda x, axes=axes: np.expand_dims(x, axes)
      )
  return found


def to_official(family: str, path: str, value: np.ndarray) -> np.ndarray:
  """Returns one of our backbone's arrays, of one block, in their shape."""
  if family == "clip" and path == "cls":
    return value[0, 0]
  if family == "clip" and path == weights.POSITIONS:
    return value[0]
  return value


def block_number(family: str, name: str) -> int | None:
  """Returns the number of the block that an official name belongs to."""
  pattern = re.escape(_BLOCK[family]).replace(r"\{i\}", r"(\d+)")
  match = re.match(f"{pattern}/", name)
  return int(match[1]) if match else None


def attention(family: str) -> str:
  """Returns the official name of the first block's query kernel."""
  inner = _INNER[family]["MultiHeadDotProductAttention_1"]
  return f"{_BLOCK[family].format(i=0)}/{inner}/query/kernel"


def mlp(family: str) -> str:
  """Returns the official name of the first block's first MLP kernel."""
  inner = _INNER[family]["MlpBlock_3/Dense_0"]
  return f"{_BLOCK[family].format(i=0)}/{inner}/kernel"


def teacher(domain: int) -> str:
  """Returns the official name of a domain's teacher projection."""
  return f"teacher_projection_domain_{domain}"


UDON_STUDENT = "universal_student_projection_domain_0"
UNED_STUDENT = "projection"


def classifier(role: str, domain: int, *, udon: bool) -> str:
  """Returns the official name of a domain's prototypes, [d, c].

  Args:
    role: "student" or "teacher".
    domain: position of the domain in config.dataset_name.
    udon: whether the model is UDON's; UnED's has the student's alone.
  """
  prefix = {"student": "universal_student_", "teacher": "teacher_"}[role]
  return f"{prefix if udon else ''}output_projection_{domain}/kernel"


# Groups of the official optimizer, as its state numbers them.
BACKBONE_GROUP, HEADS_GROUP = "0", "1"
EARLY_PARAMS = (
  "output_projection",
  "teacher_projection_domain",
  "universal_student_projection_domain",
)


def group(name: str) -> str:
  """Returns the optimizer's group of an official UDON parameter."""
  early = any(part in name for part in EARLY_PARAMS)
  return HEADS_GROUP if early else BACKBONE_GROUP


# Patterns of the names that are no backbone's.
TEACHERS = r"teacher_projection_domain_(\d+)/"
CLASSIFIERS = r"output_projection_(\d+)/"
PROJECTIONS = rf"({TEACHERS[:-1]}|{UDON_STUDENT}|{UNED_STUDENT})/.*"
HEADS = {
  r"(universal_student_|teacher_)?output_projection_\d+/.*": "classifiers",
  PROJECTIONS: "projections",
}
