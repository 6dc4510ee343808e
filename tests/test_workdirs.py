"""A workdir belongs to one process at a time, and to one run."""

import copy
import errno
import fcntl
import multiprocessing
import os

import pytest

from tests import fakes
from udon_jax import build, errors, workdirs

CONFIG = build.to_json(fakes.config())


def changed(key, value):
  config = copy.deepcopy(CONFIG)
  *path, last = key.split(".")
  group = config
  for name in path:
    group = group[name]
  assert last in group
  group[last] = value
  return config


@pytest.mark.parametrize(
  "key, value",
  [
    ("semantics", "official"),
    ("seed", 1),
    ("domains", ["cars"]),
    ("batch_size", 8),
    ("frozen_steps", 3),
    ("data.crop_size", 8),
    ("data.round_pixels", False),
    ("model.name", "vit_mu4"),
    ("model.student_dim", 4),
    ("loss.weights.logit_distillation", 0.5),
    ("loss.classifier", "cosface"),
    ("sampler.update_every", 2),
    ("optimizer.learning_rate", 0.5),
  ],
)
def test_what_defines_a_run_must_stay(key, value):
  with pytest.raises(errors.UserError, match=f"config.{key} is") as caught:
    workdirs.check_same_run("w", saved=CONFIG, given=changed(key, value))
  assert "choose another folder" in str(caught.value)


@pytest.mark.parametrize(
  "key, value",
  [
    ("num_train_steps", 100),
    ("log_every", 1),
    ("eval_every", 1),
    ("checkpoint_every", 1),
    ("mesh.fsdp", 4),
    ("data_dir", "elsewhere"),
    ("info_files_dir", "elsewhere"),
    ("data_check", "uned"),
    ("data.num_threads", 3),
    ("model.unroll", 2),
    ("eval.metrics", ["recall@1"]),
  ],
)
def test_the_rest_may_change(key, value):
  workdirs.check_same_run("w", saved=CONFIG, given=changed(key, value))


def test_length_must_stay_where_rates_depend_on_it():
  cosine = changed("optimizer.schedule", "cosine")
  longer = copy.deepcopy(cosine)
  longer["num_train_steps"] = 100
  with pytest.raises(errors.UserError, match="num_train_steps is 12 there"):
    workdirs.check_same_run("w", saved=cosine, given=longer)


def test_length_must_stay_where_the_sampler_depends_on_it():
  """A schedule of the whole run."""
  official = changed("semantics", "official")
  longer = copy.deepcopy(official)
  longer["num_train_steps"] = 100
  with pytest.raises(errors.UserError, match="num_train_steps is 12 there"):
    workdirs.check_same_run("w", saved=official, given=longer)


def test_a_key_that_came_later_had_its_default():
  old = copy.deepcopy(CONFIG)
  del old["semantics"], old["sampler"]["flush_every"]
  workdirs.check_same_run("w", saved=old, given=CONFIG)
  with pytest.raises(errors.UserError, match="semantics is default there"):
    workdirs.check_same_run(
      "w", saved=old, given=changed("semantics", "official")
    )


def test_other_data_is_named():
  old = [{"name": "cars", "num_classes": 3, "fingerprint": "a"}]
  new = [{"name": "cars", "num_classes": 3, "fingerprint": "b"}]
  workdirs.check_same_data("w", saved=old, given=old)
  with pytest.raises(errors.UserError, match=r"domain cars.*config\.data_dir"):
    workdirs.check_same_data("w", saved=old, given=new)


def _hold(workdir, held, release):
  with workdirs.lock(workdir):
    held.set()
    release.wait(60)


def test_a_second_process_is_refused(tmp_path):
  spawn = multiprocessing.get_context("fork")
  held, release = spawn.Event(), spawn.Event()
  process = spawn.Process(target=_hold, args=(tmp_path, held, release))
  process.start()
  assert held.wait(60)
  with (
    pytest.raises(errors.UserError, match=f"by process {process.pid}"),
    workdirs.lock(tmp_path),
  ):
    pass
  release.set()
  process.join(60)
  with workdirs.lock(tmp_path):  # free again
    assert (tmp_path / workdirs.LOCK_FILE).read_text() == str(os.getpid())


def test_a_file_system_without_locks_is_used_without(tmp_path, monkeypatch):

  def unknown(*_):
    raise OSError(errno.ENOSYS, "Function not implemented")

  monkeypatch.setattr(fcntl, "flock", unknown)
  with workdirs.lock(tmp_path):
    assert (tmp_path / workdirs.LOCK_FILE).read_text() == str(os.getpid())


def test_a_killed_process_leaves_no_lock(tmp_path):
  spawn = multiprocessing.get_context("fork")
  held, release = spawn.Event(), spawn.Event()
  process = spawn.Process(target=_hold, args=(tmp_path, held, release))
  process.start()
  assert held.wait(60)
  process.kill()
  process.join(60)
  with workdirs.lock(tmp_path):
    pass
