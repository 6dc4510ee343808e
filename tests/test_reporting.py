"""Files of a run: whole or not there, and as they were written."""

import os

import pytest

from udon_jax import errors, reporting


def test_a_file_is_replaced_at_once(tmp_path, monkeypatch):
  """A reader meets the old file until the new one is whole."""
  path = tmp_path / "results.json"
  reporting.write_json(path, {"a": 1})

  def torn(descriptor):
    os.ftruncate(descriptor, 3)
    raise OSError("disk full")

  monkeypatch.setattr(os, "fsync", torn)
  with pytest.raises(OSError, match="disk full"):
    reporting.write_json(path, {"a": 2})
  assert reporting.read_json(path) == {"a": 1}


def test_json_comes_back_unrounded(tmp_path):
  value = {"student": {"merged": {"test": {"mean": {"recall@1": 1 / 3}}}}}
  reporting.write_json(tmp_path / "x.json", value)
  assert reporting.read_json(tmp_path / "x.json") == value
  assert os.listdir(tmp_path) == ["x.json"]


def test_a_folder_is_made_and_left_clean(tmp_path):
  folder = reporting.make_folder(tmp_path / "a" / "b", key="--workdir")
  assert folder.is_dir()
  assert not list(folder.iterdir())


@pytest.mark.parametrize("place", ["file", "file/x"])
def test_a_folder_that_cannot_be_written_is_named(tmp_path, place):
  (tmp_path / "file").write_text("")
  with pytest.raises(
    errors.UserError, match=rf"--workdir=.*{place} cannot be .*choose another"
  ):
    reporting.make_folder(tmp_path / place, key="--workdir")


def test_flatten():
  tree = {"a": {"x": 1.0, "b": {"y": 2.0}}, "c": 3.0}
  assert reporting.flatten(tree, "val") == {
    "val/a/x": 1.0,
    "val/a/b/y": 2.0,
    "val/c": 3.0,
  }


@pytest.mark.parametrize(
  "seconds, text",
  [
    (0, "0:00"),
    (4.4, "0:04"),
    (59.6, "1:00"),
    (245, "4:05"),
    (3599.9, "1:00:00"),
    (3845, "1:04:05"),
    (90_000, "25:00:00"),
    (float("inf"), "?"),
    (float("nan"), "?"),
  ],
)
def test_format_duration(seconds, text):
  assert reporting.format_duration(seconds) == text
