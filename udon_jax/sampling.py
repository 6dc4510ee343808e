"""The dynamic sampling policy: which domain each step trains.

Window k covers steps kE + 1 .. (k + 1)E. Its weights come from all of window
k - 1: the domains seen share what is theirs in proportion to their mean loss,
the others keep their weight. Everything is a function of (state, window, seed),
so that a window can be planned again after a restart.

Sources: UDON (NeurIPS 2024), sec. 3.3; official implementation:
sampling_utils.py. Shape legend: n domains, e steps of a window.
"""

from collections.abc import Sequence
import functools

from flax import struct
import jax
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
ROUNDINGS = ("largest_fraction", "last")
# Domains drawn with equal weights differ from other keys of the same seed.
_KEY_TAG = 0x5A3


class SamplerState(struct.PyTreeNode):
  """What the policy remembers; part of the train state."""

  loss_sums: Float[Array, "n"]  # of this window
  counts: Int[Array, "n"]  # steps of this window
  weights: Float[Array, "n"]  # of this window; they sum to 1
  window: Int[Array, ""]  # the window in progress, from 0


def initial_weights(
  strategy: str,
  *,
  num_examples: Sequence[int],
  allocation: Sequence[float],
) -> Float[np.ndarray, "n"]:
  """Returns the weights of the first window.

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
  return (weights / weights.sum()).astype(np.float32)


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
  """Notes one step's loss; called inside the train step.

  Args:
    state: the policy's state.
    domain: the domain that the step trained.
    loss: its teacher classification loss, with margin, without smoothing.
  """
  return state.replace(
    loss_sums=state.loss_sums.at[domain].add(loss),
    counts=state.counts.at[domain].add(1),
  )


def reweight(state: SamplerState) -> SamplerState:
  """Turns the losses of the window into weights, and starts the next window."""
  seen = state.counts > 0
  means = jnp.where(seen, state.loss_sums / jnp.maximum(state.counts, 1), 0.0)
  shares = means / jnp.maximum(jnp.sum(means), jnp.finfo(jnp.float32).tiny)
  weights = jnp.where(seen, shares, state.weights)
  weights = jnp.where(jnp.sum(weights) > 0, weights, state.weights)
  return state.replace(
    loss_sums=jnp.zeros_like(state.loss_sums),
    counts=jnp.zeros_like(state.counts),
    weights=weights / jnp.sum(weights),
  )


def quotas(
  weights: Float[Array, "n"], *, num_steps: int, rounding: str
) -> Int[Array, "n"]:
  """Returns how many of `num_steps` steps each domain gets.

  Args:
    weights: they sum to 1.
    num_steps: E, what the quotas sum to.
    rounding: after int(E * w) steps each, the remainder goes one by one to
      the domains of "largest_fraction" (the first of equals), or all to the
      "last" domain, as in the official code.
  """
  if rounding not in ROUNDINGS:
    raise errors.UserError(
      f"config.sampler.rounding={rounding!r} is unknown; known: "
      f"{', '.join(ROUNDINGS)}"
    )
  exact = num_steps * weights
  whole = jnp.floor(exact).astype(jnp.int32)
  rest = num_steps - jnp.sum(whole)
  if rounding == "last":
    return whole.at[-1].add(rest)
  rank = jnp.argsort(jnp.argsort(whole - exact, stable=True), stable=True)
  n = weights.shape[0]
  return whole + rest // n + (rank < rest % n)


@functools.partial(
  jax.jit, static_argnames=("strategy", "num_steps", "rounding", "seed")
)
def enter_window(
  state: SamplerState,
  window: Int[Array, ""],
  *,
  strategy: str,
  num_steps: int,
  rounding: str,
  seed: int,
) -> tuple[SamplerState, Int[Array, "e"]]:
  """Plans a window of steps; jitted, with no look at the host.

  Entering a new window draws the weights from the one before; entering the
  window in progress again, after a restart, gives the same plan again.

  Args:
    state: the policy's state.
    window: the number k of the window.
    strategy: one of STRATEGIES.
    num_steps: E, the steps of a window.
    rounding: see `quotas`.
    seed: of the run; the order is drawn from (seed, k).

  Returns:
    The state in the window, and the domain of each of its steps.
  """
  if strategy == "dynamic":
    fresh = reweight(state)
    state = jax.tree.map(
      lambda new, old: jnp.where(window > state.window, new, old), fresh, state
    )
  n = state.weights.shape[0]
  in_turn = (window * num_steps + jnp.arange(num_steps)) % n
  key = jax.random.fold_in(jax.random.key(seed), _KEY_TAG)
  drawn = jax.random.permutation(
    jax.random.fold_in(key, window),
    jnp.repeat(
      jnp.arange(n),
      quotas(state.weights, num_steps=num_steps, rounding=rounding),
      total_repeat_length=num_steps,
    ),
  )
  takes_turns = strategy == "round_robin" or (
    strategy == "dynamic" and window == 0
  )
  plan = jnp.where(takes_turns, in_turn, drawn).astype(jnp.int32)
  return state.replace(window=jnp.asarray(window, jnp.int32)), plan
