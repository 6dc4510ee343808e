"""Offsets are kept beside records, or in a cache where these are read-only."""

import logging
import os

from etils import epath
import numpy as np
import pytest

from tests import data_files, official_data
from udon_jax import caches
from udon_jax.data import offsets, records, sidecars

DATA = [b"a" * n for n in (0, 1, 5000, 17, 300)]


@pytest.fixture
def cache(tmp_path, monkeypatch):
  folder = tmp_path / "cache"
  monkeypatch.setenv("UDON_JAX_CACHE", str(folder))
  return folder


@pytest.fixture
def file(tmp_path):
  path = tmp_path / "data" / "cars.val.tfrecord"
  data_files.write_records(path, DATA)
  return path


@pytest.fixture
def read_only(file, monkeypatch):
  """Makes the folder of the file refuse to be written, to anybody."""
  _refuse(monkeypatch, file.parent)


@pytest.fixture
def log(caplog, monkeypatch):
  monkeypatch.setattr(logging.getLogger("udon_jax"), "propagate", True)
  sidecars._tell_once.cache_clear()
  yield caplog
  sidecars._tell_once.cache_clear()


def _refuse(monkeypatch, *folders):
  write = sidecars._write

  def guarded(path, array):
    if any(os.fspath(path).startswith(f"{folder}/") for folder in folders):
      raise PermissionError(13, "Permission denied")
    write(path, array)

  monkeypatch.setattr(sidecars, "_write", guarded)


def read_all(file):
  opened = records.RecordFiles([file])
  return [opened.read(i) for i in range(len(opened))]


def kept(cache):
  return sorted(cache.rglob("*.npy"))


def never_walked(monkeypatch):
  monkeypatch.setattr(offsets, "_scan", None)


@pytest.mark.usefixtures("read_only")
def test_offsets_of_a_read_only_place_go_to_the_cache(file, cache, monkeypatch):
  before = os.listdir(file.parent)
  assert read_all(file) == DATA
  assert os.listdir(file.parent) == before
  (found,) = kept(cache)
  assert found.parent == cache / "offsets"
  never_walked(monkeypatch)
  assert read_all(file) == DATA


def test_a_place_that_can_be_written_leaves_the_cache_alone(file, cache):
  assert read_all(file) == DATA
  assert sidecars.beside(epath.Path(file), "offsets").exists()
  assert not cache.exists()


@pytest.mark.parametrize(
  ("change", "is_used"),
  [
    (lambda file: None, True),
    (lambda file: os.utime(file, ns=(1, 1)), False),
    (lambda file: data_files.write_records(file, [*DATA, b"x"]), False),
    (lambda file: data_files.write_records(file, DATA[::-1]), False),
  ],
  ids=["same", "other time", "other size", "other contents"],
)
@pytest.mark.usefixtures("read_only")
def test_the_cache_is_of_one_version_of_one_file(file, cache, change, is_used):
  read_all(file)
  change(file)
  read_all(file)
  assert (len(kept(cache)) == 1) == is_used
  other = file.with_name("other.tfrecord")
  data_files.write_records(other, DATA)
  assert read_all(other) == DATA


@pytest.mark.parametrize("damage", [lambda x: b"", lambda x: x[:-1], "flip"])
@pytest.mark.usefixtures("read_only")
def test_a_damaged_cache_heals(file, cache, damage):
  read_all(file)
  (found,) = kept(cache)
  whole = found.read_bytes()
  if damage == "flip":
    found.write_bytes(whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:])
  else:
    found.write_bytes(damage(whole))
  assert read_all(file) == DATA
  assert found.read_bytes() == whole


@pytest.mark.parametrize("wrong", ["moved", "fewer"])
def test_wrong_offsets_beside_read_only_records_heal(
  file, cache, wrong, monkeypatch
):
  """A sidecar that fits the size is passed once the cache knows better."""
  starts = offsets.load(file)
  bad = starts.copy()
  bad[1:-1] += 1
  offsets.write(file, bad if wrong == "moved" else np.delete(starts, 2))
  _refuse(monkeypatch, file.parent)
  if wrong == "fewer":
    with pytest.raises(records.errors.UserError, match="made anew"):
      read_all(file)
  assert read_all(file) == DATA
  assert len(kept(cache)) == 1
  never_walked(monkeypatch)
  assert read_all(file) == DATA


def test_a_place_that_becomes_writable_again_needs_no_cache(
  file, cache, monkeypatch
):
  with monkeypatch.context() as patch:
    _refuse(patch, file.parent)
    read_all(file)
  offsets.rebuild(file)
  assert kept(cache) == []
  assert sidecars.beside(epath.Path(file), "offsets").exists()


def test_where_nothing_can_be_kept_it_is_said_once(
  file, cache, monkeypatch, log
):
  _refuse(monkeypatch, file.parent, cache)
  for _ in range(3):
    assert read_all(file) == DATA
  (line,) = (record.getMessage() for record in log.records)
  assert "found again each time" in line and "UDON_JAX_CACHE" in line
  assert "\n" not in line


@pytest.mark.usefixtures("read_only")
def test_a_file_in_the_place_of_the_cache_is_no_error(file, tmp_path, cache):
  cache.write_text("precious")
  assert read_all(file) == DATA
  assert cache.read_text() == "precious"


def test_places_of_the_cache(monkeypatch, tmp_path):
  monkeypatch.setenv("HOME", str(tmp_path))
  for name in ("UDON_JAX_CACHE", "XDG_CACHE_HOME"):
    monkeypatch.delenv(name, raising=False)
  assert caches.folder() == tmp_path / ".cache" / "udon_jax"
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "x"))
  assert caches.folder() == tmp_path / "x" / "udon_jax"
  monkeypatch.setenv("UDON_JAX_CACHE", "~/mine")
  assert caches.folder() == tmp_path / "mine"


def test_no_pickle_is_read(file, cache):
  sidecar = sidecars.beside(epath.Path(file), "offsets")
  np.save(sidecar, np.array([{"a": 1}], object))
  assert read_all(file) == DATA


def test_the_official_code_still_reads_the_folder(tmp_path):
  """It reads all that begins with the name of the records."""
  data_files.add_split(tmp_path, "cars", "val", 5)
  official_data.convert(tmp_path, "cars", splits=["val"])
  first = official_data.read(tmp_path, "cars", "val")
  assert read_all(official_data.place(tmp_path, "cars", "val")) == first
  assert official_data.read(tmp_path, "cars", "val") == first


@pytest.mark.parametrize("size", [0, 100, 2**18 - 16, 2**18 - 15, 700_000])
def test_records_of_any_size_are_walked(tmp_path, size):
  """Headers lie in, across and beyond the blocks that are read."""
  rng = np.random.default_rng(size)
  lengths = [size, *rng.integers(0, 2 * size + 40, 30).tolist(), size]
  contents = [b"z" * length for length in lengths]
  file = tmp_path / "a.tfrecord"
  data_files.write_records(file, contents)
  expected = np.cumsum([0, *(length + 16 for length in lengths)])
  np.testing.assert_array_equal(offsets.rebuild(file), expected)
