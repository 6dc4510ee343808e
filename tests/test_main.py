"""The command lines: a whole run on real files, and what they show."""

import json
import shutil

import numpy as np
import pytest

from tests import command_lines, compiling, reports, small_run
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
  none = (
    *(small_run.MAIN, small_run.QUICKSTART, "--print_config"),
    *("--config.num_train_steps=None", "--config.num_epochs=2"),
  )
  return command_lines.run_all(cases | {"config": config, "none": none})


def read(path):
  return json.loads(path.read_text())


def test_training_leaves_what_the_contract_says(folder, done):
  workdir = folder / "run"
  for name in (
    *("config.json", "environment.json", "checkpoints", "metrics.jsonl"),
    *("parameters.txt", "results.json", "examples.json", "report.html"),
  ):
    assert (workdir / name).exists()
  assert list(workdir.glob("events.out.tfevents.*"))
  line = "mesh: data=1 fsdp=1, 1 device, 1 process"
  assert done["train"].count(line) == 1
  assert "student merged" in done["train"]
  assert read(workdir / "config.json")["num_train_steps"] == 4


def test_training_ends_with_a_report_of_the_run(folder, done):
  workdir = folder / "run"
  assert f"written: {workdir}/report.html" in done["train"]
  page = reports.read_page(workdir / "report.html")
  mean = read(workdir / "results.json")["student"]["merged"]["test"]["mean"]
  assert page.tables["table-test"][3][-2:] == [
    f"{100 * mean[key]:.1f}" for key in ("recall@1", "mmp@5")
  ]
  groups = read(workdir / "examples.json")["groups"].values()
  expected = [
    kind
    for listed in groups
    for item in listed
    for kind in (
      "query",
      *("hit" if x["hit"] else "miss" for x in item["neighbours"]),
    )
  ]
  assert [kind for kind, _, _ in page.pictures] == expected
  for _, source, _ in page.pictures:
    assert reports.jpeg_size(source)[0] == "JPEG"


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


# {case: (command line, what it says of its report)}: a run that is done,
# started again, and a report that cannot be made.
NO_REPORT = {
  "no libraries": (
    ("tests.without", "matplotlib", *small_run.TRAIN, "--workdir=FOLDER/run"),
    ("report.html is left out: matplotlib", "pip install 'udon_jax[viz]'"),
  ),
  "no room": (
    (*small_run.TRAIN, "--workdir=FOLDER/blocked"),
    ("report.html could not be written", "is a folder"),
  ),
  "a bug": (
    (*small_run.TRAIN, "--workdir=FOLDER/bug"),
    ("report.html could not be written", "Traceback", "TypeError"),
  ),
}


@pytest.fixture(scope="module")
def without_report(folder, done):
  """Returns {case: its answer}."""
  assert done
  for name in ("blocked", "bug"):
    shutil.copytree(folder / "run", folder / name)
    (folder / name / "report.html").unlink()
  (folder / "blocked" / "report.html").mkdir()
  (folder / "bug" / "environment.json").write_text('{"num_parameters": "x"}')
  cases = {name: argv for name, (argv, _) in NO_REPORT.items()}
  return command_lines.run_all(
    small_run.fill(cases, folder), XLA_FLAGS=compiling.FLAGS
  )


@pytest.mark.parametrize("case", NO_REPORT)
def test_a_report_that_fails_leaves_the_training_done(without_report, case):
  code, _, errors = without_report[case]
  assert code == 0, errors
  assert "the run is done" in errors
  for words in NO_REPORT[case][1]:
    assert words in errors


def test_a_key_can_be_set_to_none(shown):
  """As messages ask for: a length is in steps or epochs, the other None."""
  assert shown["none"].code == 0
  assert "num_train_steps: null" in shown["none"].output
  assert "num_epochs: 2.0" in shown["none"].output


def test_the_config_can_be_shown(shown):
  assert shown["config"].code == 0

  def leaves(config):
    for key, value in config.items():
      yield key
      if hasattr(value, "items"):
        yield from leaves(value)

  for key in leaves(default_config.get_config()):
    assert f"{key}:" in shown["config"].output
