"""What an extraction has done is neither lost, nor doubled, nor mixed up."""

import os

import numpy as np
import pytest

from udon_jax import errors, workdirs
from udon_jax.extraction import partial

JOB = {"checkpoint": "abc", "embedding": "student", "domain": None}


def rows(first, count):
  return np.arange(first, first + 3 * count, dtype=np.float32).reshape(-1, 3)


def test_what_was_not_saved_is_cut_off(tmp_path):
  output = tmp_path / "x.npz"
  with partial.opened(output, job=JOB, dim=3) as done:
    done.append(rows(0, 4), [4])
    done.save()
    done.append(rows(100, 2), [5, 6, 9])
  with partial.opened(output, job=JOB, dim=3) as done:
    assert (done.done, done.num_rows, done.num_unreadable) == (5, 4, 1)
    done.append(rows(12, 1), [6])
    done.save()
    found = np.fromfile(done.embeddings_file, np.float32).reshape(-1, 3)
    np.testing.assert_array_equal(found, rows(0, 5))
    assert done.unreadable().tolist() == [4, 6]
    done.append(rows(0, 0), [])
    done.remove()
  assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("key, value", [("checkpoint", "b"), ("domain", "sop")])
def test_another_job_is_refused(tmp_path, key, value):
  output = tmp_path / "x.npz"
  with partial.opened(output, job=JOB, dim=3) as done:
    done.append(rows(0, 4), [])
    done.save()
  words = f"{key} is {JOB[key]} there and {value} here; .*delete the folder"
  with refused(words), partial.opened(output, job=JOB | {key: value}, dim=3):
    raise AssertionError("it was opened")
  with partial.opened(output, job=JOB, dim=3) as done:
    assert done.done == 4


def test_nothing_saved_belongs_to_no_job(tmp_path):
  output = tmp_path / "x.npz"
  with partial.opened(output, job=JOB, dim=3) as done:
    done.append(rows(0, 4), [])
  with partial.opened(output, job={"other": 1}, dim=2) as done:
    assert done.done == 0


@pytest.mark.parametrize("name", ["state.json", "embeddings.f32"])
def test_a_damaged_folder_is_named(tmp_path, name):
  output = tmp_path / "x.npz"
  with partial.opened(output, job=JOB, dim=3) as done:
    done.append(rows(0, 4), [])
    done.save()
  os.truncate(tmp_path / "x.npz.partial" / name, 10)
  with (
    refused(r"x\.npz\.partial is damaged"),
    partial.opened(output, job=JOB, dim=3),
  ):
    raise AssertionError("it was opened")


def test_one_process_at_a_time(tmp_path):
  output = tmp_path / "x.npz"
  with partial.opened(output, job=JOB, dim=3):
    words = rf"--output={output} is used by process {os.getpid()}; "
    with refused(words), partial.opened(output, job=JOB, dim=3):
      raise AssertionError("it was opened twice")


def test_the_folder_of_one_who_finished_is_not_used(tmp_path, monkeypatch):
  output = tmp_path / "x.npz"
  lock = workdirs.lock

  def slow(folder, **options):
    """Locks the folder just before another process removes it."""
    context = lock(folder, **options)
    context.__enter__()
    (folder / workdirs.LOCK_FILE).unlink()
    return context

  monkeypatch.setattr(workdirs, "lock", lambda *a, **k: Entered(slow(*a, **k)))
  with (
    refused("finished by another process"),
    partial.opened(output, job=JOB, dim=3),
  ):
    raise AssertionError("it was opened")


def refused(words):
  return pytest.raises(errors.UserError, match=words)


class Entered:
  """A context that was entered already."""

  def __init__(self, context):
    self._context = context

  def __enter__(self):
    return None

  def __exit__(self, *error):
    return self._context.__exit__(*error)
