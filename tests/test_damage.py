"""Damaged checkpoints are named, put aside and never used."""

import contextlib
import errno
import json
import logging
import shutil

import jax
import numpy as np
import pytest

from tests import fakes, training
from udon_jax import (
  checkpointing,
  errors,
  resuming,
  trained,
  workdirs,
)
from udon_jax import run as runs
from udon_jax.checkpointing import checksums, damage

STEPS = (3, 6, 9)


def set_up(**changes):
  config = fakes.changed(**changes)
  with pytest.MonkeyPatch.context() as patch:
    return training.set_up(config, num_devices=1, monkeypatch=patch)


def noise(tree, seed):
  """Returns arrays of the shapes and places of a tree, drawn at random."""
  rng = np.random.default_rng(seed)

  def draw(x):
    values = rng.integers(-(2**20), 2**20, x.shape)
    return jax.device_put(np.asarray(values, x.dtype), x.sharding)

  return jax.tree.map(draw, tree)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
  """A run, the states of its steps, and a folder that holds them all."""
  run = set_up()
  states = {
    step: training.with_fitting_prototypes(run, noise(run.abstract_state, step))
    for step in STEPS
  }
  folder = tmp_path_factory.mktemp("saved")
  with open_folder(folder) as checkpointer:
    for step, state in states.items():
      checkpointer.save(
        step,
        state,
        layout=run.layout,
        mesh=run.mesh,
        meta=run.meta,
        metrics={runs.BEST_METRIC: step / 10},
      )
  return run, states, folder


def open_folder(folder):
  return contextlib.closing(
    checkpointing.Checkpointer(folder, keep_latest=3, best=runs.BEST_METRIC)
  )


@pytest.fixture
def copy(saved, tmp_path):
  shutil.copytree(saved[2] / "checkpoints", tmp_path / "checkpoints")
  return tmp_path


def restore(run, workdir):
  with open_folder(workdir) as checkpointer:
    state = resuming.restore_or_init(run, checkpointer, workdir=workdir)
    return state, checkpointer.steps


def assert_is(state, expected):
  jax.tree.map(
    np.testing.assert_array_equal, *jax.device_get((state, expected))
  )


def files(checkpoint):
  """Returns the files of a checkpoint that hold values, the largest first."""
  found = [p for p in checkpoint.rglob("*") if p.is_file() and p.stat().st_size]
  return sorted(found, key=lambda p: (-p.stat().st_size, str(p)))


def flip(path, place, bit=0):
  data = bytearray(path.read_bytes())
  data[place] ^= 1 << bit
  path.write_bytes(data)


def array_file(checkpoint, part="params"):
  return next(p for p in files(checkpoint / part) if p.parent.name == "d")


