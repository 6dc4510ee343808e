"""Both files of embeddings hold what they are given, at any size."""

import json

import numpy as np
import pytest

from udon_jax import errors
from udon_jax.extraction import embedding_files

PATHS = [
  "a.jpg",
  "größe/猫.png",
  "line\nbreak.gif",
  "b/\udcff\udce9.jpg",
  'q".jpg',
]


@pytest.fixture
def content(tmp_path):
  rows = np.random.default_rng(0).normal(size=(len(PATHS), 3))
  path = tmp_path / "rows"
  path.write_bytes(rows.astype(np.float32).tobytes())
  return embedding_files.Content(
    paths=lambda: iter(PATHS),
    unreadable=lambda: iter([]),
    embeddings=path,
    shape=(len(PATHS), 3),
    about={"step": 7, "domain": None},
  )


def write(folder, name, content):
  temporary = folder / "temporary"
  temporary.mkdir(exist_ok=True)
  output = embedding_files.check(str(folder / name))
  embedding_files.write(output, content, folder=temporary)
  assert not list(temporary.iterdir())
  return output


def test_npz_is_what_numpy_would_write(tmp_path, content, monkeypatch):
  monkeypatch.setattr(embedding_files, "_PIECE", 2)
  output = write(tmp_path, "x.npz", content)
  rows = np.fromfile(tmp_path / "rows", np.float32).reshape(-1, 3)
  np.savez(
    tmp_path / "numpy.npz",
    paths=np.array(PATHS),
    unreadable=np.array([], str),
    embeddings=rows,
  )
  assert output.read_bytes() == (tmp_path / "numpy.npz").read_bytes()


def test_npy_can_be_mapped_and_json_names_its_rows(tmp_path, content):
  output = write(tmp_path, "x.npy", content)
  rows = np.load(output, mmap_mode="r")
  np.testing.assert_array_equal(
    rows, np.fromfile(tmp_path / "rows", np.float32).reshape(-1, 3)
  )
  assert json.loads((tmp_path / "x.json").read_text()) == {
    "step": 7,
    "domain": None,
    "paths": PATHS,
    "unreadable": [],
  }


def test_earlier_files_are_replaced(tmp_path, content):
  for name in ("x.npz", "x.npy"):
    first = write(tmp_path, name, content).read_bytes()
    (tmp_path / name).write_bytes(b"earlier")
    assert write(tmp_path, name, content).read_bytes() == first


@pytest.mark.parametrize(
  "name, words",
  [
    ("x.bin", r"ends in \.npz or \.npy"),
    ("gs://bucket/x.npz", "must be a local file"),
    ("folder.npz", "is a folder"),
    ("mine.npy", r"would replace .*mine\.json"),
  ],
)
def test_names_that_are_refused(tmp_path, monkeypatch, name, words):
  monkeypatch.chdir(tmp_path)
  (tmp_path / "folder.npz").mkdir()
  (tmp_path / "mine.json").write_text("{}")
  with pytest.raises(errors.UserError, match=words):
    embedding_files.check(name)
