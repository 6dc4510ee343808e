"""Laws of a training step."""

import re

from flax import traverse_util
import jax
import numpy as np
import pytest

from tests import fakes, hlo, training
from udon_jax import prototypes

SEQUENCE = (0, 1, 2, 1, 1, 0, 2, 2)


def assert_trees_close(a, b, **tolerance):
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, **tolerance),
    jax.device_get(a),
    jax.device_get(b),
  )


def without_key_bias(params):
  """The gradient of a key's bias is zero: AdamW makes steps of its rounding."""
  flat = traverse_util.flatten_dict(params, sep="/")
  return {k: v for k, v in flat.items() if not k.endswith("key/bias")}


@pytest.fixture(scope="module")
def one_device():
  with pytest.MonkeyPatch.context() as patch:
    run = training.set_up(fakes.config(), num_devices=1, monkeypatch=patch)
  state, losses = training.take_steps(run, run.init_state(), SEQUENCE)
  return run, state, losses


@pytest.mark.parametrize(
  "data, fsdp",
  [(8, 1), (2, 4), pytest.param(1, 8, marks=pytest.mark.slow)],
)
def test_any_mesh_gives_the_losses_of_one_device(one_device, data, fsdp):
  config = fakes.changed(mesh__data=data, mesh__fsdp=fsdp)
  run = training.set_up(config)
  state, losses = training.take_steps(run, run.init_state(), SEQUENCE)
  expected = one_device[2]
  np.testing.assert_allclose(losses[0], expected[0], rtol=1e-5)
  np.testing.assert_allclose(losses, expected, rtol=2e-3)
  kernel = state.params["backbone"]["Transformer"]["encoderblock"]
  kernel = kernel["MlpBlock_3"]["Dense_0"]["kernel"]
  assert kernel.addressable_shards[0].data.shape[1] * fsdp == kernel.shape[1]
  table = state.prototypes.teacher
  assert table.addressable_shards[0].data.shape[3] * 8 == table.shape[3]


def test_one_program_serves_every_domain(one_device):
  assert one_device[0].train_step._cache_size() == 1


def test_loss_falls(one_device):
  run = one_device[0]
  _, losses = training.take_steps(run, run.init_state(), (1,) * 40)
  assert losses[-5:].mean() < 0.8 * losses[:5].mean()


@pytest.mark.parametrize("parts", [4, pytest.param(2, marks=pytest.mark.slow)])
def test_accumulation_is_exact(one_device, monkeypatch, parts):
  run = training.set_up(
    fakes.changed(grad_accum_steps=parts),
    num_devices=1,
    monkeypatch=monkeypatch,
  )
  state, losses = training.take_steps(run, run.init_state(), SEQUENCE)
  np.testing.assert_allclose(losses, one_device[2], rtol=1e-4)
  assert_trees_close(
    without_key_bias(state.params),
    without_key_bias(one_device[1].params),
    atol=2e-4,
  )


def test_accumulation_over_devices_is_exact(one_device):
  run = training.set_up(fakes.changed(grad_accum_steps=2))
  _, losses = training.take_steps(run, run.init_state(), SEQUENCE)
  np.testing.assert_allclose(losses, one_device[2], rtol=2e-3)


def test_frozen_step_leaves_the_backbone_alone(one_device):
  run = one_device[0]
  start = run.init_state()
  before = jax.device_get(start)
  after, losses = training.take_steps(
    run, start, SEQUENCE, step_fn=run.frozen_step
  )
  after = jax.device_get(after)
  assert_trees_close(
    after.params["backbone"], before.params["backbone"], atol=0
  )
  assert_trees_close(
    after.opt_state["backbone"], before.opt_state["backbone"], atol=0
  )
  assert after.params["student_projection"]["Dense_0"]["kernel"].std() > 0
  assert (
    np.abs(
      after.params["student_projection"]["Dense_0"]["kernel"]
      - before.params["student_projection"]["Dense_0"]["kernel"]
    ).max()
    > 1e-3
  )
  np.testing.assert_allclose(losses[0], one_device[2][0], rtol=1e-5)
  assert run.frozen_step._cache_size() == 1


