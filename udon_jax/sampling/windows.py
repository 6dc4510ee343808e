"""Our sampling policy: every window is planned by itself.

Window k covers steps kE + 1 .. (k + 1)E. Its weights come from all of window
k - 1: the domains seen share what is theirs in proportion to their mean loss,
the others keep their weight. Everything is a function of (state, window, seed),
so that a window can be planned again after a restart.

Sources: UDON (NeurIPS 2024), sec. 3.3; official implementation:
sampling_utils.py. Shape legend: n domains, e steps of a window.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from udon_jax import errors
from udon_jax.sampling import state as states

SamplerState = states.SamplerState

ROUNDINGS = ("largest_fraction", "last")
# Domains drawn with equal weights differ from other keys of the same seed.
_KEY_TAG = 0x5A3


@dataclasses.dataclass(frozen=True)
class Windows:
  """The policy of this module; see `state.Policy`.

  Attributes:
    strategy: one of STRATEGIES.
    update_every: E, the steps of a window.
    rounding: see `quotas`.
    seed: of the run.
  """

  strategy: str
  update_every: int
  rounding: str
  seed: int

  def locate(self, step: int) -> tuple[int, int]:
    """Returns the window of a step, and its place there."""
    return divmod(step - 1, self.update_every)

  def enter(
    self, state: SamplerState, window: Int[Array, ""]
  ) -> tuple[SamplerState, Int[Array, "e"]]:
    """Plans a window."""
    return enter_window(
      state,
      window,
      strategy=self.strategy,
      num_steps=self.update_every,
      rounding=self.rounding,
      seed=self.seed,
    )

  def record(
    self,
    state: SamplerState,
    domain: Int[Array, ""],
    loss: Float[Array, ""],
    *,
    step: Int[Array, ""],
  ) -> SamplerState:
    """Notes the loss of a step."""
    del step
    return states.record(state, domain, loss)


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
