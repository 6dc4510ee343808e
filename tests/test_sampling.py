"""Laws of the sampling policy."""

import functools

import hypothesis
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.oracles import sampling as oracle
from udon_jax import errors, partitioning, sampling

E, N, SEED = 22, 5, 3  # a window is no multiple of the domains
# Shapes stay the same over examples, so that nothing is compiled twice.
WEIGHTS = st.lists(
  st.floats(0.0, 1.0, width=32), min_size=N, max_size=N
).filter(lambda x: sum(x) > 1e-3)
law = hypothesis.settings(max_examples=40, deadline=None)


def unit(weights):
  x = np.asarray(weights, np.float64)
  return (x / x.sum()).astype(np.float32)


@functools.partial(jax.jit, static_argnames=("num_steps", "rounding"))
def jitted_quotas(weights, *, num_steps, rounding):
  return sampling.quotas(weights, num_steps=num_steps, rounding=rounding)


def enter(state, window, **changes):
  options = {
    "strategy": "dynamic",
    "num_steps": E,
    "rounding": "largest_fraction",
    "seed": SEED,
    **changes,
  }
  state, plan = sampling.enter_window(state, jnp.int32(window), **options)
  return state, np.asarray(plan)


def in_window(weights, window=0, *, sums=None, counts=None):
  state = sampling.init(unit(weights))
  return state.replace(
    window=jnp.int32(window),
    loss_sums=jnp.asarray(np.zeros(N) if sums is None else sums, jnp.float32),
    counts=jnp.asarray(np.zeros(N) if counts is None else counts, jnp.int32),
  )


@pytest.mark.parametrize("num_steps", [1, 7, 1000])
@law
@hypothesis.given(WEIGHTS)
def test_quotas_share_out_every_step(num_steps, weights):
  weights = unit(weights)
  exact = num_steps * weights
  for rounding in sampling.ROUNDINGS:
    found = np.asarray(
      jitted_quotas(weights, num_steps=num_steps, rounding=rounding)
    )
    assert found.sum() == num_steps
    np.testing.assert_array_equal(
      found, oracle.quotas(exact.tolist(), num_steps, rounding)
    )
    if rounding == "largest_fraction":
      assert (found >= np.floor(exact)).all()
      assert (found <= np.floor(exact) + 1).all()
    else:
      np.testing.assert_array_equal(found[:-1], np.floor(exact)[:-1])


def test_the_first_of_equal_fractions_takes_the_remainder():
  for rounding, expected in (
    ("largest_fraction", [2, 2, 1, 1, 1]),
    ("last", [1, 1, 1, 1, 3]),
  ):
    found = jitted_quotas(unit([1] * N), num_steps=7, rounding=rounding)
    np.testing.assert_array_equal(found, expected)


def test_unknown_rounding_is_named():
  with pytest.raises(errors.UserError, match=r"rounding='up' is unknown"):
    sampling.quotas(unit([1] * N), num_steps=7, rounding="up")


@law
@hypothesis.given(
  WEIGHTS,
  st.lists(st.integers(0, 9), min_size=N, max_size=N),
  st.lists(st.floats(0.0625, 20.0, width=32), min_size=N, max_size=N),
)
def test_weights_follow_the_mean_losses_of_the_domains_seen(
  weights, counts, means
):
  weights, seen = unit(weights), np.asarray(counts) > 0
  sums = np.asarray(means) * counts
  state = jax.jit(sampling.reweight)(
    in_window(weights, sums=sums, counts=counts)
  )
  found = np.asarray(state.weights)
  np.testing.assert_allclose(
    found, oracle.reweight(sums, counts, weights.tolist()), rtol=1e-5, atol=1e-7
  )
  np.testing.assert_allclose(found.sum(), 1.0, rtol=1e-5)
  if seen.any():  # between the domains seen, in proportion to the mean loss
    ratio = found[seen] / np.asarray(means)[seen]
    np.testing.assert_allclose(ratio, ratio[0], rtol=1e-4)
    ratio = found[~seen & (weights > 1e-6)] / weights[~seen & (weights > 1e-6)]
    np.testing.assert_allclose(ratio, ratio[:1].repeat(len(ratio)), rtol=1e-4)
  else:
    np.testing.assert_allclose(found, weights, rtol=1e-6)
  assert not state.loss_sums.any()
  assert not state.counts.any()


def test_losses_of_zero_change_nothing():
  """Every domain is perfect: there is nothing to prefer."""
  weights = [1, 2, 3, 4, 5]
  state = sampling.reweight(in_window(weights, counts=[2] * N))
  np.testing.assert_allclose(state.weights, unit(weights), rtol=1e-6)


def test_record_notes_one_step():
  state = sampling.init(unit([1] * N))
  for domain, loss in ((3, 2.0), (0, 1.5), (3, 0.25)):
    state = jax.jit(sampling.record)(state, jnp.int32(domain), loss)
  np.testing.assert_array_equal(state.counts, [1, 0, 0, 2, 0])
  np.testing.assert_array_equal(state.loss_sums, [1.5, 0, 0, 2.25, 0])


@pytest.mark.parametrize("window", [0, 1, 5])
def test_round_robin_goes_on_over_windows(window):
  _, plan = enter(in_window([1] * N), window, strategy="round_robin")
  np.testing.assert_array_equal(plan, (window * E + np.arange(E)) % N)


