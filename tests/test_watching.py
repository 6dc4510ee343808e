"""How a run is watched: the rates that are told are those that are used."""

import jax
import numpy as np
import pytest

from tests import fakes, training
from udon_jax import watching

STEPS, WARMUP, FROZEN = 40, 8, 5


def set_up(monkeypatch, **changes):
  config = fakes.changed(
    num_train_steps=STEPS,
    frozen_steps=FROZEN,
    optimizer__warmup_steps=WARMUP,
    optimizer__learning_rate=0.3,
    optimizer__backbone_learning_rate=0.02,
    **changes,
  )
  return training.set_up(config, num_devices=1, monkeypatch=monkeypatch)


def by_hand(step, peak, schedule):
  if step < WARMUP:
    return peak * step / WARMUP
  if schedule == "constant":
    return peak
  share = (step - WARMUP) / (STEPS - WARMUP)
  return peak * (1 + np.cos(np.pi * share)) / 2


@pytest.mark.parametrize("semantics", ["default", "official"])
@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_learning_rates(schedule, semantics, monkeypatch):
  """By hand, and by the schedule that the compiled step evaluates."""
  run = set_up(monkeypatch, optimizer__schedule=schedule, semantics=semantics)
  frozen = FROZEN + (semantics == "official")
  steps = [1, 5, 6, 7, 8, 9, 24, STEPS]
  rates = watching.learning_rates(run, steps)
  assert list(rates) == steps
  for step in steps:
    backbone = by_hand(step, 0.02, schedule) * (step > frozen)
    heads = by_hand(step, 0.3, schedule)
    expected = {
      "learning_rate/backbone": backbone,
      "learning_rate/heads": heads,
    }
    assert rates[step] == pytest.approx(expected, rel=1e-6, abs=1e-8)
    used = jax.jit(run.optimizer.groups["heads"].schedule)(np.int32(step))
    assert rates[step]["learning_rate/heads"] == pytest.approx(
      float(used), rel=1e-6, abs=1e-8
    )
