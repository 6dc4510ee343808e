"""An official checkpoint's arrays in our trees: weights, prototypes, moments.

Shape legend: c classes, d embedding dim.
"""

from collections.abc import Iterator, Mapping, Sequence
import dataclasses
import math
from typing import Any

from etils import epath
from flax import traverse_util
import jax
from jaxtyping import Float
import numpy as np

from udon_jax import errors
from udon_jax.models import architecture
from udon_jax.pretrained import arrays, augreg, weights
from udon_jax.pretrained.official import checkpoint as checkpoints
from udon_jax.pretrained.official import names, workdir

ROLES = ("student", "teacher")
MOMENTS = ("mu", "nu")


def open_weights(path: epath.PathLike, *, key: str) -> weights.Weights:
  """Returns the backbone of an official run: the best checkpoint's, if any.

  Args:
    path: the run's folder.
    key: what the user set it with, for messages.

  Raises:
    UserError: it holds no checkpoint of the official code, or a damaged one.
  """
  folder = epath.Path(path).expanduser()
  if not folder.is_dir():
    raise errors.UserError(
      f"{key}: {path} is no folder; give that of a run of the official code, "
      "with checkpoint_<step> and config.json"
    )
  return backbone(workdir.open_checkpoint(folder, number=None, key=key))


def backbone(
  checkpoint: checkpoints.Checkpoint, params: arrays.Arrays | None = None
) -> weights.Weights:
  """Returns the backbone of a checkpoint.

  Args:
    checkpoint: the checkpoint.
    params: its parameters, or others of the same names and shapes.
  """
  family = architecture.FAMILIES[checkpoint.family]
  return weights.Weights(
    arrays=params or checkpoint.params,
    family=checkpoint.family,
    architecture=checkpoint.architecture,
    untold=(),
    image_size=checkpoint.image_size,
    leaves=names.leaves(checkpoint.family),
    left=names.HEADS,
    resize=augreg.resize,
    pixel_mean=family.pixel_mean,
    pixel_std=family.pixel_std,
  )


def load_module(
  checkpoint: checkpoints.Checkpoint,
  wanted: Mapping[str, Any],
  *,
  domains: Sequence[int],
  params: arrays.Arrays | None = None,
) -> dict[str, Any]:
  """Returns all of a module's parameters.

  Args:
    checkpoint: the checkpoint.
    wanted: parameters or their shapes; where these have a sharding, the
      result is put there.
    domains: numbers in the checkpoint of our domains, in our order.
    params: as for `backbone`.

  Raises:
    UserError: a parameter is missing or has another shape.
  """
  found = backbone(checkpoint, params)
  # The projections are read below.
  found = dataclasses.replace(found, left={**found.left, names.PROJECTIONS: ""})
  loaded = {
    "backbone": weights.load_backbone(
      found, wanted["backbone"], tell=params is None
    )
  }
  for part in (names.STUDENT, names.TEACHER):
    if part in wanted:
      loaded[part] = load_projection(
        checkpoint, wanted[part], part=part, domains=domains, params=params
      )
  return loaded


def load_projection(
  checkpoint: checkpoints.Checkpoint,
  wanted: Any,
  *,
  part: str,
  domains: Sequence[int],
  params: arrays.Arrays | None = None,
) -> Any:
  """Returns the student's projection, or the teachers', stacked.

  Args:
    checkpoint: the checkpoint, which has such projections.
    wanted: as for `load_module`; teachers have a leading axis of
      len(domains).
    part: `names.STUDENT` or `names.TEACHER`.
    domains: as for `load_module`.
    params: as for `backbone`.
  """
  teachers = part == names.TEACHER
  if teachers:
    prefixes = [checkpoint.teachers[i] for i in domains]
  else:
    assert checkpoint.student is not None
    prefixes = [checkpoint.student]
  source = params or checkpoint.params
  flat = traverse_util.flatten_dict(wanted, sep="/")
  shapes = {k: tuple(x.shape[teachers:]) for k, x in flat.items()}
  for prefix in prefixes:
    _check_projection(checkpoint, prefix, shapes, part=part)
  loaded = {}
  for leaf, like in flat.items():
    rows = [
      source.take(
        _official_leaf(checkpoint, prefix, leaf), most=math.prod(shapes[leaf])
      )
      for prefix in prefixes
    ]
    value = np.stack(rows) if teachers else rows[0]
    loaded[leaf] = _put(value, like)
  return traverse_util.unflatten_dict(loaded, sep="/")


def _official_leaf(
  checkpoint: checkpoints.Checkpoint, prefix: str, leaf: str
) -> str:
  """Returns the official name; UnED's one layer has no name of its own."""
  inner = leaf if checkpoint.udon else leaf.removeprefix("Dense_0/")
  return f"{prefix}/{inner}"


