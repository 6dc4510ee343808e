"""The official sampling policy is the host loop of its description."""

import functools

import hypothesis
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.oracles import official_sampling as oracle
from udon_jax import partitioning, sampling
from udon_jax.sampling import official

# Every drawn size compiles two small programs.
law = hypothesis.settings(max_examples=20, deadline=None)
# Their sums are exact, so that the last bit of a weight is that of a host loop.
LOSS = st.integers(1, 512).map(lambda x: x / 32)


def make(**changes):
  return sampling.Official(
    **{
      "strategy": "dynamic",
      "update_every": 6,
      "num_steps": 40,
      "shares": (0.25,) * 4,
      "flush_every": 7,
      **changes,
    }
  )


@functools.partial(jax.jit, static_argnames="policy")
def record(state, domain, loss, step, *, policy):
  return policy.record(state, domain, loss, step=step)


def start(policy):
  return sampling.init(np.asarray(policy.shares, np.float32))


def drive(policy, state, losses, *, first=1, last=None):
  """Takes steps as the training loop does.

  Returns:
    The state after the last one, the domains trained, and {step: weights} of
    the windows that were planned.
  """
  trained, weights, plan = [], {}, None
  for step in range(first, (last or policy.num_steps) + 1):
    window, place = policy.locate(step)
    if plan is None or place == 0:
      state, plan = policy.enter(state, jnp.int32(window))
      weights[step] = np.asarray(state.weights)
      plan = np.asarray(plan)
    trained.append(int(plan[place]))
    state = record(
      state,
      jnp.int32(trained[-1]),
      jnp.float32(losses[step - 1]),
      jnp.int32(step),
      policy=policy,
    )
  return state, trained, weights


def assert_is_the_host_loop(policy, losses):
  """Returns the state after the run, and the domains trained."""
  n, steps = len(policy.shares), policy.num_steps
  host = oracle.Dynamic(
    num_domains=n,
    num_steps=steps,
    update_every=policy.update_every,
    flush_every=policy.flush_every,
  )
  expected = host.run(losses)
  end, trained, weights = drive(policy, start(policy), losses)
  updates = {step: (w, counts) for step, w, counts in host.updates}
  first = {1} if policy.update_every > 1 else set()
  assert updates.keys() == weights.keys() - first
  for step, (w, counts) in updates.items():
    np.testing.assert_allclose(weights[step], w, rtol=1e-6)
    found = sampling.quotas(
      jnp.asarray(weights[step]), num_steps=steps, rounding="last"
    )
    np.testing.assert_array_equal(found, counts)
  assert trained == expected
  return end, trained


@pytest.mark.slow
@law
@hypothesis.given(st.data())
def test_dynamic_is_the_host_loop_and_a_restart_changes_nothing(data):
  n = data.draw(st.integers(1, 5), "n")
  steps = data.draw(st.integers(1, 60), "T")
  policy = make(
    update_every=data.draw(st.integers(1, 15), "E"),
    num_steps=steps,
    shares=(1 / n,) * n,
    flush_every=data.draw(st.integers(1, 20), "L"),
  )
  losses = data.draw(st.lists(LOSS, min_size=steps, max_size=steps), "losses")
  end, trained = assert_is_the_host_loop(policy, losses)

  cut = data.draw(st.integers(1, steps), "cut")
  state, *_ = drive(policy, start(policy), losses, last=cut)
  again, rest, _ = drive(policy, jax.device_get(state), losses, first=cut + 1)
  assert rest == trained[cut:]
  jax.tree.map(np.testing.assert_array_equal, again, end)


@pytest.mark.parametrize("every", [1, 3])
def test_the_last_bit_of_a_weight_decides(every):
  """Steps of weights 1/3, 1/3 and 1, normalised: 5 of 0.2, from below or not.

  A product with the reciprocal of the sum would give 0 of them.
  """
  policy = make(
    update_every=every, num_steps=5, shares=(1 / 3,) * 3, flush_every=1
  )
  assert_is_the_host_loop(policy, [1 / 32] * 5)


def test_the_losses_of_the_papers_windows():
  """A logger every 2211 steps, an update every 1000."""
  policy = make(update_every=1000, num_steps=221_180, flush_every=2211)

  def add(state, step):
    return policy.record(state, 0, step.astype(jnp.float32), step=step), None

  def noted(last):
    steps = jnp.arange(1, last + 1)
    state = jax.jit(lambda: jax.lax.scan(add, start(policy), steps)[0])()
    return int(state.counts[0]), float(state.loss_sums[0])

  for update, steps in (
    (1000, range(2, 1000)),
    (2000, range(2, 2000)),
    (3000, range(2213, 3000)),
  ):
    count, total = noted(update - 1)
    assert count == len(steps)
    assert total == pytest.approx(sum(steps), rel=1e-6)


