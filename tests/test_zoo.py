"""Backbones off the shelf give what they give within a run."""

import json

from flax import traverse_util
import numpy as np
import pytest

from tests import command_lines, compiling, data_files, own_data, small_run
from udon_jax import trained

pytestmark = pytest.mark.slow

EVALUATE = small_run.EVALUATE
SPEC = "--pretrained=augreg:FOLDER/weights.npz"
DATA = "--data=FOLDER/data"
RUNS = {
  "all": (EVALUATE, SPEC, DATA),
  "val of one": (
    *(EVALUATE, SPEC, DATA, "--domains=met", "--splits=val"),
    *("--output=FOLDER/new/met.json", "--per_query=FOLDER/queries"),
  ),
  "tfds": (
    *(EVALUATE, SPEC, "--data=FOLDER/data/tfds", "--batch_size=8"),
    *("--info_files=FOLDER/data/info_files", "--output=FOLDER/tfds.json"),
  ),
  "met of the run": (
    *(EVALUATE, "--workdir=FOLDER/run", "--domains=met"),
    "--output=FOLDER/run_met.json",
  ),
  "larger": (
    *(EVALUATE, SPEC, DATA, "--image_size=48", "--domains=cars"),
    "--output=FOLDER/larger.json",
  ),
  "own": (EVALUATE, SPEC, "--data=FOLDER/own", "--output=FOLDER/own.json"),
  "one of own": (
    *(EVALUATE, SPEC, "--data=FOLDER/own", "--domains=mine"),
    *("--splits=val,test", "--output=FOLDER/mine.json"),
  ),
}
MISTAKES = {
  "no data": ((SPEC,), "--data is missing"),
  "no kind": (("--pretrained=x.npz", DATA), "must be KIND:PATH"),
  "no file": (("--pretrained=augreg:FOLDER/x.npz", DATA), "x.npz"),
  "no domain": ((SPEC, "--data=FOLDER/run"), "holds no domain"),
  "unknown domain": (
    (SPEC, DATA, "--domains=carz"),
    "--domains: 'carz' is unknown",
  ),
  "absent domain": ((SPEC, DATA, "--domains=sop"), "sop"),
  "odd size": ((SPEC, DATA, "--image_size=30"), "--image_size=30"),
  "odd batch": (
    (SPEC, DATA, "--batch_size=0"),
    "--batch_size",
  ),
  "with a run": ((SPEC, DATA, "--workdir=FOLDER/run"), "--workdir does not go"),
  "no domain of the run": (
    ("--workdir=FOLDER/run", "--domains=sop"),
    "--domains=sop is not of the run, which has teachers for cars, met",
  ),
  "with a step": ((SPEC, DATA, "--step=1"), "--step does not go with"),
  "a size for a run": (
    ("--workdir=FOLDER/run", "--image_size=32"),
    "--image_size does not go with --workdir",
  ),
  "heads that are told": ((SPEC, DATA, "--num_heads=4"), "--num_heads=4 does"),
  "other data": ((SPEC, DATA, "--data_check=uned"), "cars"),
  "output is a folder": ((SPEC, DATA, "--output=FOLDER/run"), "is taken"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """A run, its results, and its backbone as an AugReg file."""
  path = tmp_path_factory.mktemp("zoo")
  commands = dict(small_run.COMMANDS)
  commands["train"] += ("--config.data.round_pixels=False",)
  small_run.must_succeed(commands, path)
  backbone = trained.load(path / "run").params["backbone"]
  arrays = {}
  for name, value in traverse_util.flatten_dict(backbone, sep="/").items():
    start, block, inner = name.partition("encoderblock/")
    if block:
      for i, part in enumerate(np.asarray(value)):
        arrays[f"{start}encoderblock_{i}/{inner}"] = part
    else:
      arrays[name] = np.asarray(value)
  np.savez(path / "weights.npz", **arrays)
  write_own(path)
  return path


def write_own(path):
  """Writes data of cars, of a domain with lists and of a described one."""
  root = path / "own"
  for domain in ("cars", "mine", "unfinished"):
    for split in ("train", "val", "test"):
      data_files.add_split(root, domain, split, 6)
  data_files.add_split(root, "mine", "test_index", 5)
  (root / "info_files" / "unfinished" / "test.json").unlink()
  source = own_data.add_images(
    path / "source", own_data.by_class({"a": 8, "b": 8, "c": 8})
  )
  shoes = own_data.describe(
    folder=str(source), splits={"by": "image", "val": 0.3, "test": 0.3}
  )
  data_files.prepare(
    root,
    domain_names=["cars", "mine", "unfinished", "shoes"],
    own={"shoes": shoes},
  )


@pytest.fixture(scope="module")
def done(folder):
  return small_run.must_succeed(RUNS, folder)


def read(path):
  return json.loads(path.read_text())


def test_results_are_those_of_the_backbone_in_its_run(folder, done):
  of_run = read(folder / "run" / "results.json")["backbone"]
  results = read(folder / "weights.npz.results.json")
  assert results == {"backbone": of_run}
  assert "backbone merged" in done["all"]
  tfds = read(folder / "tfds.json")["backbone"]
  for kind, by_split in of_run.items():
    for domain, values in by_split["test"].items():
      assert tfds[kind]["test"][domain] == pytest.approx(values, abs=0.02)


def test_domains_splits_and_sizes_are_those_asked_for(folder, done):
  results = read(folder / "new" / "met.json")["backbone"]
  assert results.keys() == {"merged", "separate"}
  assert results["merged"].keys() == {"val"}
  assert results["merged"]["val"].keys() == {"met", "mean"}
  assert len(list((folder / "queries").iterdir())) == 2
  larger = read(folder / "larger.json")["backbone"]["separate"]["test"]
  assert larger.keys() == {"cars", "mean"}
  assert "resized" in done["larger"]
  assert "resized" not in done["all"]


def test_domains_that_have_lists_are_tested(folder, done):
  """Those of UnED first; by protocols that were made with the lists."""
  del done
  results = read(folder / "own.json")["backbone"]
  separate = results["separate"]["test"]
  assert list(separate) == ["cars", "mine", "shoes", "mean"]
  mine = read(folder / "mine.json")["backbone"]["separate"]
  assert mine["test"]["mine"] == separate["mine"]
  assert mine.keys() == {"val", "test"}
  queries = folder / "own" / "info_files" / "shoes"
  assert sorted(path.name for path in queries.iterdir()) == [
    "classes.txt",
    "source.yaml",
    "test.json",
    "train.json",
    "val.json",
  ]


def test_a_run_can_be_tested_on_some_of_its_domains(folder, done):
  """Each image still asks the teacher of its own domain."""
  del done
  whole = read(folder / "run" / "results.json")
  for name, results in read(folder / "run_met.json").items():
    values = whole[name]["separate"]["test"]["met"]
    assert results["separate"]["test"] == {"met": values, "mean": values}
    assert results["merged"] == results["separate"]


@pytest.fixture(scope="module")
def answers(folder):
  cases = {name: (EVALUATE, *argv) for name, (argv, _) in MISTAKES.items()}
  return command_lines.run_all(
    small_run.fill(cases, folder), XLA_FLAGS=compiling.FLAGS
  )


@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistake_ends_in_one_line(answers, case):
  answer = answers[case]
  assert answer.code == 2, answer.errors
  assert "Traceback" not in answer.errors
  assert MISTAKES[case][1] in answer.errors.splitlines()[-1]
