"""AdamW's updates of a domain that was not trained for a while, in one pass.

AdamW moves parameters whose gradient is zero too: by their moments, which
decay, and by weight decay. After u updates, k more with zero gradients give

  mu'    = b1^k mu
  nu'    = b2^k nu
  param' = D_k param - mu * sum_j a_j / (sqrt(nu) x_j + eps),    j = 1..k
    a_j = rate_(u+j) b1^j / (1 - b1^(u+j)) * D_k / D_j
    x_j = sqrt(b2^j / (1 - b2^(u+j)))
    D_j = product over i = 1..j of (1 - rate_(u+i) * weight_decay)

where a_j and x_j are the same for all parameters. The sum is expanded about the
mean of the x_j, weighted by the a_j: with d = sqrt(nu) mean + eps,
q = sqrt(nu) mean / d in 0..1 and y_j = x_j / mean - 1,

  sum_j a_j / (d (1 + q y_j)) = A/d * (1 + q^2 M_2 - q^3 M_3 + ...)

where M_n are the weighted means of y_j^n, so that one pass over the parameters
is enough. While the x_j lie far apart, as early in a run, the sum is taken term
by term.

Source: AdamW (arXiv 1711.05101), alg. 2, as optax computes it.
Shape legend: j terms.
"""

from collections.abc import Callable
import dataclasses
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int
import numpy as np

Schedule = Callable[[Int[Array, "..."]], Float[Array, "..."]]

_ORDER = 6  # of the expansion
# The expansion is used if the first of its terms that are left out is less.
_MAX_TERM = 1e-7
# Terms whose b1^j is below this are left out.
_MIN_POWER = 1e-17


@dataclasses.dataclass(frozen=True)
class AdamW:
  """The optimizer of the prototypes; rates by the number of the update."""

  schedule: Schedule
  b1: float
  b2: float
  eps: float
  weight_decay: float

  @property
  def num_terms(self) -> int:
    """Terms of the sum that matter."""
    if self.b1 < _MIN_POWER:
      return 1
    return max(1, math.ceil(math.log(_MIN_POWER) / math.log(self.b1)))


class Scalars(NamedTuple):
  """What k updates do to every parameter alike.

  Attributes:
    decays: of param, mu and nu.
    weights: a_j.
    roots: x_j.
    num_terms: terms that are summed one by one; 0 if the expansion is used.
    total: A, the sum of the weights.
    mean: weighted mean of the roots.
    moments: M_1, M_2, M_3, ...; the first is what rounding leaves of 0.
  """

  decays: tuple[Float[Array, ""], Float[Array, ""], Float[Array, ""]]
  weights: Float[Array, "j"]
  roots: Float[Array, "j"]
  num_terms: Int[Array, ""]
  total: Float[Array, ""]
  mean: Float[Array, ""]
  moments: tuple[Float[Array, ""], ...]


def scalars(
  adamw: AdamW,
  *,
  updated: Int[Array, ""],
  gap: Int[Array, ""],
  dtype: np.dtype,
) -> Scalars:
  """Returns what a number of updates with zero gradients do.

  Args:
    adamw: the optimizer.
    updated: number of the last update made.
    gap: number of updates to make up for.
    dtype: of the parameters.
  """
  j = np.arange(1, adamw.num_terms + 1)
  counts = updated + jnp.asarray(j, jnp.int32)
  inside = jnp.asarray(j, jnp.int32) <= gap
  rates = jnp.broadcast_to(jax.vmap(adamw.schedule)(counts), j.shape)
  rates = rates.astype(dtype)
  log_decay = _log_decay(adamw, updated=updated, gap=gap, dtype=dtype)
  if adamw.weight_decay:
    steps = jnp.log1p(-rates * adamw.weight_decay)
    after = jnp.exp(log_decay - jnp.cumsum(steps))
  else:
    after = jnp.ones_like(rates)
  b1_powers = jnp.asarray(np.float64(adamw.b1) ** j, dtype)
  b2_powers = jnp.asarray(np.float64(adamw.b2) ** j, dtype)
  weights = (
    rates * after * b1_powers / _one_minus_power(adamw.b1, counts, dtype)
  )
  weights = jnp.where(inside, weights, 0.0)
  roots = jnp.sqrt(b2_powers / _one_minus_power(adamw.b2, counts, dtype))
  total = _sum(weights)
  share = weights / jnp.where(total > 0.0, total, 1.0)
  mean = _sum(share * roots)
  spread = roots / jnp.where(mean > 0.0, mean, 1.0) - 1.0
  moments = tuple(_sum(share * spread**order) for order in range(1, _ORDER + 1))
  left_out = _sum(share * jnp.abs(spread) ** (_ORDER + 1))
  return Scalars(
    decays=(
      jnp.exp(log_decay),
      _power(adamw.b1, gap, dtype),
      _power(adamw.b2, gap, dtype),
    ),
    weights=weights,
    roots=roots,
    num_terms=jnp.where(
      left_out < _MAX_TERM, 0, jnp.minimum(gap, adamw.num_terms)
    ),
    total=total,
    mean=mean,
    moments=moments,
  )


