"""Many updates with zero gradients in one pass, against one by one."""

import functools

from hypothesis import given, settings
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from udon_jax import optim
from udon_jax.prototypes import catch_up

B1, B2, EPS = 0.9, 0.999, 1e-8


def draw(seed, size=1000):
  """Returns parameters and moments as training has them, of any size."""
  rng = np.random.default_rng(seed)
  nu = 10.0 ** rng.uniform(-20, -5, size)
  mu = np.sqrt(nu) * rng.normal(size=size) * 10.0 ** rng.uniform(-2, 0, size)
  param = rng.normal(size=size) * 0.06
  return np.stack([param, mu, nu]).astype(np.float32)


def one_by_one(block, adamw, *, updated, gap, rates):
  """AdamW in float64, a step at a time."""
  param, mu, nu = block.astype(np.float64)
  for count in range(updated + 1, updated + gap + 1):
    rate = rates[count]
    mu, nu = adamw.b1 * mu, adamw.b2 * nu
    step = mu / (1 - adamw.b1**count)
    step /= np.sqrt(nu / (1 - adamw.b2**count)) + adamw.eps
    param = param - rate * (step + adamw.weight_decay * param)
  return np.stack([param, mu, nu])


def make(schedule, weight_decay, b1=B1, b2=B2):
  return catch_up.AdamW(
    schedule, b1=b1, b2=b2, eps=EPS, weight_decay=weight_decay
  )


@functools.partial(jax.jit, static_argnums=0)
def in_one_pass(adamw, block, updated, gap):
  by = catch_up.scalars(adamw, updated=updated, gap=gap, dtype=block.dtype)
  return catch_up.apply(adamw, by, block), by.num_terms


def ulps(found, exact, before):
  """Returns errors in units of the last place of the larger parameter."""
  unit = np.spacing(np.maximum(np.abs(before), np.abs(exact)).astype("f4"))
  return np.abs(found - exact) / unit


def check(adamw, *, updated, gap, most, seed=0):
  """Compares, and returns the number of terms summed one by one."""
  counts = jnp.arange(updated + gap + 1)
  rates = np.asarray(
    jnp.broadcast_to(jax.vmap(adamw.schedule)(counts), counts.shape),
    np.float64,
  )
  block = draw(seed)
  exact = one_by_one(block, adamw, updated=updated, gap=gap, rates=rates)
  found, num_terms = in_one_pass(
    adamw, jnp.asarray(block), jnp.int32(updated), jnp.int32(gap)
  )
  found = np.asarray(found, np.float64)
  assert ulps(found[0], exact[0], block[0]).max() <= most
  np.testing.assert_allclose(found[1], exact[1], rtol=3e-6, atol=1e-37)
  np.testing.assert_allclose(found[2], exact[2], rtol=1e-6, atol=1e-37)
  return int(num_terms)


SCHEDULES = {
  "constant": optim.make_schedule(
    "constant", peak=1e-3, num_steps=10**6, warmup_steps=0
  ),
  "cosine": optim.make_schedule(
    "cosine", peak=1e-3, num_steps=60_000, warmup_steps=100
  ),
}
CASES = {
  name: make(schedule, decay)
  for name, schedule, decay in (
    ("constant", SCHEDULES["constant"], 1e-6),
    ("cosine", SCHEDULES["cosine"], 1e-6),
    ("decay", SCHEDULES["cosine"], 0.1),
    ("no_decay", SCHEDULES["constant"], 0.0),
  )
}


@pytest.mark.parametrize("updated", [0, 1, 20, 200, 1000, 44_000])
@pytest.mark.parametrize("gap", [1, 8, 50, 400, 5000])
@pytest.mark.parametrize("case", CASES)
def test_any_gap_is_exact(case, gap, updated):
  """Within 10 units in the last place of float64, also for years of idling."""
  num_terms = check(CASES[case], updated=updated, gap=gap, most=10)
  if updated >= 200:
    assert num_terms == 0  # one pass is enough
  if updated == 1 and gap > 1:
    assert num_terms == min(gap, CASES[case].num_terms)


@pytest.mark.parametrize(
  "b1, b2", [(0.0, 0.999), (0.5, 0.9), (0.9, 0.95), (0.99, 0.999), (0.9, 0.0)]
)
@pytest.mark.parametrize("updated", [3, 5000])
def test_other_optimizers_are_exact(b1, b2, updated):
  """Where the moments decay too fast for one pass, it is not taken."""
  adamw = make(SCHEDULES["constant"], 1e-3, b1=b1, b2=b2)
  check(adamw, updated=updated, gap=70, most=10)


@settings(max_examples=25, deadline=None)
@given(
  case=st.sampled_from(sorted(CASES)),
  updated=st.integers(0, 3000),
  gap=st.integers(0, 700),
  seed=st.integers(0, 2**16),
)
def test_gaps_of_all_sizes(case, updated, gap, seed):
  check(CASES[case], updated=updated, gap=gap, most=10, seed=seed)


def test_two_gaps_are_one():
  adamw = CASES["decay"]
  block = jnp.asarray(draw(1))
  once, _ = in_one_pass(adamw, block, jnp.int32(300), jnp.int32(900))
  half, _ = in_one_pass(adamw, block, jnp.int32(300), jnp.int32(333))
  twice, _ = in_one_pass(adamw, half, jnp.int32(633), jnp.int32(567))
  for a, b in zip(once, twice, strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-9)


def test_what_was_never_trained_only_decays():
  adamw = CASES["decay"]
  block = draw(2)
  block[1:] = 0.0
  found, _ = in_one_pass(adamw, jnp.asarray(block), jnp.int32(0), jnp.int32(9))
  assert np.isfinite(found).all()
  assert not found[1:].any()
  rates = np.asarray(jax.vmap(adamw.schedule)(jnp.arange(1, 10)), np.float64)
  np.testing.assert_allclose(
    found[0], block[0] * np.prod(1 - rates * 0.1), rtol=1e-6
  )
