"""A run that starts from another's weights, with other domains."""

import contextlib
import logging
import shutil

import jax
import numpy as np
import pytest

from tests import fakes, training
from udon_jax import (
  checkpointing,
  domains,
  errors,
  reporting,
  resuming,
  trainer,
)
from udon_jax import run as runs
from udon_jax.checkpointing import saved_state


@pytest.fixture(scope="module")
def old(tmp_path_factory):
  """A run of two domains, and the state that its best checkpoint holds.

  met idles in the last steps: its prototypes lag in the checkpoint.
  """
  folder = tmp_path_factory.mktemp("old")
  config = fakes.changed(
    domains=("met", "cars"),
    num_train_steps=6,
    eval_every=6,
    sampler__strategy="specialist_top_steps",
    sampler__allocation=(1, 5),
  )
  trainer.train(
    config, folder, sources=fakes.sources(config), tasks=fakes.tasks(config)
  )
  run = training.set_up(config)
  with open_folder(folder) as checkpointer:
    state = checkpointer.restore(
      6, run.abstract_state, layout=run.layout, mesh=run.mesh
    )
  return folder, run, state


def open_folder(folder):
  return contextlib.closing(
    checkpointing.Checkpointer(folder, keep_latest=1, best=runs.BEST_METRIC)
  )


def start(folder, new, **changes):
  """Returns a new run and the state that it starts from."""
  config = fakes.changed(pretrained=f"udon:{folder}", **changes)
  run = training.set_up(config)
  with open_folder(new) as checkpointer:
    return run, resuming.restore_or_init(run, checkpointer, workdir=new)


def tables(run, state):
  """Prototypes by role and domain, as of the state's step."""
  fresh = state.replace(prototypes=training.up_to_date(run, state))
  saved = saved_state.from_state(fresh, layout=run.layout, mesh=run.mesh)
  return jax.device_get(saved[saved_state.TRAINING]["prototypes"])


def host(tree):
  return jax.tree.map(np.asarray, jax.device_get(tree))


def test_shared_domains_keep_their_heads_and_others_are_new(old, tmp_path):
  folder, before, theirs = old
  # Another order, a domain between them, other devices.
  run, state = start(
    folder,
    tmp_path,
    domains=("cars", "sop", "met"),
    mesh__data=2,
    mesh__fsdp=4,
  )
  new, found, fresh = host(
    (state.params, theirs.params, run.init_state().params)
  )
  for part in ("backbone", "student_projection"):
    jax.tree.map(np.testing.assert_array_equal, new[part], found[part])
  for i, wanted in enumerate((found, fresh, found)):
    row = (1, 1, 0)[i]
    jax.tree.map(
      lambda x, y, i=i, row=row: np.testing.assert_array_equal(x[i], y[row]),
      new["teacher_projection"],
      wanted["teacher_projection"],
    )
  ours, saved = tables(run, state), tables(before, theirs)
  untouched = tables(run, run.init_state())
  for role in ("student", "teacher"):
    for name in ("cars", "met"):
      np.testing.assert_array_equal(
        ours[role][name][:, 0], saved[role][name][:, 0]
      )
      assert not ours[role][name][:, 1:].any()
      assert saved[role][name][:, 1:].any()  # there were moments to leave
    np.testing.assert_array_equal(ours[role]["sop"], untouched[role]["sop"])
  assert int(state.step) == 0 and not np.any(state.data_position)
  jax.tree.map(
    np.testing.assert_array_equal,
    host(state.opt_state),
    host(run.init_state().opt_state),
  )


@pytest.mark.slow
def test_prototypes_of_other_class_counts_are_new(
  old, tmp_path, monkeypatch, caplog
):
  monkeypatch.setattr(logging.getLogger("udon_jax"), "propagate", True)
  caplog.set_level(logging.INFO, "udon_jax")
  monkeypatch.setitem(fakes.NUM_CLASSES, "cars", 6)
  folder, before, theirs = old
  run, state = start(folder, tmp_path, domains=("cars", "met", "sop"))
  ours, untouched = tables(run, state), tables(run, run.init_state())
  np.testing.assert_array_equal(
    ours["teacher"]["cars"], untouched["teacher"]["cars"]
  )
  np.testing.assert_array_equal(
    ours["teacher"]["met"][:, 0], tables(before, theirs)["teacher"]["met"][:, 0]
  )
  assert (
    "domains: met; cars (other classes or data: prototypes are new); sop (new)"
    in caplog.text
  )


