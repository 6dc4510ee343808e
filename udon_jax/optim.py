"""Rates over time, and AdamW by groups of parameters.

A group is a regular expression over parameter paths with its own rate. Every
parameter must belong to exactly one group, and every group to some parameter.
A frozen group keeps its parameters, moments and update count as they are.
"""

from collections.abc import Callable, Collection, Mapping
import dataclasses
import re
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int
import optax

from udon_jax import errors, partitioning

PyTree: TypeAlias = Any
Schedule: TypeAlias = Callable[[Int[Array, ""]], Float[Array, ""]]

SCHEDULES = ("constant", "cosine")


def make_schedule(
  name: str, *, peak: float, num_steps: int, warmup_steps: int
) -> Schedule:
  """Returns the rate as a function of the step, counted from 1.

  Args:
    name: "constant", or "cosine" from the peak to 0 at the last step.
    peak: the rate after the warm-up.
    num_steps: steps of the whole run.
    warmup_steps: the rate climbs linearly and reaches the peak at this step.

  Raises:
    UserError: unknown name, or a warm-up longer than the run.
  """
  if name not in SCHEDULES:
    raise errors.UserError(
      f"config.optimizer.schedule={name!r} is unknown; known: "
      f"{', '.join(SCHEDULES)}"
    )
  if not 0 <= warmup_steps < max(num_steps, 1):
    raise errors.UserError(
      f"config.optimizer.warmup_steps={warmup_steps} must be at least 0 and "
      f"less than the run's {num_steps} steps"
    )
  after = {
    "constant": optax.constant_schedule(peak),
    "cosine": optax.cosine_decay_schedule(peak, num_steps - warmup_steps),
  }[name]
  if not warmup_steps:
    return after
  warmup = optax.linear_schedule(0.0, peak, warmup_steps)
  return optax.join_schedules([warmup, after], [warmup_steps])


def hold_back(schedule: Schedule, num_steps: int) -> Schedule:
  """Returns a schedule that is 0 during the first steps.

  Its group is not frozen: moments and count go on.

  Args:
    schedule: the rate after them.
    num_steps: how many.
  """
  return lambda step: jnp.where(step > num_steps, schedule(step), 0.0)


@dataclasses.dataclass(frozen=True)
class Group:
  """Parameters that share a rate.

  Attributes:
    pattern: a regular expression that matches the whole path "a/b/c".
    schedule: their rate over time.
  """

  pattern: str
  schedule: Schedule


def assign_groups(params: PyTree, groups: Mapping[str, Group]) -> PyTree:
  """Returns the name of the group of every parameter.

  Raises:
    ValueError: a parameter matches no group or several, or a group none.
  """

  def group_of(path, _):
    name = partitioning.path_name(path)
    found = [k for k, g in groups.items() if re.fullmatch(g.pattern, name)]
    if len(found) != 1:
      raise ValueError(
        f"parameter {name} must be in one optimizer group, is in {found}"
      )
    return found[0]

  labels = jax.tree_util.tree_map_with_path(group_of, params)
  unused = set(groups) - set(jax.tree.leaves(labels))
  if unused:
    raise ValueError(f"optimizer groups without parameters: {sorted(unused)}")
  return labels


@dataclasses.dataclass(frozen=True)
class AdamW:
  """AdamW over groups, each with its own moments and update count."""

  groups: Mapping[str, Group]
  b1: float
  b2: float
  eps: float
  weight_decay: float
  grad_clip_norm: float | None

  def _transform(self, labels: PyTree, group: str) -> Any:
    """Returns Adam and decay, without the rate, on one group alone."""
    adam = optax.chain(
      optax.scale_by_adam(b1=self.b1, b2=self.b2, eps=self.eps),
      optax.add_decayed_weights(self.weight_decay),
    )
    return optax.masked(adam, jax.tree.map(lambda g: g == group, labels))

  def init(self, params: PyTree) -> dict[str, Any]:
    """Returns zero moments and counts, by group."""
    labels = assign_groups(params, self.groups)
    return {
      name: self._transform(labels, name).init(params) for name in self.groups
    }

  def update(
    self,
    grads: PyTree,
    state: Mapping[str, Any],
    params: PyTree,
    *,
    step: Int[Array, ""],
    frozen: Collection[str] = (),
  ) -> tuple[PyTree, dict[str, Any], Float[Array, ""]]:
    """Takes one step.

    Args:
      grads: gradients of all parameters; those of frozen groups are ignored.
      state: moments and counts.
      params: the parameters.
      step: number of this step, from 1; the rates depend on it.
      frozen: names of the groups that stay as they are.

    Returns:
      New parameters, new state, and the global norm of the gradient that was
      used, before clipping.
    """
    labels = assign_groups(params, self.groups)
    grads = jax.tree.map(
      lambda g, name: jnp.zeros_like(g) if name in frozen else g, grads, labels
    )
    norm = optax.tree.norm(grads)
    if self.grad_clip_norm is not None:
      scale = jnp.minimum(1.0, self.grad_clip_norm / (norm + 1e-12))
      grads = jax.tree.map(lambda g: g * scale, grads)
    new_state = dict(state)
    updates = grads
    for name in self.groups:
      if name not in frozen:
        updates, new_state[name] = self._transform(labels, name).update(
          updates, state[name], params
        )
    rates = {name: g.schedule(step) for name, g in self.groups.items()}
    params = jax.tree.map(
      lambda p, u, name: p if name in frozen else p - rates[name] * u,
      params,
      updates,
      labels,
    )
    return params, new_state, norm