def _check_projection(checkpoint, prefix, shapes, *, part) -> None:
  """Raises a UserError unless a projection's leaves are those of the model."""
  theirs = {
    name: shape
    for name, shape in checkpoint.params.shapes.items()
    if name.startswith(f"{prefix}/")
  }
  ours = {
    _official_leaf(checkpoint, prefix, leaf): shape
    for leaf, shape in shapes.items()
  }
  if theirs != ours:
    *hidden, dim = checkpoint.widths(prefix)
    key = f"config.model.{part.removesuffix('_projection')}"
    raise checkpoint.error(
      f"has a {prefix} of {dim} dimensions after hidden layers {hidden}, which "
      f"is no {part} of the model; set {key}_dim={dim} and "
      f"{key}_hidden={tuple(hidden)}"
    )


def _put(value: np.ndarray, like: Any) -> Any:
  sharding = getattr(like, "sharding", None)
  return jax.device_put(value, sharding) if sharding else value


def prototype_shapes(
  checkpoint: checkpoints.Checkpoint,
) -> dict[str, dict[str, tuple[int, int]]]:
  """Returns {role: {domain: (classes, dim)}} of what can be read.

  A joint classifier has no prototypes of a domain: none of it is named.
  """
  found: dict[str, dict[str, tuple[int, int]]] = {}
  for role in ROLES if checkpoint.udon else ROLES[:1]:
    found[role] = {}
    for i, domain in enumerate(checkpoint.domains):
      name = names.classifier(role, i, udon=checkpoint.udon)
      if not checkpoint.joint and name in checkpoint.params.shapes:
        shape = checkpoint.params.shapes[name]
        if len(shape) != 2:
          raise checkpoint.error(f"has {name} {shape}, no [dim, classes]")
        found[role][domain] = (shape[1], shape[0])
  return found


def load_prototypes(
  checkpoint: checkpoints.Checkpoint,
  *,
  role: str,
  domain: str,
  params: arrays.Arrays | None = None,
) -> Float[np.ndarray, "c d"]:
  """Returns the prototypes of a domain of `prototype_shapes`."""
  number = checkpoint.domains.index(domain)
  name = names.classifier(role, number, udon=checkpoint.udon)
  size = math.prod(checkpoint.params.shape(name))
  value = (params or checkpoint.params).take(name, most=size)
  if value.shape != checkpoint.params.shape(name):
    raise checkpoint.error(f"has moments of {name} of another shape")
  return np.ascontiguousarray(value.T)


@dataclasses.dataclass(frozen=True)
class Moments:
  """AdamW's moments of a checkpoint, under the names of the parameters.

  Attributes:
    mu: first moments.
    nu: second moments.
    backbone_count: updates of the backbone.
    heads_count: updates of projections and classifiers.
  """

  mu: arrays.Arrays
  nu: arrays.Arrays
  backbone_count: int
  heads_count: int


def open_moments(checkpoint: checkpoints.Checkpoint) -> Moments:
  """Returns the moments of an UDON checkpoint, read when they are asked for.

  Raises:
    UserError: it has no state of the official optimizer.
  """
  groups = (names.BACKBONE_GROUP, names.HEADS_GROUP)
  paths = {
    group: _find_adam(checkpoint, ("opt_state", group)) for group in groups
  }
  mu, nu = (
    _join(
      [
        checkpoints.view(checkpoint.file, (*path, moment), key=checkpoint.key)
        for path in paths.values()
      ]
    )
    for moment in MOMENTS
  )
  backbone_count, heads_count = (
    checkpoints.scalar(checkpoint, *path, "count") for path in paths.values()
  )
  return Moments(mu, nu, backbone_count, heads_count)


def _find_adam(
  checkpoint: checkpoints.Checkpoint, path: tuple[str, ...]
) -> tuple[str, ...]:
  """Returns the path of the one state of Adam below a path."""
  tree: Any = checkpoint.file.tree
  for part in path:
    tree = tree.get(part, {}) if isinstance(tree, Mapping) else {}
  found = list(_states(tree, path))
  if len(found) != 1:
    raise checkpoint.error(
      f"has {len(found)} states of Adam below {'/'.join(path)}, not 1: it is "
      "not of the official optimizer; start from its weights by "
      "config.pretrained=official:DIR"
    )
  return found[0]


def _states(tree: Any, path: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
  if isinstance(tree, Mapping):
    if {"count", *MOMENTS} <= tree.keys():
      yield path
      return
    for name, value in tree.items():
      yield from _states(value, (*path, name))


def _join(parts: Sequence[arrays.Arrays]) -> arrays.Arrays:
  """Returns the arrays of several views; a name is in one of them."""
  readers = {name: part.read for part in parts for name in part.shapes}
  shapes = {name: x for part in parts for name, x in part.shapes.items()}
  first = parts[0]
  return arrays.Arrays(
    first.path, first.key, shapes, lambda name: readers[name](name)
  )
