"""What goes wrong during a run costs nothing that was learned."""

from collections.abc import Callable
import dataclasses
import errno
import random
import shutil
import time

import pytest

from tests import fakes, training
from udon_jax import (
  build,
  checkpointing,
  disk,
  errors,
  reporting,
  trainer,
  workdirs,
)
from udon_jax import run as runs


def config(**changes):
  return fakes.changed(
    **{
      "log_every": 3,
      "eval_every": 6,
      "checkpoint_every": 4,
      "eval__embeddings": ("student",),
      **changes,
    }
  )


def on_one_device(c):
  with pytest.MonkeyPatch.context() as patch:
    return training.set_up(c, num_devices=1, monkeypatch=patch)


@pytest.fixture(scope="module")
def compiled():
  return on_one_device(config())


def train(compiled, workdir, *, sources=None, tasks=None):
  c = compiled.config
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(runs, "set_up", lambda *_: compiled)
    return trainer.train(
      c,
      workdir,
      sources=sources or fakes.sources(c),
      tasks=tasks or fakes.tasks(c),
    )


def lines(workdir):
  return [
    line
    for line in reporting.read_metrics(workdir)
    if not any(key.startswith("speed/") for key in line)
  ]


def steps(workdir):
  checkpointer = checkpointing.open_existing(workdir, best=runs.BEST_METRIC)
  found = checkpointer.steps
  checkpointer.close()
  return found


@pytest.fixture(scope="module")
def whole(compiled, tmp_path_factory):
  workdir = tmp_path_factory.mktemp("whole")
  return workdir, train(compiled, workdir)


# Data.


@dataclasses.dataclass(frozen=True)
class Vanishing(fakes.Source):
  """A source whose files are gone after some batches of the whole run."""

  taken: list = dataclasses.field(default_factory=list)
  last: int = 0

  def open(self, position):
    for batch in super().open(position):
      if len(self.taken) == self.last:
        raise errors.UserError(f"{self.name}.tfrecord cannot be read any more")
      self.taken.append(self.name)
      yield batch


@pytest.mark.parametrize(
  "last", [0, 7, *(pytest.param(i, marks=pytest.mark.slow) for i in (1, 8))]
)
def test_where_data_vanishes_the_steps_before_are_saved(
  compiled, whole, tmp_path, last
):
  taken = []
  sources = [
    Vanishing(name, compiled.config.batch_size, taken=taken, last=last)
    for name in compiled.config.domains
  ]
  with pytest.raises(errors.UserError, match=r"tfrecord cannot be read any"):
    train(compiled, tmp_path, sources=sources)
  if last:
    assert steps(tmp_path)[-1] == last
  assert train(compiled, tmp_path) == whole[1]
  assert lines(tmp_path) == lines(whole[0])


def test_where_data_vanishes_at_the_start_of_a_window(
  compiled, whole, tmp_path
):
  """The window is planned when the step before is saved, and once more."""
  late = dataclasses.replace(compiled, config=config(eval_every=12))
  taken = []
  sources = [
    Vanishing(name, late.config.batch_size, taken=taken, last=6)
    for name in late.config.domains
  ]
  with pytest.raises(errors.UserError, match=r"tfrecord cannot be read any"):
    train(late, tmp_path, sources=sources)
  assert steps(tmp_path)[-1] == 6 == late.config.sampler.update_every
  train(late, tmp_path)

  def learned(workdir):
    return [
      x
      for x in lines(workdir)
      if not any(k.startswith(("val/", "test/")) for k in x)
    ]

  assert learned(tmp_path) == learned(whole[0])


def test_where_data_vanishes_in_a_validation_it_is_done_again(
  compiled, whole, tmp_path
):
  """Its step is not saved: the run would go on without its results."""

  tasks = fakes.tasks(compiled.config)
  there = [tasks["val"]]  # when the run starts, not when it validates

  def vanishing():
    if not there:
      raise errors.UserError("val.tfrecord cannot be read any more")
    return there.pop()()

  tasks = {**tasks, "val": vanishing}
  with pytest.raises(errors.UserError, match=r"val.tfrecord"):
    train(compiled, tmp_path, tasks=tasks)
  assert steps(tmp_path) == [4]
  assert train(compiled, tmp_path) == whole[1]
  assert lines(tmp_path) == lines(whole[0])


# The clock.


@dataclasses.dataclass(frozen=True)
class Jumping(fakes.Source):
  """A source at whose batches the clock on the wall jumps by days."""

  jump: Callable[[], None] = lambda: None

  def open(self, position):
    for batch in super().open(position):
      self.jump()
      yield batch


