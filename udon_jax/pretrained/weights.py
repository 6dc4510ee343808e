"""A backbone that lies in a file: what it is, and its way into our tree.

Every reader (`augreg`, `clip`, ...) tells the architecture of its file and, for
each of our parameters, the arrays that it is made of. What is common stands
here: nothing is loaded unless all of the model's parameters are found with
their shapes, and nothing of the file is passed over in silence.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import logging
import math
import re
from typing import Any, TypeAlias

from flax import traverse_util
import jax
from jaxtyping import Float
import numpy as np

from udon_jax.models import architecture
from udon_jax.pretrained import arrays

logger = logging.getLogger(__name__)

BLOCK = "Transformer/encoderblock/"
POSITIONS = "Transformer/posembed_input/pos_embedding"
# [side, side, d], new side -> [new, new, d].
Resize: TypeAlias = Callable[[np.ndarray, int], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Leaf:
  """Where one of our parameters lies in a file.

  Attributes:
    names: the arrays that make it; "{i}" stands for the number of a block.
    make: from these arrays to the parameter, of one block where there are
      blocks.
    heads: whether the parameter splits a dim into heads of attention, which
      the file does not: the model tells how many.
  """

  names: Sequence[str]
  make: Callable[..., np.ndarray]
  heads: bool = False


@dataclasses.dataclass(frozen=True)
class Weights:
  """A file with a backbone.

  Attributes:
    arrays: what the file holds.
    family: of `architecture.FAMILIES`.
    architecture: of the backbone.
    untold: fields of the architecture that the file cannot tell, guessed.
    image_size: side of the images that it is meant for.
    leaves: by the path of our parameter in the backbone.
    left: why arrays are left where they are, by a pattern of their whole name;
      "" if others read them.
    resize: how the grid of positions changes for other image sizes.
    pixel_mean: that it was trained with, of values in 0..1.
    pixel_std: likewise.
  """

  arrays: arrays.Arrays
  family: str
  architecture: architecture.Architecture
  untold: Sequence[str]
  image_size: int
  leaves: Mapping[str, Leaf]
  left: Mapping[str, str]
  resize: Resize
  pixel_mean: Sequence[float]
  pixel_std: Sequence[float]


def same(name: str) -> Leaf:
  """Returns the leaf of an array that is ours as it stands."""
  return Leaf((name,), lambda x: x)


def check_fits(found: Weights, wanted: architecture.Architecture) -> None:
  """Raises a UserError, with the cure, unless a model is that of a file."""
  ours, theirs = (
    {k: v for k, v in dataclasses.asdict(a).items() if k not in found.untold}
    for a in (wanted, found.architecture)
  )
  if ours == theirs:
    return
  differing = ", ".join(
    f"{key} {theirs[key]} (the model: {ours[key]})"
    for key in theirs
    if ours[key] != theirs[key]
  )
  values = architecture.describe(found.architecture, family=found.family)
  cure = " ".join(f"--config.model.{k}={v}" for k, v in values.items())
  raise found.arrays.error(
    f"holds another model than config.model.name says: {differing}; set {cure}"
  )


def check_pixels(
  found: Weights, *, mean: Sequence[float], std: Sequence[float]
) -> None:
  """Warns, with the cure, if a model sees images otherwise than a file's did.

  Args:
    found: the file.
    mean: that the model subtracts, of values in 0..1.
    std: that it divides by.
  """
  theirs = {"pixel_mean": found.pixel_mean, "pixel_std": found.pixel_std}
  ours = {"pixel_mean": mean, "pixel_std": std}
  cures = [
    f"--config.model.{key}='{tuple(theirs[key])}'"
    for key in theirs
    if not np.allclose(ours[key], theirs[key], rtol=1e-3)
  ]
  if cures:
    logger.warning(
      "%s was trained on images of other mean or standard deviation; set %s",
      found.arrays.path,
      " ".join(cures),
    )


def load_backbone(found: Weights, wanted: Any, *, tell: bool = True) -> Any:
  """Returns the parameters of a backbone, read one at a time.

  Args:
    found: the file.
    wanted: parameters or their shapes; where these have a sharding, the
      result is put there.
    tell: whether the log tells what was read.

  Raises:
    UserError: a parameter is missing or has another shape, the file is
      damaged, or it holds arrays that nothing is known of.
  """
  flat = traverse_util.flatten_dict(wanted, sep="/")
  unmapped = sorted(flat.keys() - found.leaves.keys())
  if unmapped:
    raise found.arrays.error(
      f"cannot fill the model's {', '.join(unmapped)}; does it fit "
      "config.model.name?"
    )
  used: set[str] = set()
  loaded = {}
  resized = ""
  for path, like in flat.items():
    leaf = found.leaves[path]
    value = _read(found, path, leaf, tuple(like.shape), used)
    if path == POSITIONS and value.shape != like.shape:
      resized = f", positions resized from {value.shape[1]} tokens"
      value = _resize(value, like.shape[1], resize=found.resize)
    if value.shape != tuple(like.shape):
      raise found.arrays.error(
        f"has {path} {value.shape}, the model {tuple(like.shape)}; set "
        "config.model.name and config.data.crop_size to fit"
      )
    sharding = getattr(like, "sharding", None)
    loaded[path] = jax.device_put(value, sharding) if sharding else value
  _report(found, used, len(loaded), resized, tell=tell)
  return traverse_util.unflatten_dict(loaded, sep="/")


def _read(found, path, leaf, shape, used) -> np.ndarray:
  """Returns one parameter, stacked over blocks where ours is."""
  blocks = path.startswith(BLOCK)
  block = shape[1:] if blocks else shape
  # What is split or resized comes from more than the parameter itself.
  most = max(4 * math.prod(block), 2**24)
  stacked = None
  if blocks:
    _check_held(found, path, leaf, shape)
    stacked = np.empty(shape, np.float32)
  for i in range(shape[0] if blocks else 1):
    names = [name.format(i=i) for name in leaf.names]
    used.update(names)
    raw = [found.arrays.take(name, most=most) for name in names]
    try:
      value = leaf.make(*raw)
      if leaf.heads:
        value = value.reshape(block)
    except (ValueError, IndexError) as error:
      shapes = ", ".join(
        f"{n} {x.shape}" for n, x in zip(names, raw, strict=True)
      )
      raise found.arrays.error(
        f"has {shapes}, which make no {path} {block}; is it of this model?"
      ) from error
    if stacked is None:
      return value
    if value.shape != block:
      raise found.arrays.error(
        f"has {' and '.join(names)} for a {path} of {value.shape}, the model "
        f"{block}; set config.model.name to fit"
      )
    stacked[i] = value
  assert stacked is not None
  return stacked


def _check_held(found, path, leaf, shape) -> None:
  """Raises a UserError if a file lacks blocks, or numbers for one of them.

  Before memory is asked for, which a damaged file's sizes may not leave.
  """
  for i in range(shape[0]) if leaf.names else ():
    names = [name.format(i=i) for name in leaf.names]
    held = [found.arrays.shape(name) for name in names]
    if sum(map(math.prod, held)) < math.prod(shape[1:]):
      raise found.arrays.error(
        f"has {' and '.join(names)} of {' and '.join(map(str, held))}, too "
        f"small for a {path} {shape[1:]}; set config.model.name to fit"
      )


def _resize(
  positions: Float[np.ndarray, "1 n d"], num_tokens: int, *, resize: Resize
) -> Float[np.ndarray, "1 m d"]:
  """Returns positions of another grid; the class token keeps its own."""
  old, new = (math.isqrt(n - 1) for n in (positions.shape[1], num_tokens))
  if old**2 + 1 != positions.shape[1] or new**2 + 1 != num_tokens:
    return positions
  grid = positions[0, 1:].reshape(old, old, -1)
  grid = np.asarray(resize(grid, new), np.float32).reshape(1, new**2, -1)
  return np.concatenate([positions[:, :1], grid], axis=1)


def _report(found, used, count, resized, *, tell) -> None:
  """Tells what was read and what was left, and why.

  Raises:
    UserError: nothing is known of an array that was left.
  """
  left: dict[str, list[str]] = {}
  for name in sorted(found.arrays.shapes.keys() - used):
    why = next(
      (w for p, w in found.left.items() if re.fullmatch(p, name)), None
    )
    if why is None:
      raise found.arrays.error(
        f"holds {name!r}, which no parameter of this model is made of; does it "
        "fit config.model.name?"
      )
    if why:
      left.setdefault(why, []).append(name)
  if not tell:
    return
  logger.info(
    "%s: %d parameters from %d arrays%s; left in the file: %s",
    found.arrays.path,
    count,
    len(used),
    resized,
    "; ".join(f"{_some(names)} ({why})" for why, names in left.items())
    or "nothing",
  )


def _some(names: Sequence[str]) -> str:
  shown = ", ".join(names[:3])
  return shown + (f" and {len(names) - 3} more" if len(names) > 3 else "")
