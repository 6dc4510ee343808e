"""Twenty steps of the tiny config give the numbers that they always gave.

A refactoring keeps this curve. After a change that is meant to move it,
`python -m tests.test_golden_curve` draws it anew; the commit says why.
"""

import json
import pathlib

import jax
import numpy as np
import pytest

from tests import conftest, fakes, training
from udon_jax import partitioning, structs, train_state

FILE = pathlib.Path(__file__).parent / "golden" / "loss_curve.json"
FROZEN, STEPS = 4, 20
# Every domain comes, comes again at once, and idles.
DOMAINS = [(0, 1, 2, 1, 1, 0, 2, 2, 2, 0)[i % 10] for i in range(STEPS)]
# Another CPU rounds differently, and steps make the difference grow.
FIRST, LAST = 1e-5, 1e-3


def draw_curve(patch):
  """Returns {"step", "domain", and every meter} of every step."""
  run = training.set_up(fakes.config(), num_devices=1, monkeypatch=patch)
  empty = jax.jit(
    lambda: train_state.init_meters(len(fakes.DOMAINS)),
    out_shardings=partitioning.replicated(run.mesh),
  )
  iters = [source.open(0) for source in fakes.sources(run.config)]
  state, curve = run.init_state(), []
  for step, domain in enumerate(DOMAINS, 1):
    host = next(iters[domain])
    images, labels = partitioning.put_batch(
      (host.images, host.labels), run.mesh
    )
    batch = structs.Batch(
      images, labels, partitioning.put_replicated(np.int32(domain), run.mesh)
    )
    step_fn = run.frozen_step if step <= FROZEN else run.train_step
    state = step_fn(state, batch)
    meters = jax.device_get(state.meters)
    values = {k: float(v[domain]) for k, v in sorted(meters.sums.items())}
    curve.append({"step": step, "domain": fakes.DOMAINS[domain], **values})
    state = state.replace(meters=empty())
  return curve


@pytest.fixture(scope="module")
def curve():
  with pytest.MonkeyPatch.context() as patch:
    return draw_curve(patch)


def read_golden():
  return json.loads(FILE.read_text())


def assert_close(found, expected, tolerance):
  numbers = [
    {k: v for k, v in x.items() if k != "domain"} for x in (found, expected)
  ]
  assert found["domain"] == expected["domain"]
  assert numbers[0] == pytest.approx(numbers[1], rel=tolerance)


def test_the_first_step_is_the_golden_one(curve):
  assert_close(curve[0], read_golden()[0], FIRST)


def test_twenty_steps_are_the_golden_ones(curve):
  for found, expected, tolerance in zip(
    curve, read_golden(), np.geomspace(FIRST, LAST, STEPS), strict=True
  ):
    assert_close(found, expected, tolerance)


def test_the_golden_curve_falls():
  """It is a curve of training, not of noise."""
  losses = [x["loss"] for x in read_golden()]
  assert np.mean(losses[-5:]) < 0.85 * np.mean(losses[:5])


if __name__ == "__main__":
  assert conftest.NUM_DEVICES  # set before JAX starts, as in the tests
  with pytest.MonkeyPatch.context() as monkeypatch:
    lines = [json.dumps(x) for x in draw_curve(monkeypatch)]
  FILE.write_text("[\n" + ",\n".join(lines) + "\n]\n")
