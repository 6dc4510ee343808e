"""The command lines: a whole run on real files, and what they show."""

import json

import numpy as np
import pytest

from tests import command_lines, small_run
from udon_jax import default_config

OUTPUTS = ("student", "teacher", "backbone")
HELPFUL = (
  small_run.MAIN,
  small_run.EVALUATE,
  small_run.PREPARE,
  small_run.SYNTHETIC,
  "udon_jax.extract",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """A folder of data, a run on it, and the run's evaluation."""
  return tmp_path_factory.mktemp("command_lines")


@pytest.fixture(scope="module")
def done(folder):
  """Returns {command: what it wrote to stderr}, of all that must succeed."""
  evaluate = (
    small_run.EVALUATE,
    "--workdir=FOLDER/run",
    "--output=FOLDER/again.json",
    "--per_query=FOLDER/queries",
  )
  return small_run.must_succeed(
    small_run.COMMANDS | {"evaluate": evaluate}, folder
  )


@pytest.fixture(scope="module")
def shown():
  """Returns {command: its answer}, of all that only show something."""
  cases = {module: (module, "--help") for module in HELPFUL}
  config = (small_run.MAIN, small_run.QUICKSTART, "--print_config")
  return command_lines.run_all(cases | {"config": config})


def read(path):
  return json.loads(path.read_text())


def test_training_leaves_what_the_contract_says(folder, done):
  workdir = folder / "run"
  for name in ("config.json", "checkpoints", "metrics.jsonl", "results.json"):
    assert (workdir / name).exists()
  assert list(workdir.glob("events.out.tfevents.*"))
  line = "mesh: data=1 fsdp=1, 1 device, 1 process"
  assert done["train"].count(line) == 1
  assert "student merged" in done["train"]
  assert read(workdir / "config.json")["num_train_steps"] == 4


def test_evaluation_repeats_the_results_of_training(folder, done):
  results = read(folder / "again.json")
  assert results == read(folder / "run" / "results.json")
  assert set(results) == set(OUTPUTS)
  assert "checkpoint of step 4" in done["evaluate"]
  assert "student merged" in done["evaluate"]


def test_neighbours_of_every_query_are_those_of_the_results(folder, done):
  assert done
  results, queries = read(folder / "again.json"), folder / "queries"
  kinds = ("separate", "merged")
  names = [f"test_{out}_{kind}.jsonl" for out in OUTPUTS for kind in kinds]
  assert sorted(p.name for p in queries.iterdir()) == sorted(names)
  for out in OUTPUTS:
    for kind in kinds:
      text = (queries / f"test_{out}_{kind}.jsonl").read_text()
      lines = [json.loads(line) for line in text.splitlines()]
      for domain in ("cars", "met"):
        own = [x["metrics"] for x in lines if x["domain"] == domain]
        np.testing.assert_allclose(
          np.mean([metrics["recall@1"] for metrics in own]),
          results[out][kind]["test"][domain]["recall@1"],
        )


@pytest.mark.parametrize("module", HELPFUL)
def test_help_is_no_mistake(shown, module):
  assert shown[module].code == 0
  flag = "--output" if module == small_run.SYNTHETIC else "dir"
  assert flag in shown[module].output
  assert not shown[module].errors


def test_the_config_can_be_shown(shown):
  assert shown["config"].code == 0

  def leaves(config):
    for key, value in config.items():
      yield key
      if hasattr(value, "items"):
        yield from leaves(value)

  for key in leaves(default_config.get_config()):
    assert f"{key}:" in shown["config"].output
