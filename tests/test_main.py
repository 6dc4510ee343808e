"""The command lines: a whole run on real files, and every mistake's message."""

import json
import shutil

import numpy as np
import pytest

from tests import command_lines, reports
from udon_jax import default_config

MAIN, EVALUATE = "udon_jax.main", "udon_jax.evaluate"
QUICKSTART = "--config=configs/quickstart.py"
# The quickstart, with a tiny model and four steps.
TINY = (
  QUICKSTART,
  "--config.model.name=vit_mu8",
  "--config.data.resize_size=36",
  "--config.data.crop_size=32",
  "--config.batch_size=16",
  "--config.num_train_steps=4",
  "--config.log_every=2",
  "--config.eval_every=4",
  "--config.sampler.update_every=2",
  "--config.optimizer.warmup_steps=1",
  "--config.eval.batch_size=16",
  "--config.eval.embeddings=('student',)",
)
TWO_DOMAINS = "--config.domains=('cars','met')"
PLACES = ("--config.data_dir=FOLDER/data", "--workdir=FOLDER/new")
TRAIN = (MAIN, *TINY, TWO_DOMAINS, *PLACES)
OUTPUTS = ("student", "teacher", "backbone")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """A folder of data, a run on it, and the run's evaluation."""
  return tmp_path_factory.mktemp("command_lines")


def fill(argv, folder):
  return [x.replace("FOLDER", str(folder)) for x in argv]


@pytest.fixture(scope="module")
def done(folder):
  """Returns {command: what it wrote to stderr}, of all that must succeed."""
  commands = {
    "draw": (
      "udon_jax.data.synthetic",
      "--size=smoke",
      "--output=FOLDER/data",
    ),
    "prepare": (
      "udon_jax.data.prepare",
      "--data_dir=FOLDER/data",
      "--domains=cars,met",
    ),
    "train": (MAIN, *TINY, TWO_DOMAINS, *PLACES, "--workdir=FOLDER/run"),
    "evaluate": (
      EVALUATE,
      "--workdir=FOLDER/run",
      "--output=FOLDER/again.json",
      "--per_query=FOLDER/queries",
    ),
  }
  answers = command_lines.run_all(
    {name: fill(argv, folder) for name, argv in commands.items()}, XLA_FLAGS=""
  )
  for code, _, errors in answers.values():
    assert code == 0, errors
  return {name: errors for name, (_, _, errors) in answers.items()}


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


def write_broken(folder, name, break_it):
  """Returns a copy of the data whose info files are changed."""
  root, good = folder / name, folder / "data"
  root.mkdir()
  for part in ("images", "tfds"):
    (root / part).symlink_to(good / part)
  shutil.copytree(good / "info_files", root / "info_files")
  break_it(root / "info_files" / "cars")
  return root


def set_class_id(cars, class_id):
  entries = read(cars / "train.json")
  entries[3]["class_id"] = class_id
  (cars / "train.json").write_text(json.dumps(entries))


