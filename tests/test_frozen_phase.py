"""Moments of the backbone that are gathered before the thaw, or are not."""

import jax
import numpy as np
import pytest

from tests import fakes, test_trainer, training
from udon_jax import checks, chips, errors, watching

FROZEN, STEPS = 6, 9
SEQUENCE = (0, 1, 2, 1, 0, 2, 1, 0, 2)


def train(warmup, *, steps=STEPS, **changes):
  """Takes steps with the program of each; returns run, states and losses."""
  with pytest.MonkeyPatch.context() as patch:
    run = training.set_up(
      fakes.changed(
        frozen_steps=FROZEN, optimizer__moment_warmup_steps=warmup, **changes
      ),
      num_devices=1,
      monkeypatch=patch,
    )
  state, states = run.init_state(), []
  for step in range(1, steps + 1):
    step_fn = run.frozen_step if run.is_frozen(step) else run.train_step
    # All steps see the first batch of their domain: gradients are alike.
    state, _ = training.take_steps(
      run, state, SEQUENCE[step - 1 : step], step_fn=step_fn
    )
    states.append(jax.device_get(state))
  return run, states


@pytest.fixture(scope="module", params=[0, 2, -1])
def found(request):
  return request.param, *train(request.param)


def adam(state):
  return state.opt_state["backbone"].inner_state[0]


def leaves(tree):
  return jax.tree.leaves(tree)


def test_the_backbone_sits_still_however_warm_its_moments_are(found):
  _, _, states = found
  start = leaves(states[0].params["backbone"])
  for step, state in enumerate(states, 1):
    moved = [
      (a != b).any()
      for a, b in zip(leaves(state.params["backbone"]), start, strict=True)
    ]
    assert any(moved) == (step > FROZEN), step


def test_counts_and_moments_begin_with_the_warm_up(found):
  warmup, _, states = found
  first = {0: FROZEN + 1, 2: FROZEN - 1, -1: 1}[warmup]
  for step, state in enumerate(states, 1):
    assert adam(state).count == max(0, step - first + 1)
    has_moments = any(x.any() for x in leaves(adam(state).nu))
    assert has_moments == (step >= first)


def test_rates_and_programs_of_every_step(found):
  warmup, run, _ = found
  rates = watching.learning_rates(run, [*range(1, STEPS + 1)])
  for step, told in rates.items():
    peak = run.config.optimizer.backbone_learning_rate
    expected = peak if step > FROZEN else 0.0
    assert told["learning_rate/backbone"] == pytest.approx(expected)
  ungraded = {0: FROZEN, 2: FROZEN - 2, -1: 0}[warmup]
  assert [s for s in rates if run.is_frozen(s)] == [*range(1, ungraded + 1)]
  assert run.train_step._cache_size() == 1
  assert run.frozen_step._cache_size() == (ungraded > 0)


@pytest.mark.slow
def test_a_phase_of_warm_up_alone_is_the_official_one():
  """In moments and counts; officially it lasts a step longer."""
  _, ours = train(-1)
  _, theirs = train(0, semantics="official")
  for step in (1, FROZEN):
    a, b = adam(ours[step - 1]), adam(theirs[step - 1])
    assert a.count == b.count == step
    for x, y in zip(leaves(a), leaves(b), strict=True):
      np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-9)


@pytest.mark.slow
def test_what_a_short_warm_up_lacks():
  """Without what came before, b2^w of an even second moment is missing."""
  b2 = 0.5
  _, whole = train(-1, steps=FROZEN, optimizer__b2=b2)
  _, part = train(2, steps=FROZEN, optimizer__b2=b2)
  early = adam(whole[FROZEN - 3]).nu  # as of the step before the warm-up
  lacking = jax.tree.map(
    lambda a, b: a - b, adam(whole[-1]).nu, adam(part[-1]).nu
  )
  for x, y in zip(leaves(lacking), leaves(early), strict=True):
    np.testing.assert_allclose(x, b2**2 * y, rtol=1e-3, atol=1e-9)


@pytest.mark.slow
def test_a_run_killed_in_the_window_continues_exactly(tmp_path):
  """Saved at step 8, of a window over steps 7 to 10."""
  changes = {"frozen_steps": 10, "optimizer__moment_warmup_steps": 4}
  with pytest.MonkeyPatch.context() as patch:
    compiled = training.set_up(
      test_trainer.config(**changes), num_devices=1, monkeypatch=patch
    )
    patch.setattr(chips, "peak_flops", lambda _: test_trainer.PEAK)
    whole = test_trainer.train(compiled, tmp_path / "whole", **changes)
    killed = tmp_path / "killed"
    with pytest.raises(test_trainer.Killed):
      test_trainer.train(
        compiled, killed, feed=test_trainer.Feed(last=9), **changes
      )
    assert test_trainer.train(compiled, killed, **changes) == whole
  assert test_trainer.lines(killed) == test_trainer.lines(tmp_path / "whole")
  assert compiled.frozen_step._cache_size() == 1
  assert compiled.train_step._cache_size() == 1


def test_official_semantics_need_none():
  with pytest.raises(errors.UserError, match="moment_warmup_steps=3 is what"):
    checks.check(
      fakes.changed(semantics="official", optimizer__moment_warmup_steps=3)
    )