def test_the_workdirs_own_checkpoint_comes_first(old, tmp_path):
  folder, _, _ = old
  config = fakes.changed(pretrained=f"udon:{folder}", num_train_steps=4)
  trainer.train(
    config, tmp_path, sources=fakes.sources(config), tasks=fakes.tasks(config)
  )
  longer = fakes.changed(pretrained="udon:/gone", num_train_steps=6)
  # The workdir's own checkpoint comes first: the other run is not looked for.
  trainer.train(
    longer, tmp_path, sources=fakes.sources(longer), tasks=fakes.tasks(longer)
  )
  with open_folder(tmp_path) as checkpointer:
    assert checkpointer.latest_step == 6


def test_prototypes_of_other_data_are_new_unless_they_are_of_uned(
  old, tmp_path, monkeypatch
):
  folder, before, theirs = old
  saved = tables(before, theirs)["teacher"]["met"][:, 0]
  monkeypatch.setattr(fakes.Source, "fingerprint", "other data")
  run, state = start(folder, tmp_path / "a", domains=("met", "sop"))
  np.testing.assert_array_equal(
    tables(run, state)["teacher"]["met"][:, 0], saved
  )
  monkeypatch.setattr(domains, "UNED", {})
  run, state = start(folder, tmp_path / "b", domains=("met", "sop"))
  np.testing.assert_array_equal(
    tables(run, state)["teacher"]["met"],
    tables(run, run.init_state())["teacher"]["met"],
  )


def test_classes_are_known_again_by_their_names(
  old, tmp_path, monkeypatch, caplog
):
  """Of a domain that grew, lost a class, and is in another order."""
  monkeypatch.setattr(logging.getLogger("udon_jax"), "propagate", True)
  caplog.set_level(logging.INFO, "udon_jax")
  folder, before, theirs = old
  named = tmp_path / "named"
  shutil.copytree(folder, named)
  reporting.write_class_names(named, {"met": list("abcdefg")})
  names = list("xgayéfcb")  # of which two are new
  monkeypatch.setitem(fakes.CLASS_NAMES, "met", names)
  monkeypatch.setitem(fakes.NUM_CLASSES, "met", len(names))
  monkeypatch.setattr(fakes.Source, "fingerprint", "other data")
  run, state = start(named, tmp_path / "new", domains=("sop", "met"))
  ours, untouched = tables(run, state), tables(run, run.init_state())
  saved = tables(before, theirs)
  for role in ("student", "teacher"):
    for label, name in enumerate(names):
      wanted = untouched[role]["met"][label]
      if name in "abcdefg":
        wanted = saved[role]["met"]["abcdefg".index(name)]
      np.testing.assert_array_equal(ours[role]["met"][label, 0], wanted[0])
      assert not ours[role]["met"][label, 1:].any()
  assert "sop (new); met (5 of 8 classes, by their names)" in caplog.text


def test_classes_of_other_names_are_new(old, tmp_path, monkeypatch):
  """However many there are, and of whatever data."""
  named = tmp_path / "named"
  shutil.copytree(old[0], named)
  reporting.write_class_names(named, {"met": list("abcdefg")})
  monkeypatch.setitem(fakes.CLASS_NAMES, "met", list("ABCDEFG"))
  run, state = start(named, tmp_path / "new", domains=("met", "sop"))
  np.testing.assert_array_equal(
    tables(run, state)["teacher"]["met"],
    tables(run, run.init_state())["teacher"]["met"],
  )


def test_a_run_leaves_the_names_of_its_classes(tmp_path, monkeypatch):
  names = ["größe 1", "", " b", "c\t", "d"]
  monkeypatch.setitem(fakes.CLASS_NAMES, "cars", names)
  config = fakes.changed(domains=("cars", "met"), num_train_steps=2)
  trainer.train(
    config, tmp_path, sources=fakes.sources(config), tasks=fakes.tasks(config)
  )
  assert reporting.read_class_names(tmp_path, "cars") == names
  assert reporting.read_class_names(tmp_path, "met") is None


def test_another_model_is_named(old, tmp_path):
  with pytest.raises(
    errors.UserError,
    match=r"config.pretrained=.*config.model.student_dim is 8 there and 4",
  ):
    start(old[0], tmp_path, model__student_dim=4)


def test_a_folder_without_checkpoints_is_named(tmp_path):
  with pytest.raises(errors.UserError, match="holds no checkpoint"):
    start(tmp_path / "none", tmp_path / "new")
