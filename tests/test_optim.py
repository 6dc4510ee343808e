"""AdamW by groups against optax, and rates over time."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from udon_jax import errors, optim

STEPS = 12
RATES = {"backbone": 1e-2, "heads": 3e-2}
PATTERNS = {"backbone": "backbone/.*", "heads": "head/.*"}
EXACT = {"rtol": 1e-12, "atol": 1e-14}


def adamw(*, schedules=None, patterns=None, clip=None):
  patterns = patterns or PATTERNS
  schedules = schedules or {
    name: optax.constant_schedule(rate) for name, rate in RATES.items()
  }
  return optim.AdamW(
    groups={
      name: optim.Group(pattern, schedules[name])
      for name, pattern in patterns.items()
    },
    b1=0.9,
    b2=0.99,
    eps=1e-8,
    weight_decay=0.1,
    grad_clip_norm=clip,
  )


def plain(rate):
  return optax.adamw(rate, b1=0.9, b2=0.99, eps=1e-8, weight_decay=0.1)


def tree(seed):
  rng = np.random.default_rng(seed)
  return {
    "backbone": {
      "a": {"kernel": jnp.asarray(rng.normal(size=(3, 4)))},
      "bias": jnp.asarray(rng.normal(size=4)),
    },
    "head": {"kernel": jnp.asarray(rng.normal(size=(4, 2)))},
  }


def assert_close(a, b, **tolerance):
  jax.tree.map(functools.partial(np.testing.assert_allclose, **tolerance), a, b)


@pytest.fixture(autouse=True)
def in_float64():
  with jax.enable_x64(True):
    yield


def run(optimizer, params, *, frozen_steps=0, scale=1.0):
  """Takes steps with gradients of a fixed seed; yields (params, state)."""
  update = jax.jit(optimizer.update, static_argnames="frozen")
  state = optimizer.init(params)
  for step in range(1, STEPS + 1):
    grads = jax.tree.map(lambda g: g * scale, tree(100 + step))
    params, state, _ = update(
      grads,
      state,
      params,
      step=jnp.int32(step),
      frozen=("backbone",) if step <= frozen_steps else (),
    )
    yield params, state


def run_plain(params, name, rate, *, first=1):
  """Yields the parameters of one part, trained by optax alone."""
  optimizer = plain(rate)
  update = jax.jit(optimizer.update)
  state = optimizer.init(params)
  for step in range(first, STEPS + 1):
    updates, state = update(tree(100 + step)[name], state, params)
    params = optax.apply_updates(params, updates)
    yield params


def test_every_group_is_optax_adamw():
  start = tree(0)
  expected = zip(
    run_plain(start["backbone"], "backbone", RATES["backbone"]),
    run_plain(start["head"], "head", RATES["heads"]),
    strict=True,
  )
  for (params, _), (backbone, head) in zip(
    run(adamw(), start), expected, strict=True
  ):
    assert_close(params, {"backbone": backbone, "head": head}, **EXACT)


def test_rates_follow_the_step_of_the_run():
  """optax counts from 0, we from 1."""
  start = tree(0)
  ours = optax.linear_schedule(0.0, 1.0, STEPS)
  schedules = {"backbone": ours, "heads": ours}
  theirs = run_plain(start["head"], "head", lambda count: ours(count + 1))
  for (params, _), head in zip(
    run(adamw(schedules=schedules), start), theirs, strict=True
  ):
    assert_close(params["head"], head, **EXACT)


def test_a_frozen_group_stays_and_starts_at_the_thaw():
  start, frozen_steps = tree(0), 5
  fresh = adamw().init(start)["backbone"]
  thawed = run_plain(
    start["backbone"], "backbone", RATES["backbone"], first=frozen_steps + 1
  )
  heads = run_plain(start["head"], "head", RATES["heads"])
  steps = run(adamw(), start, frozen_steps=frozen_steps)
  for step, ((params, state), head) in enumerate(
    zip(steps, heads, strict=True), 1
  ):
    if step <= frozen_steps:
      assert_close(params["backbone"], start["backbone"], atol=0)
      assert_close(state["backbone"], fresh, atol=0)
    else:
      assert_close(params["backbone"], next(thawed), **EXACT)
    assert_close(params["head"], head, **EXACT)
  assert next(thawed, None) is None
  counts = {
    name: [int(x) for x in jax.tree.leaves(s) if x.dtype == np.int32]
    for name, s in state.items()
  }
  assert counts == {"backbone": [STEPS - frozen_steps], "heads": [STEPS]}


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_clipping_is_that_of_the_global_norm(scale):
  start, bound = tree(0), 2.0
  grads = jax.tree.map(lambda g: g * scale, tree(1))
  clip = optax.clip_by_global_norm(bound)
  clipped, _ = clip.update(grads, clip.init(start))
  with_bound, without = adamw(clip=bound), adamw()
  ours, _, norm = with_bound.update(
    grads, with_bound.init(start), start, step=jnp.int32(1)
  )
  expected, _, _ = without.update(
    clipped, without.init(start), start, step=jnp.int32(1)
  )
  assert_close(ours, expected, rtol=1e-6)
  np.testing.assert_allclose(norm, optax.tree.norm(grads), rtol=1e-6)


def test_a_first_step_shows_the_clipped_gradient():
  """The moments hold it, where AdamW's own scaling hides it."""
  start, bound = tree(0), 2.0
  optimizer = adamw(clip=bound)
  grads = jax.tree.map(lambda g: 100 * g, tree(1))
  _, state, _ = optimizer.update(
    grads, optimizer.init(start), start, step=jnp.int32(1)
  )
  (mu,) = (
    s.inner_state[0].mu["head"]["kernel"]
    for name, s in state.items()
    if name == "heads"
  )
  scale = bound / optax.tree.norm(grads)
  assert_close(mu, 0.1 * scale * grads["head"]["kernel"], rtol=1e-6)


