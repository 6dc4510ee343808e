"""What a run is told at its start: numbers that follow from the model."""

import jax
import pytest

from tests import fakes, training
from udon_jax import prototypes
from udon_jax.logs import overview

PATCHES, WIDTH, MLP, DEPTH = 4, 32, 64, 2
STUDENT, TEACHER = 8, 16


def set_up(num_devices=1, **changes):
  with pytest.MonkeyPatch.context() as patch:
    return training.set_up(
      fakes.changed(**changes), num_devices=num_devices, monkeypatch=patch
    )


@pytest.fixture(scope="module")
def run():
  return set_up()


@pytest.fixture(scope="module")
def work(run):
  return run.count_work()


def backbone_by_hand():
  tokens = PATCHES + 1
  block = 4 * tokens * WIDTH**2 + 2 * tokens**2 * WIDTH
  block += 2 * tokens * WIDTH * MLP
  pixels = PATCHES * 8 * 8 * 3 * WIDTH
  return 2 * (pixels + DEPTH * block), 2 * pixels


def test_work_by_hand(run, work):
  """Backward is twice forward, but for the pixels' and features' gradients."""
  batch, counts = run.config.batch_size, list(fakes.NUM_CLASSES.values())
  backbone, pixels = backbone_by_hand()
  heads = 2 * WIDTH * (STUDENT + TEACHER)
  classes = 2 * batch * sum(counts) * (STUDENT + TEACHER) // len(counts)
  # One product of each, and two for the gradient, which the student has alone.
  relation = 2 * batch**2 * (3 * STUDENT + TEACHER)
  assert work.embedding == backbone + 2 * WIDTH * STUDENT
  assert work.prototypes == pytest.approx(3 * classes, abs=3)
  outside = work.prototypes + relation
  assert work.frozen_step == batch * (backbone + 2 * heads) + outside
  assert work.full_step == (
    batch * (3 * backbone - pixels + 3 * heads) + outside
  )
  assert work.of_step(frozen=True) == work.frozen_step
  assert work.of_step(frozen=False) == work.full_step
  assert work.open_loops == 0


def test_work_does_not_depend_on_how_it_is_done(work):
  """Parts are embedded twice, and blocks written out: neither is work."""
  assert set_up(grad_accum_steps=4, model__unroll=2).count_work() == work


def test_work_of_all_devices_is_that_of_one(work):
  assert set_up(num_devices=8, batch_size=16).count_work() == work


def test_the_line_of_the_work():
  work = overview.Work(
    full_step=13_536_808_435_712,
    frozen_step=4_574_053_695_488,
    prototypes=77_769_768_960,
    embedding=999,
    open_loops=0,
  )
  line = overview.format_work(work)
  assert line == (
    "FLOPs of a step: 13.5 T, 4.57 T while the backbone is frozen (class "
    "prototypes: 77.8 G of either); of embedding an image: 999"
  )


def test_parameters_are_listed_one_by_one(run, tmp_path):
  overview.write_parameters(tmp_path, run.abstract_state, run.layout)
  text = (tmp_path / overview.PARAMETERS_FILE).read_text()
  state = run.abstract_state
  listed = {
    **{f"module/{k}": v for k, v in flat(state.params).items()},
    **{
      f"prototypes/{k}": v
      for k, v in flat(
        prototypes.by_domain(state.prototypes, run.layout)
      ).items()
    },
  }
  rows = {}
  for line in text.splitlines():
    if line.startswith("| ") and "| Name" not in line:
      name, shape, dtype, size = (x.strip() for x in line.strip("|").split("|"))
      rows[name] = (shape, dtype, int(size.replace(",", "")))
  assert rows == {
    k: (str(v.shape), str(v.dtype), v.size) for k, v in listed.items()
  }
  total = sum(v.size for v in listed.values())
  assert f"Total: {total:,}" in text


def flat(tree):
  leaves = jax.tree_util.tree_leaves_with_path(tree)
  return {
    jax.tree_util.keystr(path, simple=True, separator="/"): leaf
    for path, leaf in leaves
  }


def test_totals_add_up(run):
  line = overview.format_totals(run.abstract_state, run.layout)
  numbers = [
    int(word.replace(",", ""))
    for word in line.replace("(", " ").split()
    if word.replace(",", "").isdigit()
  ]
  module, *parts, classes = numbers
  assert module == sum(parts)
  assert classes == sum(fakes.NUM_CLASSES.values()) * (STUDENT + TEACHER)
