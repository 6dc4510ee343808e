"""Where we differ from the official code: what ours does.

The README lists the differences and names the test of each; those that belong
to one room are tested beside it, the others here.
"""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from tests import fakes, training
from udon_jax import errors
from udon_jax import loop as loops
from udon_jax.pretrained import kinds


def test_frozen_for_exactly_the_frozen_steps():
  config = fakes.changed(frozen_steps=2)
  run = dataclasses.replace(
    training.set_up(config),
    frozen_step=lambda state, batch: "frozen",
    train_step=lambda state, batch: "trained",
  )
  loop = loops.Loop(run, sources=fakes.sources(config), tasks={}, writer=None)
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
  with pytest.raises(errors.UserError, match=r"config\.pretrained"):
    kinds.open_weights(f"augreg:{path}")
