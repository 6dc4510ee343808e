"""Command lines on runs of the official code, from the folder to the table."""

import json

import jax
import numpy as np
import pytest

from tests import command_lines, compiling, small_run
from tests import official_runs as runs
from tests.oracles import official as oracle
from tests.small_run import EVALUATE, MAIN, PLACES, TINY
from udon_jax import trained
from udon_jax.retrieval import table

pytestmark = pytest.mark.slow

CONVERT, EXTRACT = "udon_jax.convert", "udon_jax.extract"
DOMAINS = ("rp2k", "met", "cars")  # another order than that of our table
DATA = ("--data=FOLDER/data/tfds", "--info_files=FOLDER/data/info_files")
TRAIN = (MAIN, *TINY, "--config.domains=('cars','met','rp2k')", *PLACES)
SIZES = (
  "--config.model.student_dim=8",
  "--config.model.teacher_dim=16",
  "--config.eval.embeddings=('student','teacher')",
)
SET_UP = {
  "draw": (small_run.SYNTHETIC, "--size=smoke", "--output=FOLDER/data"),
  "prepare": (
    small_run.PREPARE,
    "--data_dir=FOLDER/data",
    "--domains=cars,met,rp2k",
  ),
}
RUNS = {
  "udon": (EVALUATE, "--workdir=FOLDER/udon", *DATA, "--splits=val,test"),
  "uned": (EVALUATE, "--workdir=FOLDER/uned", "--splits=test"),
  "backbone": (
    *(EVALUATE, "--pretrained=official:FOLDER/udon", *DATA),
    *("--domains=cars", "--output=FOLDER/backbone.json"),
  ),
  "extract": (
    *(EXTRACT, "--workdir=FOLDER/udon", "--images=FOLDER/data/images/cars"),
    *("--output=FOLDER/cars.npz", "--embedding=teacher", "--domain=cars"),
  ),
  "resume": (
    *(*TRAIN, *SIZES, "--config.resume_from=FOLDER/udon"),
    *("--config.num_train_steps=8", "--workdir=FOLDER/resumed"),
  ),
  "to official": (
    *(CONVERT, "--workdir=FOLDER/resumed", "--to=official"),
    "--output=FOLDER/converted",
  ),
  "to augreg": (
    *(CONVERT, "--workdir=FOLDER/udon", "--to=augreg"),
    "--output=FOLDER/backbone.npz",
  ),
  "converted": (EVALUATE, "--workdir=FOLDER/converted", *DATA),
}


def num_classes(folder, domain):
  entries = json.loads(
    (folder / f"data/info_files/{domain}/train.json").read_text()
  )
  return 1 + max(entry["class_id"] for entry in entries)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """Data, and official runs on it."""
  folder = tmp_path_factory.mktemp("official")
  small_run.must_succeed(SET_UP, folder)
  classes = {name: num_classes(folder, name) for name in DOMAINS}
  backbone = runs.vit_shapes(size=32)
  params = runs.draw(backbone | runs.udon_shapes(classes))
  config = runs.make_config(classes)
  for step, number in ((6, None), (4, -1)):
    state = runs.make_state(params, step=step)
    runs.write(folder / "udon", state, config, number=number)
  uned = runs.draw(backbone | runs.uned_shapes(classes))
  config = runs.make_config(
    classes,
    udon=False,
    eval_dataset_dir=str(folder / "data/tfds"),
    info_files_dir=str(folder / "data/info_files"),
  )
  runs.write(folder / "uned", runs.make_state(uned, step=2), config, twice=True)
  return folder


@pytest.fixture(scope="module")
def answers(folder):
  before = {p: p.read_bytes() for p in folder.glob("u*/c*")}
  answers = command_lines.run_all(
    small_run.fill(RUNS, folder), XLA_FLAGS=compiling.FLAGS
  )
  assert before == {p: p.read_bytes() for p in folder.glob("u*/c*")}
  return answers


@pytest.mark.parametrize("name", RUNS)
def test_it_ends_well(answers, name):
  assert answers[name].code == 0, answers[name].errors


def read(path):
  return json.loads(path.read_text())


@pytest.mark.parametrize("name", ["udon", "uned"])
def test_the_table_is_that_of_the_official_loop(folder, answers, name):
  """Embeddings by the oracle; ranks and rounding as the official code has."""
  found = trained.load(folder / name)
  tasks = found.load_tasks(
    ["test"],
    data_dir=folder / "data",
    info_files=folder / "data/info_files",
  )["test"]()
  number = {"udon": -1, "uned": 2}[name]
  state = runs.restore(folder / name, None, number=number)
  splits = {
    (s.domain, s.name): s for task in tasks for s in (task.query, task.index)
  }
  embedded = {}
  for (domain, split), opened in splits.items():
    rows = [
      oracle.embed(image, state["params"], domain=DOMAINS.index(domain))
      for batch in opened.open()
      for image in batch.images[batch.mask]
    ]
    for embedding in rows[0]:
      embedded.setdefault(embedding, {})[domain, split] = np.stack(
        [row[embedding] for row in rows]
      )
  assert set(embedded) == {"udon": {"student", "teacher", "backbone"}}.get(
    name, {"student", "backbone"}
  )
  results = read(folder / name / "results.json")
  assert set(results) == set(embedded)
  shown = table.round_as_official(results)
  for embedding, rows in embedded.items():
    for kind in ("separate", "merged"):
      expected = oracle.report(tasks, rows, merged=kind == "merged")
      values = shown[embedding][kind]["test"]
      for domain, numbers in expected.items():
        for metric, value in numbers.items():
          assert values[domain][metric] == value, (embedding, kind, domain)
  errors = answers[name].errors
  assert table.format_table(shown) in errors
  assert "the mean of these rounded values" in errors


def test_the_best_checkpoint_is_tested(answers):
  assert "checkpoint of step 4;" in answers["udon"].errors


def test_extraction_asks_the_teacher_by_its_name(folder, answers):
  assert answers["extract"].code == 0
  with np.load(folder / "cars.npz") as file:
    rows = file["embeddings"]
  assert rows.shape[1] == runs.TEACHER[-1]
  model = trained.load(folder / "udon")
  tasks = model.load_tasks(["test"], data_dir=folder / "data")["test"]()
  split = next(task.query for task in tasks if task.domain == "cars")
  embedded = model.evaluator().embed(model.params, split, names=["teacher"])
  with np.load(folder / "cars.npz") as file:
    paths = [f"cars/{path}" for path in file["paths"]]
  for key, row in zip(split.keys, embedded["teacher"], strict=True):
    np.testing.assert_allclose(rows[paths.index(key)], row, atol=1e-5)


def test_training_goes_on_and_comes_back(folder, answers):
  assert "starting from step 6 of" in answers["resume"].errors
  ours, converted = (
    jax.device_get(trained.load(folder / name).params)
    for name in ("resumed", "converted")
  )
  jax.tree.map(np.testing.assert_array_equal, converted, ours)
  assert read(folder / "converted/results.json").keys() == {
    *("student", "teacher", "backbone"),
  }
  assert (folder / "converted/checkpoint_8").is_file()
  assert "pixels were rounded to uint8 here" in answers["to official"].errors