def test_a_clock_that_jumps_changes_nothing(compiled, whole, tmp_path):
  rng, real, offset = random.Random(0), time.time, [0.0]

  def jump():
    time.sleep(0.3)  # a save is over: within one, Orbax would give up
    offset[0] = rng.uniform(-1e6, 1e6)

  c = compiled.config
  sources = [Jumping(n, c.batch_size, jump=jump) for n in c.domains]
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(time, "time", lambda: real() + offset[0])
    assert train(compiled, tmp_path, sources=sources) == whole[1]
  assert lines(tmp_path) == lines(whole[0])
  key = "speed/step_time"
  times = [x[key] for x in reporting.read_metrics(tmp_path) if key in x]
  assert times
  assert all(0 < seconds < 1e3 for seconds in times)


# What others leave in the workdir.


def test_results_of_an_evaluation_are_not_those_of_the_run(
  compiled, whole, tmp_path
):
  """They may lie there when training is killed before its own test."""
  workdir = tmp_path / "copy"
  shutil.copytree(whole[0], workdir)
  (workdir / "examples.json").unlink()
  for text in ("{}", "", "{torn"):
    (workdir / "results.json").write_text(text)
    assert train(compiled, workdir) == whole[1]
    assert reporting.read_json(workdir / "results.json") == whole[1]
    assert lines(workdir) == lines(whole[0])
    (workdir / "examples.json").unlink()
  assert train(compiled, workdir) == whole[1]
  (workdir / "results.json").write_text("")  # what a crash may leave
  assert train(compiled, workdir) == whole[1]


def test_a_note_of_divergence_that_is_torn_is_named(tmp_path):
  assert workdirs.read_divergence(tmp_path) is None
  workdirs.note_divergence(tmp_path, step=7, domain="cars")
  assert workdirs.read_divergence(tmp_path) == 7
  for text in ("", "{}", '{"step": null}'):
    (tmp_path / workdirs.DIVERGED_FILE).write_text(text)
    with pytest.raises(errors.UserError, match=r"diverged.json.*delete it"):
      workdirs.read_divergence(tmp_path)


# Divergence.


@pytest.mark.slow
def test_a_run_that_diverged_goes_on_with_a_lower_rate(tmp_path):
  wild = {"optimizer__learning_rate": 1e30, "num_train_steps": 12}
  wild = config(**wild, checkpoint_every=1, log_every=6)
  with pytest.raises(errors.DivergedError) as caught:
    train(on_one_device(wild), tmp_path)
  assert caught.value.step > 1
  assert steps(tmp_path)[-1] == caught.value.step - 1
  other = config(seed=1)
  with pytest.raises(errors.UserError, match=r"config.seed is 0 there"):
    train(on_one_device(other), tmp_path)
  tame = on_one_device(config(optimizer__learning_rate=1e-4))
  assert train(tame, tmp_path)
  assert not (tmp_path / workdirs.DIVERGED_FILE).exists()
  with pytest.raises(errors.UserError, match=r"learning_rate is 0.0001 there"):
    train(on_one_device(config()), tmp_path)


def test_only_rates_and_precision_change_after_divergence():
  saved = build.to_json(config())
  for key, free in {
    "optimizer__learning_rate": True,
    "optimizer__grad_clip_norm": True,
    "model__dtype": True,
    "loss__scale": False,
    "batch_size": False,
  }.items():
    value = {"model__dtype": "bfloat16", "batch_size": 8}.get(key, 0.5)
    given = build.to_json(config(**{key: value}))
    with pytest.raises(errors.UserError, match=key.replace("__", ".")):
      workdirs.check_same_run("w", saved=saved, given=given)
    if free:
      workdirs.check_same_run("w", saved=saved, given=given, diverged=True)
    else:
      with pytest.raises(errors.UserError, match=key.replace("__", ".")):
        workdirs.check_same_run("w", saved=saved, given=given, diverged=True)


# A full disk.


def test_a_disk_too_small_is_told_before_a_save(compiled, whole, tmp_path):
  real = shutil.disk_usage
  saves = []

  def usage(path):
    saves.append(path)
    free = 1000 if len(saves) > 1 else real(path).free
    return real(path)._replace(free=free)

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(shutil, "disk_usage", usage)
    with pytest.raises(errors.DiskFullError, match=r"is full: .*0.0 MB are"):
      train(compiled, tmp_path)
  assert steps(tmp_path) == [4]
  assert train(compiled, tmp_path) == whole[1]
  assert lines(tmp_path) == lines(whole[0])


@pytest.mark.parametrize(
  "error, full",
  [
    (OSError(errno.ENOSPC, "No space left on device"), True),
    (OSError(errno.EDQUOT, "x"), True),
    (ValueError("RESOURCE_EXHAUSTED: ... No space left on device [28]"), True),
    (OSError(errno.ENOENT, "No such file"), False),
    (ValueError("shape"), False),
  ],
)
def test_a_full_disk_is_known_by_any_library_s_error(error, full):
  expected = errors.DiskFullError if full else type(error)
  with pytest.raises(expected), disk.full_disk_told("w"):
    raise error
  with (
    pytest.raises(errors.DiskFullError if full else KeyError),
    disk.full_disk_told("w"),
  ):
    raise KeyError("late") from error