# {case: (command line, what its message must hold)}; a later flag counts.
MISTAKES = {
  "unknown key": (
    (*TRAIN, "--config.batchsize=3"),
    ("batchsize", 'Did you mean "batch_size"', "--print_config"),
  ),
  "config missing": (
    (MAIN, "--config=configs/none.py", "--workdir=x"),
    ("configs/none.py", "are in configs/"),
  ),
  "config not given": ((MAIN,), ("--config", "for example")),
  "config is no config": (
    (MAIN, "--config=udon_jax/errors.py", "--workdir=x"),
    ("get_config", "--config"),
  ),
  "workdir not given": ((MAIN, *TINY), ("--workdir", "for example")),
  "unknown flag": ((*TRAIN, "--wrkdir=x"), ("wrkdir", "Did you mean")),
  "argument": ((*TRAIN, "x"), ("'x'", "--help")),
  "unknown domain": (
    (MAIN, *TINY, "--config.domains=('cars','dogs')", *PLACES),
    ("config.domains", "'dogs'", "known domains: cars, sop"),
  ),
  "domain twice": (
    (MAIN, *TINY, "--config.domains=('cars','cars')", *PLACES),
    ("config.domains", "each once"),
  ),
  "unknown model": (
    (*TRAIN, "--config.model.name=vit_z16"),
    ("config.model.name='vit_z16'", "known: vit_"),
  ),
  "patch": (
    (*TRAIN, "--config.data.crop_size=30"),
    ("config.data.crop_size=30", "use for example"),
  ),
  "data missing": (
    (*TRAIN, "--config.data_dir=FOLDER/nowhere"),
    ("config.data_dir", "nowhere", "python -m udon_jax.data.prepare"),
  ),
  "data not prepared": (
    (MAIN, *TINY, "--config.domains=('cars','sop')", *PLACES),
    ("tfds/sop", "run `python -m udon_jax.data.prepare"),
  ),
  "info file missing": (
    (*TRAIN, "--config.data_dir=FOLDER/no_info"),
    ("no_info/info_files/cars/val.json is missing", "copy"),
  ),
  "info file is no JSON": (
    (EVALUATE, "--workdir=FOLDER/run", "--data=FOLDER/bad_json"),
    ("bad_json/info_files/cars/test.json", "write it again"),
  ),
  "class id out of range": (
    ("udon_jax.data.prepare", "--data_dir=FOLDER/class_id"),
    ("train.json: entry 3: class_id 1000", "number the classes"),
  ),
  "info file changed": (
    (*TRAIN, "--config.data_dir=FOLDER/class_id"),
    ("train.json changed", "restore"),
  ),
  "batch on devices": (
    (*TRAIN, "--config.batch_size=12"),
    ("config.batch_size=12", "8 devices", "for example 16"),
  ),
  "evaluation batch on devices": (
    (*TRAIN, "--config.eval.batch_size=12"),
    ("config.eval.batch_size=12", "8 devices", "for example 16"),
  ),
  "mesh": (
    (*TRAIN, "--config.mesh.fsdp=3"),
    ("config.mesh.fsdp=3", "8 devices", "-1"),
  ),
  "workdir below a file": (
    (*TRAIN, "--workdir=FOLDER/file/x"),
    ("--workdir", "file/x", "choose another folder"),
  ),
  "steps and epochs": (
    (*TRAIN, "--config.num_epochs=2.0"),
    ("num_train_steps=4", "num_epochs=2.0", "set one"),
  ),
  "frozen steps and epochs": (
    (*TRAIN, "--config.frozen_epochs=2.0", "--config.frozen_steps=1"),
    ("frozen_steps=1", "frozen_epochs=2.0", "set one"),
  ),
  "text for a number": (
    (*TRAIN, "--config.batch_size=many"),
    ("--config.batch_size=many", "int"),
  ),
  "value for a group": (
    (MAIN, QUICKSTART, "--config.model=vit_b16"),
    ("--config.model=vit_b16", "ConfigDict"),
  ),
  "unknown strategy": (
    (*TRAIN, "--config.sampler.strategy=luck"),
    ("config.sampler.strategy='luck'", "known: dynamic"),
  ),
  "profile beyond the run": (
    (*TRAIN, "--config.profile_steps=(3, 6)"),
    ("config.profile_steps=(3, 6)", "end <= 5"),
  ),
  "unknown mode of W&B": (
    (*TRAIN, "--config.wandb.mode=maybe"),
    ("config.wandb.mode='maybe'", "known: online"),
  ),
  "unknown weights": (
    (*TRAIN, "--config.pretrained=clip"),
    ("config.pretrained='clip'", "KIND:PATH"),
  ),
  "nothing to start from": (
    (*TRAIN, "--config.resume_from=FOLDER/empty"),
    ("empty holds no checkpoint", "give the workdir"),
  ),
  "evaluate nothing": ((EVALUATE,), ("--workdir", "give the folder")),
  "evaluate an empty folder": (
    (EVALUATE, "--workdir=FOLDER/empty"),
    ("empty holds no checkpoint", "give the workdir"),
  ),
  "evaluate an unknown split": (
    (EVALUATE, "--workdir=FOLDER/run", "--splits=foo"),
    ("--splits=foo", "known: val, test"),
  ),
  "evaluate a missing step": (
    (EVALUATE, "--workdir=FOLDER/run", "--step=3"),
    ("no checkpoint of step 3", "it has [4]"),
  ),
  "evaluate missing data": (
    (EVALUATE, "--workdir=FOLDER/run", "--data=FOLDER/nowhere"),
    ("--data=", "nowhere", "correct the path"),
  ),
}
SHOW = {"show the config": (MAIN, QUICKSTART, "--print_config")}
# {case: (command line, what it says of its report)}: a run that is done,
# started again, and a report that cannot be made.
_AGAIN = (MAIN, *TINY, TWO_DOMAINS, *PLACES)
NO_REPORT = {
  "no libraries": (
    ("tests.without", "matplotlib", *_AGAIN, "--workdir=FOLDER/run"),
    ("report.html is left out: matplotlib", "pip install 'udon_jax[viz]'"),
  ),
  "no room": (
    (*_AGAIN, "--workdir=FOLDER/blocked"),
    ("report.html could not be written", "is a folder"),
  ),
  "a bug": (
    (*_AGAIN, "--workdir=FOLDER/bug"),
    ("report.html could not be written", "Traceback", "TypeError"),
  ),
}


@pytest.fixture(scope="module")
def answers(folder, done):
  """Returns {case: (exit code, output, errors)}."""
  assert done
  (folder / "file").write_text("")
  (folder / "empty").mkdir()
  write_broken(folder, "no_info", lambda cars: (cars / "val.json").unlink())
  write_broken(folder, "class_id", lambda cars: set_class_id(cars, 1000))
  write_broken(
    folder, "bad_json", lambda cars: (cars / "test.json").write_text("[{")
  )
  for name in ("blocked", "bug"):
    shutil.copytree(folder / "run", folder / name)
    (folder / name / "report.html").unlink()
  (folder / "blocked" / "report.html").mkdir()
  (folder / "bug" / "environment.json").write_text('{"num_parameters": "x"}')
  cases = {
    name: argv for name, (argv, _) in (MISTAKES | NO_REPORT).items()
  } | SHOW
  return command_lines.run_all(
    {name: fill(argv, folder) for name, argv in cases.items()}
  )


@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistake_ends_in_one_line_that_names_the_cure(answers, case):
  code, output, errors = answers[case]
  assert "Traceback" not in output + errors
  last = errors.splitlines()[-1]
  assert last.startswith("error: ")
  for words in MISTAKES[case][1]:
    assert words in last
  assert code == 2


@pytest.mark.parametrize("case", NO_REPORT)
def test_a_report_that_fails_leaves_the_training_done(answers, case):
  code, _, errors = answers[case]
  assert code == 0, errors
  assert "the run is done" in errors
  for words in NO_REPORT[case][1]:
    assert words in errors


def test_a_mistake_leaves_no_workdir_behind(answers, folder):
  """Whatever is found before the first step is found before it is written."""
  assert answers
  assert not (folder / "new" / "config.json").exists()


def test_the_config_can_be_shown(answers):
  code, output, _ = answers["show the config"]
  assert code == 0

  def leaves(config):
    for key, value in config.items():
      yield key
      if hasattr(value, "items"):
        yield from leaves(value)

  for key in leaves(default_config.get_config()):
    assert f"{key}:" in output
