"""One checkpoint of the official code, and what its arrays tell of the model.

  global_step, params, model_state, rng, metadata
  opt_state/<group>/inner_state/0/0/{count, mu, nu}    0 backbone, 1 the rest

Sources: nikosips/UDON, udon_vit_with_embedding.py, optimizer_utils.py;
google-research/scenic, train_utils.py.
"""

from collections.abc import Mapping
import dataclasses
import math
import re
from typing import Any

from udon_jax import errors
from udon_jax.models import architecture
from udon_jax.pretrained import arrays, flax_msgpack, weights
from udon_jax.pretrained.official import names

CONFIG_FILE = "config.json"
_LABELS = {"dataset_name": "domains by dataset_name"}


@dataclasses.dataclass(frozen=True)
class Checkpoint:
  """An official checkpoint and what its arrays and config say of it.

  Attributes:
    file: the checkpoint.
    key: what the user set the folder with, for messages.
    config: the official config.
    params: its parameters.
    family: of `architecture.FAMILIES`.
    udon: whether the model is UDON's, with teachers; otherwise UnED's.
    architecture: of the backbone.
    image_size: side of the images, in pixels.
    domains: names, in the order of their numbers.
    step: steps taken.
  """

  file: flax_msgpack.File
  key: str
  config: Mapping[str, Any]
  params: arrays.Arrays
  family: str
  udon: bool
  architecture: architecture.Architecture
  image_size: int
  domains: tuple[str, ...]
  step: int

  @property
  def student(self) -> str | None:
    """Official name of the student's projection, if there is one."""
    name = names.UDON_STUDENT if self.udon else names.UNED_STUDENT
    return name if f"{name}/{self._first}" in self.params.shapes else None

  @property
  def teachers(self) -> tuple[str, ...]:
    """Official names of the teachers' projections."""
    if not self.udon:
      return ()
    return tuple(names.teacher(i) for i in range(len(self.domains)))

  @property
  def _first(self) -> str:
    return "Dense_0/kernel" if self.udon else "kernel"

  @property
  def joint(self) -> bool:
    """Whether one classifier has the classes of all domains."""
    return self.config.get("classifier") == "joint"

  def widths(self, projection: str) -> tuple[int, ...]:
    """Returns the widths of a projection's layers, the embedding's last."""
    if not self.udon:
      return (self.params.shape(f"{projection}/kernel")[-1],)
    found: list[int] = []
    while (name := f"{projection}/Dense_{len(found)}/kernel") in (
      self.params.shapes
    ):
      found.append(self.params.shapes[name][-1])
    if not found:
      self.params.shape(name)  # raises
    return tuple(found)

  def error(self, what: str) -> errors.UserError:
    """Returns the error that something is wrong with the checkpoint."""
    return self.params.error(what)


def describe(
  file: flax_msgpack.File, config: dict[str, Any], *, key: str
) -> Checkpoint:
  """Returns what the arrays of a checkpoint tell of it.

  Args:
    file: the checkpoint.
    config: what lies beside it.
    key: what the user set the folder with, for messages.

  Raises:
    UserError: it is no checkpoint of the official code, or of another run than
      the config.
  """
  params = view(file, ("params",), key=key)
  found = [f for f, name in names.FAMILIES.items() if name in params.shapes]
  if len(found) != 1:
    raise params.error(
      "holds no params of a ViT or CLIP ViT of the official code; is it a "
      "checkpoint of UDON or UnED?"
    )
  family = found[0]
  arch, image_size = _architecture(params, family)
  step = _scalar(file, "global_step")
  if step is None or step < 0:
    raise params.error("has no global_step; is it whole?")
  checkpoint = Checkpoint(
    file=file,
    key=key,
    config=config,
    params=params,
    family=family,
    udon=f"{names.UDON_STUDENT}/Dense_0/kernel" in params.shapes,
    architecture=arch,
    image_size=image_size,
    domains=tuple(x.strip() for x in config["dataset_name"].split(",")),
    step=step,
  )
  _check(checkpoint)
  return checkpoint


def view(
  file: flax_msgpack.File, path: tuple[str, ...], *, key: str
) -> arrays.Arrays:
  """Returns the arrays below a path of a checkpoint; none if it is not there.

  Args:
    file: the checkpoint.
    path: names of the maps that lead there.
    key: what the user set the folder with, for messages.
  """
  tree: Any = file.tree
  for part in path:
    tree = tree.get(part, {}) if isinstance(tree, Mapping) else {}
  found = dict(flax_msgpack.flatten(tree)) if isinstance(tree, Mapping) else {}
  stored = {
    name: value
    for name, value in found.items()
    if isinstance(value, flax_msgpack.Stored)
  }
  return arrays.Arrays(
    file.path,
    key,
    {name: value.shape for name, value in stored.items()},
    lambda name: file.read(stored[name]),
  )


