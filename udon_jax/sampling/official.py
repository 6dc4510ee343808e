"""The sampling policy as the official code has it, step by step.

A schedule of the whole run stands from the start. The dynamic policy begins
with one that takes turns, and makes it anew before every step that is a
multiple of E: so window 0 holds steps 1 .. E - 1, window k steps
kE .. (k + 1)E - 1. The losses that weigh it are those since the logger was last
flushed, which an update does not do.

Source: official implementation: sampling_utils.py. Shape legend: n domains,
t steps of the run, e steps of a window.
"""

from collections.abc import Sequence
import dataclasses
import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from udon_jax.sampling import state as states
from udon_jax.sampling import windows

SamplerState = states.SamplerState


@dataclasses.dataclass(frozen=True)
class Official:
  """The policy of the official code; see `state.Policy`.

  Attributes:
    strategy: one of STRATEGIES.
    update_every: E, the steps of a window.
    num_steps: T, those of the run.
    shares: of every domain at the start, in float64.
    flush_every: L, the cadence of the logger that forgets the losses: after
      steps 1, L + 1, 2L + 1, ... and T (after 1 and T alone if L is 1). None
      where the strategy reads no losses.
  """

  strategy: str
  update_every: int
  num_steps: int
  shares: tuple[float, ...]
  flush_every: int | None

  def locate(self, step: int) -> tuple[int, int]:
    """Returns the window of a step, and its place there."""
    window = step // self.update_every
    return window, step - max(window * self.update_every, 1)

  def enter(
    self, state: SamplerState, window: Int[Array, ""]
  ) -> tuple[SamplerState, Int[Array, "e"]]:
    """Plans a window; the first one has a place more than steps."""
    return _enter(state, window, policy=self)

  def record(
    self,
    state: SamplerState,
    domain: Int[Array, ""],
    loss: Float[Array, ""],
    *,
    step: Int[Array, ""],
  ) -> SamplerState:
    """Notes the loss of a step, and forgets all after a flush."""
    state = states.record(state, domain, loss)
    if self.flush_every is None:
      return state
    flushed = step % self.flush_every == 1
    flushed |= (step == 1) | (step == self.num_steps)
    return state.replace(
      loss_sums=jnp.where(flushed, 0.0, state.loss_sums),
      counts=jnp.where(flushed, 0, state.counts),
    )


def allocate(shares: Sequence[float], num_steps: int) -> tuple[int, ...]:
  """Returns the steps of every domain: int(T * share), the last the rest."""
  counts = [int(num_steps * share) for share in shares[:-1]]
  return (*counts, num_steps - sum(counts))


def reweight(state: SamplerState) -> Float[Array, "n"]:
  """Returns the weights that the noted losses give.

  The domains seen share 1 in proportion to their mean loss, the others keep
  their weight; if there are such, all are divided by their sum. Where all
  losses are 0, of which the official code makes NaN, the weights stay.
  """
  seen = state.counts > 0
  means = jnp.where(seen, state.loss_sums / jnp.maximum(state.counts, 1), 0.0)
  total = _sum(means)
  weights = jnp.where(seen & (total > 0), _divide(means, total), state.weights)
  normalised = _divide(weights, _sum(weights))
  return jnp.where(jnp.all(seen), weights, normalised)


# int(T * w) hangs on the last bit of w, so both compute as a loop over floats
# does: XLA adds in an order of its own, and divides by a product with the
# reciprocal where a vector meets one divisor.


def _sum(x: Float[Array, "n"]) -> Float[Array, ""]:
  return functools.reduce(jnp.add, [x[i] for i in range(x.shape[0])])


def _divide(x: Float[Array, "n"], by: Float[Array, ""]) -> Float[Array, "n"]:
  return jnp.stack([x[i] / by for i in range(x.shape[0])])


@functools.partial(jax.jit, static_argnames="policy")
def _enter(
  state: SamplerState, window: Int[Array, ""], *, policy: Official
) -> tuple[SamplerState, Int[Array, "e"]]:
  """Plans a window: makes the schedule of the run, and takes its part."""
  size, every = policy.num_steps, policy.update_every
  n = state.weights.shape[0]
  if policy.strategy == "dynamic":
    state = state.replace(
      weights=jnp.where(window > state.window, reweight(state), state.weights)
    )
  schedule = jnp.arange(size) % n
  if policy.strategy != "round_robin":
    is_dynamic = policy.strategy == "dynamic"
    if is_dynamic:
      counts = windows.quotas(state.weights, num_steps=size, rounding="last")
    else:
      counts = jnp.asarray(allocate(policy.shares, size))
    drawn = jax.random.permutation(
      jax.random.PRNGKey(window * every if is_dynamic else 0),
      jnp.repeat(jnp.arange(n), counts, total_repeat_length=size),
    )
    in_turn = (window == 0) if is_dynamic else False
    schedule = jnp.where(in_turn, schedule, drawn)
  plan = jax.lax.dynamic_slice_in_dim(
    jnp.pad(schedule, (0, every)), jnp.maximum(window * every - 1, 0), every
  )
  state = state.replace(window=jnp.asarray(window, jnp.int32))
  return state, plan.astype(jnp.int32)