DAMAGES = {
  "flipped bit in arrays": lambda c: flip(array_file(c), 200),
  "flipped bit in moments": lambda c: flip(array_file(c, "training"), 200),
  "arrays cut off": lambda c: array_file(c).write_bytes(b""),
  "arrays missing": lambda c: array_file(c).unlink(),
  "manifest missing": lambda c: (c / "params" / "manifest.ocdbt").unlink(),
  "part missing": lambda c: shutil.rmtree(c / "training"),
  "meta is no JSON": lambda c: (c / "meta" / "metadata").write_text("{"),
  "meta changed": lambda c: (c / "meta" / "metadata").write_text(
    (c / "meta" / "metadata").read_text().replace('"seed": 0', '"seed": 1')
  ),
  "a digit of the metrics changed": lambda c: (
    c / "metrics" / "metrics"
  ).write_text((c / "metrics" / "metrics").read_text().replace("0.9", "0.8")),
  "metrics are no JSON": lambda c: (c / "metrics" / "metrics").write_text("{"),
  "all files empty": lambda c: [p.write_bytes(b"") for p in files(c)],
  "empty folder": lambda c: (shutil.rmtree(c), c.mkdir()),
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_the_one_before_a_damaged_one_is_used(saved, copy, kind, caplog):
  run, states, _ = saved
  DAMAGES[kind](copy / "checkpoints" / "9")
  with caplog.at_level(logging.WARNING, logger="udon_jax"):
    state, steps = restore(run, copy)
  assert_is(state, states[6])
  assert steps == [3, 6]
  assert f"{copy / 'checkpoints' / '9'} is damaged" in caplog.text
  assert (copy / damage.FOLDER / "9").is_dir()  # nothing is destroyed


def test_any_flipped_bit_is_noticed_or_without_effect(saved, copy):
  """Whatever a disk does to any file, no other values come back."""
  run, states, folder = saved
  rng = np.random.default_rng(0)
  original = folder / "checkpoints" / "9"
  names = [p.relative_to(original) for p in files(original)]
  noticed = 0
  for _ in range(12):
    victim = copy / "checkpoints" / "9"
    shutil.rmtree(victim, ignore_errors=True)
    shutil.copytree(original, victim)
    path = victim / names[rng.integers(len(names))]
    flip(path, rng.integers(path.stat().st_size), int(rng.integers(8)))
    state, steps = restore(run, copy)
    assert_is(state, states[steps[-1]])
    noticed += steps[-1] == 6
  assert noticed


@pytest.mark.parametrize(
  "fault, expected",
  [
    (OSError(errno.ESTALE, "stale"), errors.UserError),
    (PermissionError(errno.EACCES, "denied"), errors.UserError),
    (errors.StoppedError("stopped"), errors.StoppedError),
    (KeyboardInterrupt(), KeyboardInterrupt),
  ],
)
def test_what_passes_is_no_damage(saved, copy, fault, expected, monkeypatch):
  """A network that fails or a signal while a checkpoint is read."""

  def fail(_):
    raise fault

  run, states, _ = saved
  with monkeypatch.context() as patch:
    patch.setattr(checksums, "_of_file", fail)
    with pytest.raises(expected) as caught:
      restore(run, copy)
  assert not isinstance(caught.value, damage.DamagedError)
  assert not (copy / damage.FOLDER).exists()
  assert_is(restore(run, copy)[0], states[9])


def test_a_sector_that_is_lost_is_damage(saved, copy, monkeypatch):
  run, states, _ = saved
  read = checksums._of_file

  def fail(path):
    if "/9/params/" in str(path):
      raise OSError(errno.EIO, "Input/output error")
    return read(path)

  monkeypatch.setattr(checksums, "_of_file", fail)
  assert_is(restore(run, copy)[0], states[6])


def test_two_damaged_ones_are_passed(saved, copy):
  run, states, _ = saved
  for step in ("6", "9"):
    DAMAGES["arrays missing"](copy / "checkpoints" / step)
  state, steps = restore(run, copy)
  assert_is(state, states[3])
  assert steps == [3]


@pytest.mark.parametrize("kind", ["arrays missing", "metrics are no JSON"])
def test_where_all_are_damaged_nothing_is_started_or_moved(saved, copy, kind):
  run, _, _ = saved
  for step in STEPS:
    DAMAGES[kind](copy / "checkpoints" / str(step))
  with pytest.raises(errors.UserError, match=r"checkpoints/3 is damaged"):
    restore(run, copy)
  assert {p.name for p in (copy / "checkpoints").iterdir()} >= {"3", "6", "9"}


@pytest.mark.parametrize(
  "diverged, rate, expected",
  [
    (10, None, 9),  # what the weather did is not done again
    (10, 1e-5, 6),  # step 10 from the same weights would diverge again
    (11, 1e-5, 9),
    (7, 1e-5, 9),  # come past it
  ],
)
def test_after_divergence_other_rates_start_before_the_step_that_led_to_it(
  saved, copy, diverged, rate, expected
):
  _, states, _ = saved
  changes = {} if rate is None else {"optimizer__learning_rate": rate}
  workdirs.note_divergence(copy, step=diverged, domain="cars")
  run = set_up(**changes)
  if diverged == 7 and rate is not None:  # and nothing may change any more
    with pytest.raises(errors.UserError, match="learning_rate is"):
      restore(run, copy)
    return
  state, steps = restore(run, copy)
  assert_is(state, states[expected])
  assert steps[-1] == expected


def test_a_half_written_one_is_no_checkpoint(saved, copy):
  run, states, _ = saved
  torn = copy / "checkpoints" / "12.orbax-checkpoint-tmp"
  shutil.copytree(copy / "checkpoints" / "9", torn)
  state, steps = restore(run, copy)
  assert steps == [*STEPS]
  assert_is(state, states[9])
  assert not torn.exists()  # what a killed process left takes no space


def test_the_best_but_for_damaged_ones_is_tested(saved, copy):
  run, states, _ = saved
  DAMAGES["flipped bit in arrays"](copy / "checkpoints" / "9")
  with open_folder(copy) as checkpointer:
    assert checkpointer.best_step == 9
    step, params = resuming.restore_best(run, checkpointer)
    assert step == checkpointer.best_step == 6
  assert_is(params, states[6].params)


def test_where_all_validated_ones_are_damaged_it_is_said(saved, copy):
  run, _, _ = saved
  for step in (3, 9):
    DAMAGES["flipped bit in arrays"](copy / "checkpoints" / str(step))
  shutil.rmtree(copy / "checkpoints" / "6" / "metrics")
  with open_folder(copy) as checkpointer:
    with pytest.raises(damage.DamagedError, match="run the same command"):
      resuming.restore_best(run, checkpointer)
    assert checkpointer.steps == [6]


@pytest.mark.parametrize("kind", DAMAGES)
def test_readers_name_a_damaged_one_and_leave_it(saved, copy, kind):
  """Evaluation and extraction must not silently use another."""
  DAMAGES[kind](copy / "checkpoints" / "9")
  tree = sorted(copy.rglob("*"))
  if kind in ("part missing", "flipped bit in moments"):  # which they skip
    assert trained.load(copy, step=9).step == 9
  else:
    with pytest.raises(damage.DamagedError, match=r"/9 is damaged.*\[3, 6\]"):
      trained.load(copy, step=9)
  assert sorted(copy.rglob("*")) == tree


def test_a_reader_leaves_a_save_in_progress_alone(copy):
  torn = copy / "checkpoints" / "12.orbax-checkpoint-tmp"
  torn.mkdir()
  assert trained.load(copy).step == 9
  assert torn.exists()


# Checksums.


def test_checksums_tell_every_change_of_a_file(tmp_path):
  (tmp_path / "sub").mkdir()
  contents = {"a": b"x" * 1000, "sub/b": bytes(range(256)), "empty": b""}
  for name, data in contents.items():
    (tmp_path / name).write_bytes(data)
  checksums.verify(tmp_path)  # there are none yet
  checksums.write(tmp_path)
  checksums.verify(tmp_path)
  (tmp_path / "more").write_bytes(b"is no matter")
  checksums.verify(tmp_path)
  flip(tmp_path / "sub" / "b", 77, bit=3)
  with pytest.raises(ValueError, match="sub/b is not what was saved"):
    checksums.verify(tmp_path)
  flip(tmp_path / "sub" / "b", 77, bit=3)
  checksums.verify(tmp_path)
  (tmp_path / "empty").unlink()
  with pytest.raises(ValueError, match="empty is missing"):
    checksums.verify(tmp_path)


def test_every_file_of_every_part_has_a_checksum(saved):
  checkpoint = saved[2] / "checkpoints" / "9"
  parts = {p.name for p in checkpoint.iterdir() if p.is_dir()}
  assert parts == {"params", "training", "meta", "metrics"}
  for part in parts:
    known = json.loads((checkpoint / part / checksums.FILE_NAME).read_text())
    there = {
      str(p.relative_to(checkpoint / part))
      for p in (checkpoint / part).rglob("*")
      if p.is_file()
    }
    assert there - {checksums.FILE_NAME, "commit_success.txt"} == set(known)