@pytest.mark.parametrize("strategy", sampling.STRATEGIES)
@pytest.mark.parametrize("rounding", sampling.ROUNDINGS)
def test_plan_holds_the_quota_of_every_domain(strategy, rounding):
  weights = [0.31, 0.1, 0.02, 0.4, 0.17]
  _, plan = enter(
    in_window(weights, window=2), 2, strategy=strategy, rounding=rounding
  )
  if strategy == "round_robin":
    expected = np.bincount((2 * E + np.arange(E)) % N)
  else:
    expected = oracle.quotas((E * unit(weights)).tolist(), E, rounding)
  np.testing.assert_array_equal(np.bincount(plan, minlength=N), expected)


def test_dynamic_starts_in_turn():
  _, plan = enter(sampling.init(unit([1, 2, 3, 4, 5])), 0)
  np.testing.assert_array_equal(plan, np.arange(E) % N)


@law
@hypothesis.given(
  WEIGHTS,
  st.lists(st.integers(0, 9), min_size=N, max_size=N),
  st.lists(st.floats(0.0625, 20.0, width=32), min_size=N, max_size=N),
  st.integers(0, 1000),
)
def test_entering_a_window_again_gives_the_same_plan(
  weights, counts, means, window
):
  """A restart within the window has noted losses of it: they must wait."""
  before = in_window(
    weights, window, sums=np.asarray(means) * counts, counts=counts
  )
  state, plan = enter(before, window + 1)
  for domain in (1, 1, 4):
    state = sampling.record(state, domain, 3.0)
  again, same = enter(state, window + 1)
  np.testing.assert_array_equal(plan, same)
  jax.tree.map(np.testing.assert_array_equal, again, state)
  assert int(state.window) == window + 1


def test_order_is_a_function_of_seed_and_window():
  def plan(window, seed):
    state = in_window([1, 2, 3, 4, 5], window=window)
    return enter(state, window, seed=seed)[1].tolist()

  plans = {(w, s): plan(w, s) for w in (1, 2, 3) for s in (0, 1)}
  assert plans == {(w, s): plan(w, s) for w, s in plans}
  assert len({tuple(p) for p in plans.values()}) == len(plans)


def test_one_program_plans_all_windows():
  state = sampling.init(unit([1] * N))
  enter(state, 0, seed=77)
  before = sampling.enter_window._cache_size()
  for window in range(1, 5):
    state, _ = enter(state, window, seed=77)
  assert sampling.enter_window._cache_size() == before


def test_replicated_state_gives_the_same_plan():
  mesh = partitioning.make_mesh(data=8, fsdp=1)
  state = in_window([1, 2, 3, 4, 5], 1, sums=[3, 1, 0, 7, 2], counts=[1] * N)
  everywhere = partitioning.put_replicated(jax.device_get(state), mesh)
  expected, plan = enter(state, 2)
  found, same = sampling.enter_window(
    everywhere,
    partitioning.put_replicated(np.int32(2), mesh),
    strategy="dynamic",
    num_steps=E,
    rounding="largest_fraction",
    seed=SEED,
  )
  np.testing.assert_array_equal(plan, same)
  np.testing.assert_allclose(expected.weights, found.weights, rtol=1e-6)
  assert found.weights.sharding.is_fully_replicated


def test_three_windows_follow_the_oracle_and_end_ordered_as_the_losses():
  """Domain i loses i + 1 on average, with noise."""
  rng = np.random.default_rng(0)
  state = sampling.init(unit([1] * N))
  weights = [1 / N] * N
  sums, counts = np.zeros(N), np.zeros(N)
  for window in range(3):
    state, plan = enter(state, window)
    if window:
      weights = oracle.reweight(sums, counts, weights)
    np.testing.assert_allclose(state.weights, weights, rtol=1e-5)
    if window:
      expected = oracle.quotas([E * w for w in weights], E, "largest_fraction")
      np.testing.assert_array_equal(np.bincount(plan, minlength=N), expected)
    sums, counts = np.zeros(N), np.zeros(N)
    for domain in plan:
      loss = domain + 1 + rng.uniform(-0.3, 0.3)
      state = sampling.record(state, jnp.int32(domain), jnp.float32(loss))
      sums[domain] += loss
      counts[domain] += 1
  assert (np.diff(state.weights) > 0).all()


@pytest.mark.parametrize(
  "strategy, expected",
  [
    ("dynamic", [0.25] * 4),
    ("round_robin", [0.25] * 4),
    ("balanced", [0.25] * 4),
    ("dataset_size", [0.1, 0.2, 0.3, 0.4]),
    ("specialist_top_steps", [0.5, 0.0, 0.0, 0.5]),
  ],
)
def test_initial_weights(strategy, expected):
  found = sampling.initial_weights(
    strategy, num_examples=[10, 20, 30, 40], allocation=(3, 0, 0, 3)
  )
  np.testing.assert_allclose(found, expected, rtol=1e-6)
  assert found.dtype == np.float32


@pytest.mark.parametrize("allocation", [(), (1, 2), (1, -1, 1), (0, 0, 0)])
def test_an_allocation_that_does_not_fit_is_named(allocation):
  with pytest.raises(errors.UserError, match=r"config.sampler.allocation=\("):
    sampling.initial_weights(
      "specialist_top_steps", num_examples=[1, 1, 1], allocation=allocation
    )


def test_unknown_strategy_is_named():
  with pytest.raises(errors.UserError, match=r"config.sampler.strategy='luck'"):
    sampling.initial_weights("luck", num_examples=[1], allocation=())
