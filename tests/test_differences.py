"""Where we differ from the official code: what ours does.

The README lists the differences and names the test of each; those that belong
to one room are tested beside it, the others here.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import fakes, training
from udon_jax import errors, sampling, trainer
from udon_jax.pretrained import augreg


def enter(state, window, *, rounding="largest_fraction", num_steps=10, seed=0):
  return sampling.enter_window(
    state,
    jnp.int32(window),
    strategy="dynamic",
    num_steps=num_steps,
    rounding=rounding,
    seed=seed,
  )


@pytest.mark.parametrize(
  ("rounding", "expected"),
  [("largest_fraction", [4, 4, 2]), ("last", [3, 4, 3])],
)
def test_remainder_of_a_window(rounding, expected):
  weights = jnp.asarray([0.39, 0.41, 0.2])  # of 10 steps: 3.9, 4.1, 2.0
  quotas = sampling.quotas(weights, num_steps=10, rounding=rounding)
  np.testing.assert_array_equal(quotas, expected)


def test_weights_come_from_all_of_the_window_before():
  state = sampling.init(np.full(3, 1 / 3, np.float32))
  state, plan = enter(state, 0)
  np.testing.assert_array_equal(plan, np.arange(10) % 3)  # in turn
  means = np.asarray([2.0, 1.0, 5.0])
  for domain in plan:
    state = sampling.record(state, domain, jnp.float32(means[domain]))
  state, plan = enter(state, 1)
  np.testing.assert_allclose(state.weights, means / means.sum(), rtol=1e-6)
  again, same_plan = enter(state, 1)  # as after a restart
  np.testing.assert_array_equal(same_plan, plan)
  np.testing.assert_array_equal(again.weights, state.weights)


def test_unseen_domains_keep_their_weight():
  state = sampling.init(np.asarray([0.2, 0.3, 0.5], np.float32))
  for domain, loss in ((0, 1.0), (1, 3.0)):
    state = sampling.record(state, jnp.int32(domain), jnp.float32(loss))
  state, _ = enter(state, 1)
  np.testing.assert_allclose(
    state.weights, np.asarray([0.25, 0.75, 0.5]) / 1.5, rtol=1e-6
  )


def test_order_of_a_window_is_drawn_from_seed_and_window():
  state = sampling.init(np.full(3, 1 / 3, np.float32))
  plans = {
    (seed, window): tuple(
      enter(state, window, seed=seed, num_steps=60)[1].tolist()
    )
    for seed in (0, 1)
    for window in (1, 2)
  }
  assert len(set(plans.values())) == len(plans)
  for plan in plans.values():
    assert sorted(plan) == sorted([0, 1, 2] * 20)


def test_frozen_for_exactly_the_frozen_steps():
  config = fakes.changed(frozen_steps=2)
  run = dataclasses.replace(
    training.set_up(config),
    frozen_step=lambda state, batch: "frozen",
    train_step=lambda state, batch: "trained",
  )
  loop = trainer.Loop(run, sources=fakes.sources(config), tasks={}, writer=None)
  batch = next(fakes.sources(config)[0].open(0))
  done = [
    loop._step(None, step, domain=0, host_batch=batch) for step in (1, 2, 3, 4)
  ]
  assert done == ["frozen", "frozen", "trained", "trained"]


def test_teachers_are_found_by_name():
  run = training.set_up(fakes.config())
  params = run.init_state().params
  split = fakes.split("met", "test", num_images=16, batch_size=16)
  ours = run.evaluator.embed(params, split, names=("teacher",))["teacher"]
  expected = run.evaluator.model.apply(
    {"params": params},
    next(split.open()).images,
    jnp.int32(fakes.DOMAINS.index("met")),
    train=False,
  )
  np.testing.assert_allclose(ours, expected.teacher, atol=1e-5)


def test_pickles_are_refused(tmp_path):
  path = tmp_path / "weights.npz"
  np.savez(path, cls=np.asarray([{"a": 1}], dtype=object))
  wanted = {"cls": jax.ShapeDtypeStruct((1, 1, 4), "float32")}
  with pytest.raises(errors.UserError, match=r"config\.pretrained"):
    augreg.load(path, wanted)