@pytest.mark.parametrize(
  ("flush_every", "flushed"),
  [
    (1, {1, 12}),  # no step is 1 modulo 1
    (2, {1, 3, 5, 7, 9, 11, 12}),
    (5, {1, 6, 11, 12}),
    (50, {1, 12}),
  ],
)
def test_the_logger_forgets_after_its_steps(flush_every, flushed):
  policy = make(num_steps=12, flush_every=flush_every)
  state, found = start(policy), set()
  for step in range(1, 13):
    state = record(
      state, jnp.int32(2), jnp.float32(1.5), jnp.int32(step), policy=policy
    )
    if not state.counts.any():
      assert not state.loss_sums.any()
      found.add(step)
  assert found == flushed


def test_an_update_forgets_nothing():
  policy = make(update_every=6, flush_every=1)
  losses = [2.0] * 40
  state, *_ = drive(policy, start(policy), losses, last=13)
  assert int(state.counts.sum()) == 12  # all but that of step 1


def test_an_absent_domain_keeps_its_weight_before_all_are_normalised():
  policy = make()
  state = start(policy).replace(
    weights=jnp.asarray([0.4, 0.3, 0.2, 0.1]),
    loss_sums=jnp.asarray([6.0, 0.0, 3.0, 0.0]),
    counts=jnp.asarray([2, 0, 3, 0]),
  )
  state, _ = policy.enter(state, jnp.int32(1))
  expected = np.asarray([0.75, 0.3, 0.25, 0.1]) / 1.4
  np.testing.assert_allclose(state.weights, expected, rtol=1e-6)


def test_losses_of_zero_change_nothing():
  """The official code would divide by zero."""
  policy = make()
  state = start(policy).replace(counts=jnp.full(4, 3))
  state, _ = policy.enter(state, jnp.int32(1))
  np.testing.assert_allclose(state.weights, [0.25] * 4, rtol=1e-6)


WEIGHTS = {
  "balanced": [1 / 3] * 3,
  # 29 % of 100 are 28.999999999999996 in float64, and 29 in float32.
  "dataset_size": [29 / 100, 40 / 100, 31 / 100],
  "specialist_top_steps": [0.5 / 4, 0.0, 3.5 / 4],
}


@pytest.mark.parametrize("strategy", WEIGHTS)
@pytest.mark.parametrize("num_steps", [1, 77, 100])
def test_static_strategies_are_drawn_once_for_the_run(strategy, num_steps):
  shares = sampling.shares(
    strategy, num_examples=(29, 40, 31), allocation=(0.5, 0.0, 3.5)
  )
  policy = make(
    strategy=strategy,
    num_steps=num_steps,
    shares=tuple(shares.tolist()),
    flush_every=None,
  )
  _, trained, weights = drive(policy, start(policy), [3.0] * num_steps)
  assert trained == oracle.static(WEIGHTS[strategy], num_steps)
  for found in weights.values():
    np.testing.assert_allclose(found, WEIGHTS[strategy], rtol=1e-6)


def test_round_robin_takes_turns_over_the_run():
  policy = make(strategy="round_robin", flush_every=None)
  _, trained, _ = drive(policy, start(policy), [1.0] * 40)
  assert trained == oracle.take_turns(4, 40)


@pytest.mark.parametrize("every", [1, 2, 5, 100])
def test_windows_cover_the_run_once(every):
  places = [make(update_every=every).locate(step) for step in range(1, 41)]
  assert len(set(places)) == 40
  for step, (window, place) in enumerate(places, 1):
    assert window == step // every
    assert 0 <= place < every
    assert (place == 0) == (step == 1 or step % every == 0)


def test_replicated_state_gives_the_same_plan():
  mesh = partitioning.make_mesh(data=8, fsdp=1)
  policy = make()
  state = start(policy).replace(
    loss_sums=jnp.asarray([3.0, 1.0, 0.0, 7.0]), counts=jnp.ones(4, jnp.int32)
  )
  expected, plan = policy.enter(state, jnp.int32(2))
  found, same = policy.enter(
    partitioning.put_replicated(jax.device_get(state), mesh),
    partitioning.put_replicated(np.int32(2), mesh),
  )
  np.testing.assert_array_equal(plan, same)
  np.testing.assert_array_equal(expected.weights, found.weights)
  assert found.weights.sharding.is_fully_replicated


def test_one_program_plans_all_windows():
  policy = make(update_every=5)
  state, _ = policy.enter(start(policy), jnp.int32(0))
  before = official._enter._cache_size()
  for window in range(1, 5):
    state, _ = policy.enter(state, jnp.int32(window))
  assert official._enter._cache_size() == before
