"""One of our checkpoints as the official code would have saved it."""

from typing import Any

from flax import traverse_util
import jax

from udon_jax import (
  build,
  errors,
  partitioning,
  restoring,
  semantics,
  train_step,
)
from udon_jax.checkpointing import saved_state
from udon_jax.models import architecture
from udon_jax.pretrained import official

_MOMENTS = ("mu", "nu")
# The official code crops all images to this side.
IMAGE_SIZE = 224


def to_config(saved: restoring.Saved, *, key: str) -> dict[str, Any]:
  """Returns the official config of a run.

  Args:
    saved: one of its checkpoints.
    key: what the user set the run with, for messages.

  Raises:
    UserError: the official code has no such model.
  """
  config = saved.config
  name = config.model.name
  family = architecture.family_name(name)
  arch = build.arch(config)
  _check(saved, arch, family, key=key)
  num_examples = [domain["num_examples"] for domain in saved.domains]
  return official.from_config(
    config,
    arch=arch,
    family=family,
    steps=semantics.num_steps(config, num_examples),
    steps_per_epoch=max(1, sum(num_examples) // config.batch_size),
  )


def _check(saved, arch, family, *, key) -> None:
  """Raises a UserError unless the official code has this model."""
  model = saved.config.model
  known = ("vit", "clip")
  if family not in known:
    raise errors.UserError(
      f"{key}: config.model.name={model.name} is of the family {family}; the "
      f"official code has {' and '.join(known)} alone"
    )
  traits = architecture.FAMILIES[family]
  sizes = {
    key: getattr(arch, key)
    for key in ("patch_size", "width", "depth", "num_heads", "mlp_dim")
  }
  differing = []
  if arch != architecture.Architecture(**sizes, **traits.options):
    differing.append("another activation, norm_eps or num_registers")
  if family == "clip" and arch.mlp_dim != 4 * arch.width:
    differing.append(f"an mlp_dim of {arch.mlp_dim}, not 4 x {arch.width}")
  for name in ("pixel_mean", "pixel_std"):
    if model[name] and tuple(model[name]) != getattr(traits, name):
      differing.append(f"config.model.{name}={tuple(model[name])}")
  if differing:
    raise errors.UserError(
      f"{key}: the official code has no {family} with {', '.join(differing)}"
    )


def to_tree(saved: restoring.Saved) -> dict[str, Any]:
  """Returns the tree of an official checkpoint with the same state.

  Args:
    saved: of a model that `to_config` knows; its arrays are fetched as the tree
      is written.
  """
  run = saved.run
  state = saved.state.replace(
    prototypes=jax.jit(run.prototype_step.bring_up_to_date)(
      saved.state.prototypes, saved.state.step
    )
  )
  parts = saved_state.from_state(state, layout=run.layout, mesh=run.mesh)
  training = parts[saved_state.TRAINING]
  moments: dict[str, dict[str, Any]] = {name: {} for name in _MOMENTS}
  counts = {}
  for group, tree in training["opt_state"].items():
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
      name = partitioning.path_name(path)
      for moment in _MOMENTS:
        _, found, inner = name.partition(f"/{moment}/")
        if found:
          moments[moment][inner] = leaf
      if name.endswith("/count"):
        counts[group] = int(partitioning.fetch(leaf))
  return official.state_tree(
    step=saved.step,
    params=parts[saved_state.PARAMS],
    moments={
      name: traverse_util.unflatten_dict(flat, sep="/")
      for name, flat in moments.items()
    },
    prototypes=training["prototypes"],
    backbone_count=counts[train_step.BACKBONE],
    domains=run.layout.names,
    family=architecture.family_name(saved.config.model.name),
    seed=saved.config.seed,
  )
