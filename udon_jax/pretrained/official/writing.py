"""Our parameters and moments as the tree that an official checkpoint holds."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from flax import traverse_util
import numpy as np

from udon_jax.pretrained import weights
from udon_jax.pretrained.official import names, reading

# {official name: makes the array}.
Flat: TypeAlias = dict[str, Callable[[], np.ndarray]]


def state_tree(
  *,
  step: int,
  params: Mapping[str, Any],
  moments: Mapping[str, Mapping[str, Any]],
  prototypes: Mapping[str, Mapping[str, Any]],
  backbone_count: int,
  domains: Sequence[str],
  family: str,
  seed: int,
) -> dict[str, Any]:
  """Returns the tree of a checkpoint; arrays are made as they are written.

  Args:
    step: steps taken.
    params: of the module.
    moments: {"mu"|"nu": a tree like params}.
    prototypes: {"student"|"teacher": {domain: [classes, 3, dim]}} with the
      parameter, mu and nu.
    backbone_count: updates that AdamW has made of the backbone.
    domains: their names, in the order of their ids.
    family: "vit" or "clip".
    seed: of the run.
  """
  flat = {
    part: _module(tree, family=family)
    | _classifiers(prototypes, position, domains=domains)
    for position, (part, tree) in enumerate(
      {"params": params, **{m: moments[m] for m in reading.MOMENTS}}.items()
    )
  }
  counts = {names.BACKBONE_GROUP: backbone_count, names.HEADS_GROUP: step}
  return {
    "global_step": np.asarray(step, np.int32),
    "opt_state": {
      group: _group(flat, group=group, count=count, step=step)
      for group, count in counts.items()
    },
    "params": _nest(flat["params"]),
    "model_state": {},
    # jax.random.PRNGKey(seed)
    "rng": np.asarray([0, seed], np.uint32),
    "metadata": {},
  }


def _module(tree: Mapping[str, Any], *, family: str) -> Flat:
  """Returns a tree like the module's parameters under the official names."""
  backbone = names.backbone(family)
  flat: Flat = {}
  for path, value in traverse_util.flatten_dict(dict(tree), sep="/").items():
    part, _, leaf = path.partition("/")
    if part == "backbone":
      flat |= _from_backbone(backbone[leaf], leaf, value, family=family)
    elif part == names.STUDENT:
      flat[f"{names.UDON_STUDENT}/{leaf}"] = _maker(value)
    else:
      flat |= {
        f"{names.teacher(i)}/{leaf}": _maker(value, i)
        for i in range(value.shape[0])
      }
  return flat


def _from_backbone(
  official: str, leaf: str, value: Any, *, family: str
) -> Flat:
  if leaf.startswith(weights.BLOCK):
    return {
      official.format(i=i): _maker(value, i) for i in range(value.shape[0])
    }
  return {official: lambda: names.to_official(family, leaf, np.asarray(value))}


def _maker(value: Any, *index: int) -> Callable[[], np.ndarray]:
  """Returns what makes a part of an array, once it is wanted."""
  return lambda: np.ascontiguousarray(np.asarray(value[index]))


def _classifiers(
  prototypes: Mapping[str, Mapping[str, Any]],
  position: int,
  *,
  domains: Sequence[str],
) -> Flat:
  """Returns the class tables [dim, classes]: parameters, mu or nu."""

  def maker(value):
    return lambda: np.ascontiguousarray(np.asarray(value[:, position]).T)

  return {
    names.classifier(role, i, udon=True): maker(prototypes[role][name])
    for role in reading.ROLES
    for i, name in enumerate(domains)
  }


def _group(
  flat: Mapping[str, Flat], *, group: str, count: int, step: int
) -> dict[str, Any]:
  """Returns the state of optax.masked(chain(adamw)) of one group.

  Leaves of the other group are empty, as optax.MaskedNode is saved.
  """

  def moment(name):
    return _nest(
      {
        k: make if names.group(k) == group else {}
        for k, make in flat[name].items()
      }
    )

  adam = {
    "count": np.asarray(count, np.int32),
    **{name: moment(name) for name in reading.MOMENTS},
  }
  # The rate depends on the number of steps, also of a backbone that was frozen.
  schedule = {"count": np.asarray(step, np.int32)}
  return {"inner_state": {"0": {"0": adam, "1": {}, "2": schedule}}}


def _nest(flat: Mapping[str, Any]) -> dict[str, Any]:
  return traverse_util.unflatten_dict(dict(flat), sep="/")
