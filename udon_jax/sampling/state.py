"""What a sampling policy remembers, and where it starts.

Shape legend: n domains, e steps of a window.
"""

from collections.abc import Sequence
from typing import Protocol

from flax import struct
import jax.numpy as jnp
from jaxtyping import Array, Float, Int
import numpy as np

from udon_jax import errors

STRATEGIES = (
  "dynamic",
  "round_robin",
  "balanced",
  "dataset_size",
  "specialist_top_steps",
)


class SamplerState(struct.PyTreeNode):
  """What the policy remembers; part of the train state."""

  loss_sums: Float[Array, "n"]  # of the losses that weigh the next window
  counts: Int[Array, "n"]  # how many losses these are
  weights: Float[Array, "n"]  # of this window; they sum to 1
  window: Int[Array, ""]  # the window in progress, from 0


class Policy(Protocol):
  """Which domain each step trains; a function of (state, window) alone.

  A run is split into windows, whose numbers start at 0. The state is part of
  the train state; what has no arrays is static.
  """

  def locate(self, step: int) -> tuple[int, int]:
    """Returns the window of a step (from 1), and its place there (from 0)."""

  def enter(
    self, state: SamplerState, window: Int[Array, ""]
  ) -> tuple[SamplerState, Int[Array, "e"]]:
    """Plans a window; jitted, with no look at the host.

    Entering a new window draws its weights from the losses noted before;
    entering the window in progress again, after a restart, gives the same plan.

    Returns:
      The state in the window, and the domain at each of its places.
    """

  def record(
    self,
    state: SamplerState,
    domain: Int[Array, ""],
    loss: Float[Array, ""],
    *,
    step: Int[Array, ""],
  ) -> SamplerState:
    """Notes the loss of a step (from 1); called inside the train step."""


def shares(
  strategy: str,
  *,
  num_examples: Sequence[int],
  allocation: Sequence[float],
) -> Float[np.ndarray, "n"]:
  """Returns each domain's share of the steps at the start, in float64.

  Args:
    strategy: one of STRATEGIES.
    num_examples: training images of every domain.
    allocation: relative steps of every domain, for "specialist_top_steps".

  Raises:
    UserError: unknown strategy, or an allocation that does not fit.
  """
  if strategy not in STRATEGIES:
    raise errors.UserError(
      f"config.sampler.strategy={strategy!r} is unknown; known: "
      f"{', '.join(STRATEGIES)}"
    )
  n = len(num_examples)
  weights = np.ones(n)
  if strategy == "dataset_size":
    weights = np.asarray(num_examples, np.float64)
  if strategy == "specialist_top_steps":
    weights = np.asarray(allocation, np.float64)
    if weights.shape != (n,) or (weights < 0).any() or not weights.sum() > 0:
      raise errors.UserError(
        f"config.sampler.allocation={tuple(allocation)} must hold one "
        f"non-negative number for each of the {n} domains"
      )
  return weights / weights.sum()


def initial_weights(
  strategy: str,
  *,
  num_examples: Sequence[int],
  allocation: Sequence[float],
) -> Float[np.ndarray, "n"]:
  """Returns the weights of the first window: `shares`, in float32."""
  return shares(
    strategy, num_examples=num_examples, allocation=allocation
  ).astype(np.float32)


def init(weights: Float[np.ndarray, "n"]) -> SamplerState:
  """Returns the state before the first step."""
  n = len(weights)
  return SamplerState(
    loss_sums=jnp.zeros(n, jnp.float32),
    counts=jnp.zeros(n, jnp.int32),
    weights=jnp.asarray(weights, jnp.float32),
    window=jnp.zeros((), jnp.int32),
  )


def record(
  state: SamplerState, domain: Int[Array, ""], loss: Float[Array, ""]
) -> SamplerState:
  """Notes one step's loss.

  Args:
    state: the policy's state.
    domain: the domain that the step trained.
    loss: its teacher classification loss, with margin, without smoothing.
  """
  return state.replace(
    loss_sums=state.loss_sums.at[domain].add(loss),
    counts=state.counts.at[domain].add(1),
  )
