"""Checkpoints on any mesh, and what is kept of them."""

import contextlib

import jax
import numpy as np
import pytest

from tests import fakes, training
from udon_jax import (
  build,
  checkpointing,
  errors,
  prototypes,
  resuming,
)
from udon_jax import run as runs
from udon_jax.checkpointing import saved_state

BEST = runs.BEST_METRIC
MESHES = {"8x1": (8, 1), "2x4": (2, 4), "1x8": (1, 8), "1x1": (1, 1)}


def set_up(shape, **changes):
  """Returns a run on a mesh; nothing is compiled."""
  data, fsdp = MESHES[shape]
  config = fakes.changed(mesh__data=data, mesh__fsdp=fsdp, **changes)
  with pytest.MonkeyPatch.context() as patch:
    return training.set_up(config, num_devices=data * fsdp, monkeypatch=patch)


def noise(tree):
  """Returns arrays of the shapes and places of a tree, drawn at random."""
  rng = np.random.default_rng(0)

  def draw(x):
    values = rng.integers(-(2**20), 2**20, x.shape)
    if np.issubdtype(x.dtype, np.floating):
      values = values / 2**15
    return jax.device_put(np.asarray(values, x.dtype), x.sharding)

  return jax.tree.map(draw, tree)


@pytest.fixture(scope="module")
def saver():
  """A run on 8x1 and a state of it in which every number is another."""
  run = set_up("8x1")
  return run, noise(run.abstract_state)


def open_folder(folder, *, keep_latest=1):
  return contextlib.closing(
    checkpointing.Checkpointer(folder, keep_latest=keep_latest, best=BEST)
  )


def save(checkpointer, saver, step, score=None):
  run, state = saver
  checkpointer.save(
    step,
    state,
    layout=run.layout,
    mesh=run.mesh,
    meta=run.meta,
    metrics=None if score is None else {BEST: score, "other": 0.5},
  )
  checkpointer.wait()


@pytest.fixture(scope="module")
def folder(saver, tmp_path_factory):
  folder = tmp_path_factory.mktemp("saved")
  with open_folder(folder) as checkpointer:
    save(checkpointer, saver, 7, 0.25)
  return folder


def by_domain(state, run):
  """Returns the state on the host, its class tables by domain."""
  return {
    "tables": jax.device_get(prototypes.unpack(state.prototypes, run.layout)),
    "rest": jax.device_get(state.replace(prototypes=None)),
  }


def assert_equal(a, b):
  jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.mark.parametrize("shape", MESHES)
def test_any_mesh_restores_bit_for_bit(saver, folder, shape):
  """Parameters, moments, prototypes, sampler, meters, step and position."""
  run = set_up(shape)
  with open_folder(folder) as checkpointer:
    state = checkpointer.restore(
      7, run.abstract_state, layout=run.layout, mesh=run.mesh
    )
  assert_equal(by_domain(state, run), by_domain(saver[1], saver[0]))
  jax.tree.map(
    lambda x, a: x.sharding.is_equivalent_to(a.sharding, x.ndim) or 1 / 0,
    state,
    run.abstract_state,
  )
  for start, classes in zip(
    run.layout.offsets, run.layout.num_classes, strict=True
  ):
    block = np.asarray(state.prototypes.student)[start]
    assert block[..., :classes].any()
    assert not block[..., classes:].any()


def test_parameters_come_back_alone(saver, folder):
  run = set_up("2x4")
  with open_folder(folder) as checkpointer:
    params = checkpointer.restore_params(7, run.abstract_state.params)
  assert_equal(jax.device_get(params), jax.device_get(saver[1].params))


def test_a_folder_tells_config_and_domains(saver, folder):
  with open_folder(folder) as checkpointer:
    meta = checkpointer.restore_meta(7)
  config = build.from_json(meta.config)
  assert build.to_json(config) == build.to_json(saver[0].config)
  assert [d["name"] for d in meta.domains] == list(fakes.DOMAINS)
  assert [d["num_classes"] for d in meta.domains] == [
    fakes.NUM_CLASSES[name] for name in fakes.DOMAINS
  ]
  with pytest.raises(AttributeError):
    config.batchsize = 3  # locked


def kept(saver, folder, saves, **options):
  """Returns the steps kept, the newest and the best, after some saves."""
  with open_folder(folder, **options) as checkpointer:
    for step, score in saves:
      save(checkpointer, saver, step, score)
  with open_folder(folder, **options) as checkpointer:  # as a new process sees
    steps = [
      step
      for step in range(20)
      if (folder / "checkpoints" / str(step)).is_dir()
    ]
    return steps, checkpointer.latest_step, checkpointer.best_step