def test_a_group_that_is_held_back_stays_while_its_moments_go_on():
  """As in optax, whose count is 0 at the first step."""
  start, held = tree(0), 5
  constant = optax.constant_schedule(RATES["backbone"])
  schedules = {
    "backbone": optim.hold_back(constant, held),
    "heads": optax.constant_schedule(RATES["heads"]),
  }
  theirs = run_plain(
    start["backbone"],
    "backbone",
    lambda count: RATES["backbone"] * jnp.where(held - 1 >= count, 0, 1),
  )
  for step, ((params, state), backbone) in enumerate(
    zip(run(adamw(schedules=schedules), start), theirs, strict=True), 1
  ):
    assert_close(params["backbone"], backbone, **EXACT)
    if step <= held:
      assert_close(params["backbone"], start["backbone"], rtol=0, atol=0)
    assert int(state["backbone"].inner_state[0].count) == step


def test_the_norm_of_frozen_groups_does_not_count():
  start, optimizer = tree(0), adamw()
  _, _, norm = optimizer.update(
    tree(1),
    optimizer.init(start),
    start,
    step=jnp.int32(1),
    frozen=("backbone",),
  )
  np.testing.assert_allclose(norm, optax.tree.norm(tree(1)["head"]))


@pytest.mark.parametrize(
  "patterns, message",
  [
    ({"backbone": "backbone/.*"}, r"parameter head/kernel .* is in \[\]"),
    (
      {"backbone": "backbone/.*", "heads": ".*"},
      r"backbone/a/kernel .* is in \['backbone', 'heads'\]",
    ),
    (
      {"backbone": "backbone/.*", "heads": "head/.*", "old": "classifier/.*"},
      r"groups without parameters: \['old'\]",
    ),
    ({"all": "kernel"}, r"backbone/a/kernel"),  # part of a path is no match
  ],
)
def test_groups_must_cover_every_parameter_once(patterns, message):
  groups = {
    name: optim.Group(pattern, optax.constant_schedule(1.0))
    for name, pattern in patterns.items()
  }
  with pytest.raises(ValueError, match=message):
    optim.assign_groups(tree(0), groups)


def rate(name, step, **changes):
  options = {"peak": 0.4, "num_steps": 100, "warmup_steps": 0, **changes}
  return float(optim.make_schedule(name, **options)(jnp.int32(step)))


@pytest.mark.parametrize("step", [1, 50, 100])
def test_constant_rate(step):
  assert rate("constant", step) == pytest.approx(0.4)


@pytest.mark.parametrize("name", optim.SCHEDULES)
def test_warm_up_is_linear_and_reaches_the_peak(name):
  for step, expected in ((1, 0.02), (10, 0.2), (20, 0.4)):
    assert rate(name, step, warmup_steps=20) == pytest.approx(expected)


@pytest.mark.parametrize("warmup", [0, 20])
def test_cosine_falls_from_the_peak_to_zero_at_the_last_step(warmup):
  left = 100 - warmup
  for step in (warmup + 1, warmup + left // 2, 99, 100):
    part = (step - warmup) / left
    expected = 0.4 * 0.5 * (1 + np.cos(np.pi * part))
    found = rate("cosine", step, warmup_steps=warmup)
    assert found == pytest.approx(expected, abs=1e-7)
  assert rate("cosine", 100, warmup_steps=warmup) == pytest.approx(0, abs=1e-9)


def test_unknown_schedule_is_named():
  with pytest.raises(errors.UserError, match=r"optimizer.schedule='step'"):
    rate("step", 1)


@pytest.mark.parametrize("warmup", [-1, 100, 101])
def test_a_warm_up_must_be_shorter_than_the_run(warmup):
  with pytest.raises(errors.UserError, match=rf"warmup_steps={warmup}"):
    rate("constant", 1, warmup_steps=warmup)