def apply(
  adamw: AdamW, by: Scalars, block: Float[Array, "3 d r"]
) -> Float[Array, "3 d r"]:
  """Returns (param, mu, nu) after the updates."""
  param, mu, nu = block
  root = jnp.sqrt(nu)

  def add_term(i, total):
    j = by.num_terms - 1 - i  # the smallest first, to lose no digits
    return total + by.weights[j] / (root * by.roots[j] + adamw.eps)

  one_by_one = jax.lax.fori_loop(0, by.num_terms, add_term, root * 0.0)
  denominator = root * by.mean + adamw.eps
  q = root * by.mean / denominator
  series = jnp.zeros_like(q)
  for moment in reversed(by.moments):
    series = q * (moment - series)
  expanded = by.total / denominator * (1.0 - series)
  moved = mu * jnp.where(by.num_terms > 0, one_by_one, expanded)
  decays = by.decays
  return jnp.stack([param * decays[0] - moved, mu * decays[1], nu * decays[2]])


def _sum(x: Float[Array, "j"]) -> Float[Array, ""]:
  """Returns the sum, by halves: it loses fewer digits than one by one."""
  length = 1 << (x.shape[0] - 1).bit_length()
  x = jnp.pad(x, (0, length - x.shape[0]))
  while length > 1:
    length //= 2
    x = x[:length] + x[length:]
  return x[0]


def _log_decay(
  adamw: AdamW, *, updated: Int[Array, ""], gap: Int[Array, ""], dtype: np.dtype
) -> Float[Array, ""]:
  """Returns the logarithm of what weight decay leaves of the parameters."""
  if not adamw.weight_decay:
    return jnp.zeros((), dtype)
  length = adamw.num_terms

  def add_part(i, total):
    after = i * length + jnp.arange(1, length + 1, dtype=jnp.int32)
    rates = jax.vmap(adamw.schedule)(updated + after)
    steps = jnp.log1p(-rates.astype(dtype) * adamw.weight_decay)
    return total + jnp.sum(jnp.where(after <= gap, steps, 0.0))

  num_parts = (gap + length - 1) // length
  return jax.lax.fori_loop(0, num_parts, add_part, jnp.zeros((), dtype))


def _log_parts(base: float) -> tuple[float, float]:
  """Returns the logarithm as a sum: a number of few bits, and the rest.

  The product of a count below 8192 with the first has no rounding.
  """
  log = math.log(base)
  mantissa, exponent = math.frexp(log)
  high = math.ldexp(round(mantissa * 2**11) / 2**11, exponent)
  return high, log - high


def _power(
  base: float, count: Int[Array, "..."], dtype: np.dtype
) -> Float[Array, "..."]:
  """Returns base**count, to the last bits also where count is large."""
  if not base:
    return (count == 0).astype(dtype)
  high, low = _log_parts(base)
  n = count.astype(dtype)
  return jnp.exp(n * high) * jnp.exp(n * low)


def _one_minus_power(
  base: float, count: Int[Array, "..."], dtype: np.dtype
) -> Float[Array, "..."]:
  """Returns 1 - base**count for counts above 0."""
  if not base:
    return jnp.ones(count.shape, dtype)
  high, low = _log_parts(base)
  n = count.astype(dtype)
  return -jnp.expm1(n * high + n * low)