def test_the_best_outlives_worse_ones(saver, tmp_path):
  saves = [(1, 0.1), (2, 0.9), (3, 0.5), (4, 0.2)]
  assert kept(saver, tmp_path, saves) == ([2, 4], 4, 2)


def test_saves_without_metrics_delete_neither_the_best_nor_themselves(
  saver, tmp_path
):
  saves = [(1, 0.3), (2, None), (3, None)]
  assert kept(saver, tmp_path, saves) == ([1, 3], 3, 1)


def test_a_better_one_takes_the_place_of_the_best(saver, tmp_path):
  saves = [(1, 0.3), (2, None), (3, 0.4), (4, None)]
  assert kept(saver, tmp_path, saves) == ([3, 4], 4, 3)


def test_more_of_the_newest_can_be_kept(saver, tmp_path):
  saves = [(1, 0.9), (2, None), (3, 0.4), (4, None)]
  found = kept(saver, tmp_path, saves, keep_latest=2)
  assert found == ([1, 3, 4], 4, 1)


def test_the_step_to_read(saver, tmp_path):
  with open_folder(tmp_path) as checkpointer:
    save(checkpointer, saver, 3)
    assert checkpointer.check_step(None, tmp_path) == 3  # none is the best
    save(checkpointer, saver, 5, 0.5)
    save(checkpointer, saver, 6)
    assert checkpointer.check_step(None, tmp_path) == 5
    assert checkpointer.check_step(6, tmp_path) == 6
    with pytest.raises(errors.UserError, match=r"of step 4; it has \[5, 6\]"):
      checkpointer.check_step(4, tmp_path)


def restore_from(folder, run, new):
  run.config.unlock()
  run.config.resume_from = str(folder)
  with open_folder(new) as checkpointer:
    return resuming.restore_or_init(run, checkpointer, workdir=new)


def test_a_new_run_starts_from_another_workdir(saver, folder, tmp_path):
  run = set_up("1x8")
  state = restore_from(folder, run, tmp_path)
  assert_equal(by_domain(state, run), by_domain(saver[1], saver[0]))


@pytest.mark.parametrize("made", [(), ("checkpoints",), ("checkpoints/tmp",)])
def test_a_folder_without_checkpoint_is_named(tmp_path, made):
  for name in made:
    (tmp_path / name).mkdir(parents=True)
  with pytest.raises(errors.UserError, match=r"holds no checkpoint; give"):
    restore_from(tmp_path, set_up("1x1"), tmp_path / "new")


@pytest.mark.parametrize(
  "changes, words",
  [
    ({"domains": ("cars", "met")}, r"resume_from=.*'sop', 11.*use"),
    ({"model__student_dim": 4}, r"config.model.student_dim is 8 there and 4"),
  ],
)
def test_another_model_or_other_domains_are_named(
  folder, tmp_path, changes, words
):
  with pytest.raises(errors.UserError, match=words):
    restore_from(folder, set_up("1x1", **changes), tmp_path)


def test_prototypes_of_older_checkpoints_are_of_their_step(saver, tmp_path):
  """They were all updated in every step, and did not tell."""
  run, state = saver
  parts = saved_state.without_updates(
    saved_state.from_state(state, layout=run.layout, mesh=run.mesh)
  )
  with pytest.MonkeyPatch.context() as patch, open_folder(tmp_path) as folder:
    patch.setattr(saved_state, "from_state", lambda *_, **__: parts)
    save(folder, saver, 7)
  with open_folder(tmp_path) as checkpointer:
    found = checkpointer.restore(
      7, run.abstract_state, layout=run.layout, mesh=run.mesh
    )
  assert_equal(by_domain(found, run), by_domain(state, run))
  np.testing.assert_array_equal(
    found.prototypes.updated, [int(state.step)] * len(fakes.DOMAINS)
  )


def test_other_rates_hold_from_the_checkpoint_on(tmp_path):
  """Idle prototypes are brought up to date with the rates that saved them."""
  old = set_up("1x1")
  state, _ = training.take_steps(old, old.init_state(), (0, 1, 2, 1, 1))
  expected = prototypes.unpack(training.up_to_date(old, state), old.layout)
  with open_folder(tmp_path / "old") as checkpointer:
    save(checkpointer, (old, state), 5)
  for changes, same in (
    ({"optimizer__learning_rate": 1e-4}, False),
    ({"optimizer__schedule": "cosine"}, False),
    ({"num_train_steps": 40}, True),
    ({}, True),
  ):
    run = set_up("1x1", **changes)
    found = restore_from(tmp_path / "old", run, tmp_path / "new")
    np.testing.assert_array_equal(
      found.prototypes.updated, [1, 5, 3] if same else [5, 5, 5]
    )
    if not same:
      assert_equal(prototypes.unpack(found.prototypes, run.layout), expected)
