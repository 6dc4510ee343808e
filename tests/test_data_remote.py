"""Data may lie in a bucket: here one that is made up, of local files.

It knows what object stores know: whole files and their pieces; no appending.
"""

import dataclasses
import inspect
import os
import pathlib
import shutil

from etils.epath import backend, gpath
import numpy as np
import pytest

from tests import data_files
from udon_jax.data import dataset, layout, splits, writer

BUCKET = "gs://bucket"
OPTIONS = dataclasses.replace(data_files.OPTIONS, resize_size=24, crop_size=21)


class Bucket:
  """A backend of paths that keeps `gs://bucket/` in a local folder."""

  def __init__(self, folder):
    self._folder = str(folder)
    self._local = backend.os_backend
    self.modes = []

  def _inside(self, path):
    text = os.fspath(path)
    assert text.startswith(BUCKET), text
    return self._folder + text[len(BUCKET) :]

  def _outside(self, path):
    return BUCKET + os.fspath(path)[len(self._folder) :]

  def open(self, path, mode):
    assert mode in ("r", "rb", "w", "wb"), mode
    self.modes.append(mode)
    return self._local.open(self._inside(path), mode)

  def glob(self, path):
    return [self._outside(x) for x in self._local.glob(self._inside(path))]

  def rename(self, path, dst):
    self._local.rename(self._inside(path), self._inside(dst))

  def replace(self, path, dst):
    self._local.replace(self._inside(path), self._inside(dst))

  def __getattr__(self, name):
    real = getattr(self._local, name)
    assert name in (
      "exists",
      "isdir",
      "listdir",
      "makedirs",
      "mkdir",
      "rmtree",
      "remove",
      "stat",
    ), name
    assert "dst" not in inspect.signature(real).parameters
    return lambda path, **kwargs: real(self._inside(path), **kwargs)


@pytest.fixture
def bucket(tmp_path, monkeypatch):
  """(bucket, local folder that it keeps its files in)."""
  folder = tmp_path / "bucket"
  folder.mkdir()
  made = Bucket(folder)
  monkeypatch.setitem(gpath._PREFIX_TO_BACKEND, "gs", made)
  monkeypatch.setattr(gpath, "_is_tf_installed", lambda: False)
  return made, folder


@pytest.fixture(scope="module")
def images(tmp_path_factory):
  root = tmp_path_factory.mktemp("images")
  for split, count in (("train", 23), ("val", 13), ("test", 6)):
    data_files.add_split(root, "cars", split, count)
  return root


def load(root, **changes):
  (source,), tasks = dataset.load(
    root,
    domains=("cars",),
    batch_size=6,
    eval_batch_size=6,
    seed=0,
    options=dataclasses.replace(OPTIONS, **changes),
  )
  stream = source.open(1)
  trained = [next(stream) for _ in range(6)]
  (task,) = tasks["val"]()
  return source, trained, list(task.query.open())


@pytest.mark.parametrize("decoder", ["tensorflow", "opencv"])
@pytest.mark.parametrize("store", ["original", "raw24"])
def test_a_bucket_is_a_folder(
  bucket, images, tmp_path, monkeypatch, store, decoder
):
  monkeypatch.setattr(writer, "_IMAGES_PER_PIECE", 5)
  _, folder = bucket
  local = tmp_path / "local"
  shutil.copytree(images, local)
  shutil.copytree(images, folder / "data")
  for root in (local, f"{BUCKET}/data"):
    data_files.prepare(
      root, place=layout.find(root), store=store, num_shards=None
    )
  assert data_files.contents(local) == data_files.contents(folder / "data")
  ours = load(f"{BUCKET}/data", decoder=decoder)
  theirs = load(local, decoder=decoder)
  assert ours[0].fingerprint == theirs[0].fingerprint
  for a, b in zip(ours[1] + ours[2], theirs[1] + theirs[2], strict=True):
    np.testing.assert_array_equal(a.images, b.images)


def test_a_preparation_in_a_bucket_goes_on(bucket, images, monkeypatch):
  monkeypatch.setattr(writer, "_IMAGES_PER_PIECE", 5)
  made, folder = bucket
  shutil.copytree(images, folder / "data")
  place = layout.find(f"{BUCKET}/data")
  real, count = writer.read_image, []

  def read(job, number):
    count.append(number)
    if len(count) == 40:
      raise KeyboardInterrupt
    return real(job, number)

  with monkeypatch.context() as patch:
    patch.setattr(writer, "read_image", read)
    with pytest.raises(KeyboardInterrupt):
      data_files.prepare(None, place=place, num_shards=None)
  finished = list(pathlib.Path(folder).rglob(".*.tmp/cars.*"))
  assert finished
  data_files.prepare(None, place=place, num_shards=None)
  files, info = splits.open_eval(place, "cars", "val")
  assert len(files) == len(info.paths) == 13
  assert not list(pathlib.Path(folder).rglob("*.tmp"))
  assert "ab" not in made.modes