def test_state_counts_what_it_did(one_device):
  state = jax.device_get(one_device[1])
  assert state.step == len(SEQUENCE)
  np.testing.assert_array_equal(state.data_position, [2, 3, 3])
  np.testing.assert_array_equal(state.sampler.counts, [2, 3, 3])
  np.testing.assert_array_equal(state.meters.counts, [2, 3, 3])
  np.testing.assert_allclose(
    state.sampler.loss_sums,
    state.meters.sums["teacher_classification"],
    rtol=1e-6,
  )


def test_a_step_that_is_not_finite_changes_nothing(one_device):
  run = one_device[0]
  state, _ = training.take_steps(run, run.init_state(), (0, 1))
  good = jax.device_get(state)
  poisoned = state.replace(
    prototypes=state.prototypes.replace(
      student=state.prototypes.student.at[1, 0, :, 5].set(np.nan)
    )
  )
  # Block 1 is of domain 1: only a step of that domain meets it.
  after, _ = training.take_steps(run, poisoned, (1, 0, 2))
  after = jax.device_get(after)
  assert (after.failed_step, after.failed_domain) == (3, 1)
  assert after.step == 2
  assert_trees_close(after.params, good.params, atol=0)
  assert_trees_close(after.opt_state, good.opt_state, atol=0)
  # Prototypes have come up to the last step that counts, and no further.
  np.testing.assert_array_equal(after.prototypes.updated, [2, 2, 2])
  expected = training.up_to_date(
    run, good.replace(prototypes=jax.device_put(good.prototypes, places(run)))
  )
  found, expected = (
    prototypes.unpack(jax.device_get(x), run.layout)["teacher"]
    for x in (after.prototypes, expected)
  )
  assert_trees_close(found, expected, atol=0)


def places(run):
  return prototypes.shardings(run.mesh)


def test_clipping_bounds_the_gradient(monkeypatch):
  tight = training.set_up(
    fakes.changed(optimizer__grad_clip_norm=1e-12, optimizer__eps=1e-3),
    num_devices=1,
    monkeypatch=monkeypatch,
  )
  start = tight.init_state()
  before = jax.device_get(start.params)
  after, _ = training.take_steps(tight, start, (0,))
  assert_trees_close(after.params, before, atol=1e-7)


@pytest.mark.parametrize(
  "data, fsdp",
  [
    (2, 4),
    pytest.param(8, 1, marks=pytest.mark.slow),
    pytest.param(1, 8, marks=pytest.mark.slow),
  ],
)
def test_a_whole_step_with_many_classes(data, fsdp, monkeypatch):
  """No collective grows with the classes, no table is copied or held twice."""
  found = {}
  for factor in (1, 16):
    counts = {k: factor * n for k, n in fakes.NUM_CLASSES.items()}
    counts["sop"] = factor * 30_000
    monkeypatch.setattr(fakes, "NUM_CLASSES", counts)
    run = training.set_up(fakes.changed(mesh__data=data, mesh__fsdp=fsdp))
    monkeypatch.undo()
    compiled = training.lower(run).compile()
    found[factor] = hlo.collective_sizes(compiled.as_text())
    memory = compiled.memory_analysis()
    shards = [
      x.sharding.shard_shape(x.shape)
      for x in jax.tree.leaves(run.abstract_state)
    ]
    num_bytes = 4 * sum(int(np.prod(s)) for s in shards)
    assert memory.alias_size_in_bytes >= 0.99 * num_bytes
  assert found[1] == found[16]
  rows = 3 * run.layout.rows * run.config.model.teacher_dim
  assert max(hlo.copied_sizes(compiled.as_text())) <= rows


@pytest.mark.parametrize("frozen", [False, True])
def test_every_array_of_the_state_is_changed_in_place(monkeypatch, frozen):
  """The compiled program aliases all inputs of the state to outputs."""
  run = training.set_up(
    fakes.changed(frozen_steps=3), num_devices=1, monkeypatch=monkeypatch
  )
  step = run.frozen_step if frozen else run.train_step
  text = training.lower(run, step).compile().as_text()
  (aliases,) = re.findall(
    r"input_output_alias=\{(.*?)\}, entry_computation_layout", text
  )
  inputs = {int(n) for n in re.findall(r"\((\d+), \{\}", aliases)}
  assert inputs == set(range(len(jax.tree.leaves(run.abstract_state))))
