"""A run on official data, by command lines: records and lists, no images."""

import json
import shutil

import pytest

from tests import official_data, small_run
from tests.small_run import EVALUATE, TRAIN

DOMAINS = ("cars", "met")
# Elsewhere than the records, as official users have them; and exact pixels.
HOW = (
  "--config.data_dir=FOLDER/official/tfds",
  "--config.info_files_dir=FOLDER/lists",
  "--config.data.round_pixels=False",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """Returns a folder with a run on official data, and what it said."""
  folder = tmp_path_factory.mktemp("official")
  commands = dict(small_run.COMMANDS)
  del commands["train"]
  small_run.must_succeed(commands, folder)
  for domain in DOMAINS:
    root = folder / "data"
    shutil.rmtree(root / "tfds" / domain)
    splits = [p.stem for p in (root / "info_files" / domain).glob("*.json")]
    official_data.convert(root, domain, splits=splits, num_shards=40)
  shutil.copytree(folder / "data/tfds", folder / "official/tfds")
  shutil.move(folder / "data/info_files", folder / "lists")
  shutil.rmtree(folder / "data")
  return folder


@pytest.mark.slow
def test_official_data_trains_and_evaluates(folder):
  before = {
    path: path.read_bytes() for path in (folder / "official").rglob("*.tf*")
  }
  said = small_run.must_succeed(
    {
      "train": (*TRAIN, *HOW, "--workdir=FOLDER/run"),
      "again": (*TRAIN, *HOW, "--workdir=FOLDER/run"),
      "evaluate": (
        *(EVALUATE, "--workdir=FOLDER/run", "--output=FOLDER/again.json"),
      ),
      "moved": (
        *(EVALUATE, "--workdir=FOLDER/run", "--output=FOLDER/moved.json"),
        *("--data=FOLDER/official", "--info_files=FOLDER/lists"),
      ),
    },
    folder,
  )
  assert said["train"].count("differs from UnED's table") == 1
  results = json.loads((folder / "run/results.json").read_text())
  for name in ("again.json", "moved.json"):
    assert json.loads((folder / name).read_text()) == results
  assert {path: path.read_bytes() for path in before} == before
  page = (folder / "run/report.html").read_text()
  assert "Pictures are missing" not in page