def _scalar(file: flax_msgpack.File, *path: str) -> int | None:
  """Returns a whole number, which may lie in an array; None if it is none."""
  value: Any = file.tree
  for part in path:
    value = value.get(part) if isinstance(value, Mapping) else None
  if isinstance(value, flax_msgpack.Stored):
    if math.prod(value.shape) != 1 or value.dtype.kind not in "iu":
      return None
    value = file.read(value).item()
  return value if isinstance(value, int) else None


def scalar(checkpoint: Checkpoint, *path: str) -> int:
  """Returns a whole number of a checkpoint.

  Raises:
    UserError: there is none.
  """
  value = _scalar(checkpoint.file, *path)
  if value is None:
    raise checkpoint.error(f"lacks {'/'.join(path)}; is it whole?")
  return value


def _architecture(
  params: arrays.Arrays, family: str
) -> tuple[architecture.Architecture, int]:
  """Returns the architecture, and the image size that the positions are for."""
  leaf = names.backbone(family)
  try:
    patch, other, channels, width = params.shape(leaf["embedding/kernel"])
    _, heads, head_dim = params.shape(names.attention(family))
    _, mlp_dim = params.shape(names.mlp(family))
    tokens = params.shape(leaf[weights.POSITIONS])[-2]
  except errors.UserError:
    raise
  except (ValueError, IndexError) as error:
    raise params.error("has arrays of other ranks than a ViT") from error
  numbers = {names.block_number(family, name) for name in params.shapes}
  depth = max(n for n in numbers if n is not None) + 1
  side = math.isqrt(max(tokens - 1, 0))
  if (
    patch != other
    or channels != 3
    or min(patch, heads, side) < 1
    or heads * head_dim != width
    or side**2 + 1 != tokens
  ):
    raise params.error(
      f"has an embedding of {patch}x{other}x{channels} pixels, {heads} heads "
      f"of {head_dim} for a width of {width}, and {tokens} positions: no ViT "
      "with a class token on square images"
    )
  arch = architecture.Architecture(
    patch_size=patch,
    width=width,
    depth=depth,
    num_heads=heads,
    mlp_dim=mlp_dim,
    **architecture.FAMILIES[family].options,
  )
  return arch, side * patch


def _check(checkpoint: Checkpoint) -> None:
  """Raises a UserError unless config.json and the arrays agree."""
  told = _told(checkpoint)
  found = _found(checkpoint)
  differing = ", ".join(
    f"{_LABELS.get(name, name)} {told[name]} (the arrays: {found[name]})"
    for name in found
    if told.get(name) is not None and told[name] != found[name]
  )
  if differing:
    raise checkpoint.error(
      f"and {CONFIG_FILE} beside it are not of one run: {CONFIG_FILE} says "
      f"{differing}; copy both from the same folder"
    )


def _told(checkpoint: Checkpoint) -> dict[str, Any]:
  """Returns what config.json says of the arrays; None for what it leaves."""
  config = checkpoint.config
  model = config.get("model")
  model = model if isinstance(model, Mapping) else {}
  patches = model.get("patches")
  sizes = ("hidden_size", "num_heads", "num_layers")
  told = {f"model.{name}": model.get(name) for name in sizes}
  if checkpoint.family == "vit":  # the CLIP model does not read it
    told["model.mlp_dim"] = model.get("mlp_dim")
  if isinstance(patches, Mapping):
    told["model.patches.size"] = patches.get("size")
  for name in ("universal_student_dim", "teacher_dim"):
    value = model.get(name)
    told[f"model.{name}"] = [value] if isinstance(value, int) else value
  told["model_class"] = config.get("model_class")
  told["dataset_name"] = list(range(len(set(checkpoint.domains))))
  return told


def _found(checkpoint: Checkpoint) -> dict[str, Any]:
  """Returns what the arrays say, by the same names."""
  arch = checkpoint.architecture
  clip = "clip_" if checkpoint.family == "clip" else ""
  udon = "udon_" if checkpoint.udon else ""
  found: dict[str, Any] = {
    "model_class": f"{udon}{clip}vit_with_embedding",
    "model.hidden_size": arch.width,
    "model.num_heads": arch.num_heads,
    "model.num_layers": arch.depth,
    "model.mlp_dim": arch.mlp_dim,
    "model.patches.size": [arch.patch_size] * 2,
  }
  pattern = names.TEACHERS if checkpoint.udon else names.CLASSIFIERS
  numbers = {
    int(match[1])
    for name in checkpoint.params.shapes
    if (match := re.match(pattern, name))
  }
  if checkpoint.udon or (numbers and not checkpoint.joint):
    found["dataset_name"] = sorted(numbers)
  if checkpoint.udon:
    found["model.universal_student_dim"] = list(
      checkpoint.widths(names.UDON_STUDENT)
    )
    found["model.teacher_dim"] = list(checkpoint.widths(names.teacher(0)))
  return found
