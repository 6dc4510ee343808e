"""A run on domains of one's own beside one of UnED, by command lines."""

import json

import pytest
import yaml

from tests import command_lines, compiling, data_files, own_data, small_run
from udon_jax import reporting
from udon_jax.data import layout, notes, splits

DOMAINS = ("cars", "shoes", "bags")
PLAIN = (
  *small_run.TINY,
  "--config.data_dir=FOLDER/data",
  "--config.own_file=FOLDER/own.yaml",
)
CONFIG = (*PLAIN, f"--config.domains={DOMAINS}")
PREPARE = (small_run.PREPARE, *CONFIG)
TRAIN = (small_run.MAIN, *CONFIG, "--workdir=FOLDER/run")
EVALUATE = (small_run.EVALUATE, "--workdir=FOLDER/run")
OWN = {
  "shoes": {"folder": "shoes", "splits": {"by": "class", "val": 0.2}},
  "bags": {
    "table": "lists/bags.csv",
    "images": "photos",
    "label_column": "product",
    "splits": {"by": "image", "val": 0.3, "test": 0.3},
  },
}
GLOVES = {"gloves": {"tfds": "tiny", "tfds_dir": "built"}}
GROWN = (
  *PLAIN,
  "--config.own_file=FOLDER/grown.yaml",
  "--config.domains=('bags','gloves','shoes')",
)
SHOES = {f"größe {i}": 3 for i in range(10)}
BAGS = {f"bag {i}": 6 for i in range(7)}


def write_sources(folder):
  """Writes an image folder, a table, and the descriptions of both."""
  own_data.add_images(folder / "shoes", own_data.by_class(SHOES))
  paths = own_data.by_class(BAGS)
  own_data.add_images(folder / "photos", paths)
  own_data.write_table(
    folder / "lists" / "bags.csv",
    [{"path": path, "product": path.partition("/")[0]} for path in paths],
  )
  (folder / "own.yaml").write_text(yaml.safe_dump(OWN))
  examples = {"train": (0, 1, 0), "validation": (2, 2), "test": (2, 2)}
  own_data.build_tfds(
    folder / "built",
    {
      split: [own_data.example(i, label) for i, label in enumerate(labels)]
      for split, labels in examples.items()
    },
  )
  (folder / "grown.yaml").write_text(yaml.safe_dump(OWN | GLOVES))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  folder = tmp_path_factory.mktemp("own")
  write_sources(folder)
  return folder


@pytest.fixture(scope="module")
def done(folder):
  """Returns {command: what it wrote to stderr}, of all that must succeed."""
  return small_run.must_succeed(
    {
      "draw": small_run.COMMANDS["draw"],
      "prepare": PREPARE,
      "again": PREPARE,
      "train": TRAIN,
      "evaluate": (*EVALUATE, "--output=FOLDER/again.json"),
      "some": (*EVALUATE, "--domains=bags", "--output=FOLDER/bags.json"),
      "prepare one more": (small_run.PREPARE, *GROWN),
      "train one more": (
        *(small_run.MAIN, *GROWN, "--workdir=FOLDER/grown"),
        "--config.pretrained=udon:FOLDER/run",
      ),
    },
    folder,
  )


def test_results_are_of_all_domains(folder, done):
  assert done
  results = reporting.read_json(folder / "run" / reporting.RESULTS_FILE)
  test = results["student"]["merged"]["test"]
  assert set(test) == {*DOMAINS, "mean"}
  for values in test.values():
    assert all(0 <= value <= 1 for value in values.values())


def test_evaluation_finds_the_data_by_the_workdir_alone(folder, done):
  assert done
  results = reporting.read_json(folder / "run" / reporting.RESULTS_FILE)
  assert json.loads((folder / "again.json").read_text()) == results
  some = json.loads((folder / "bags.json").read_text())["student"]
  separate = results["student"]["separate"]["test"]["bags"]
  assert some["separate"]["test"]["bags"] == separate


def test_a_domain_can_be_added_later(folder, done):
  """In a run that starts from the weights of the first."""
  assert "shoes/train: done before" in done["prepare one more"]
  assert "gloves/val: done, 2 images" in done["prepare one more"]
  results = reporting.read_json(folder / "grown" / reporting.RESULTS_FILE)
  test = results["student"]["merged"]["test"]
  assert set(test) == {"bags", "gloves", "shoes", "mean"}
  separate = results["student"]["separate"]["test"]
  assert separate["gloves"]["recall@1"] == 1  # of two images of one class
  assert "domains: bags, shoes; gloves (new)" in done["train one more"]


def test_the_run_tells_what_its_labels_mean(folder, done):
  assert done
  place = layout.find(folder / "data")
  for domain, count in (("shoes", 6), ("bags", 7)):
    names = reporting.read_class_names(folder / "run", domain)
    assert names == notes.class_names(place, domain)[:count]
    for entry in own_data.lists(place, domain)["train"]:
      assert names[entry["class_id"]] == entry["path"].partition("/")[0]
  assert reporting.read_class_names(folder / "run", "cars") is None


def test_the_config_of_the_run_describes_its_domains(folder, done):
  assert done
  config = reporting.read_json(folder / "run" / "config.json")
  assert config["own_file"] is None
  assert config["own"]["shoes"]["folder"] == f"{folder}/shoes"


def test_preparing_again_finds_all_done(folder, done):
  assert "shoes/train: done, 21 images" not in done["again"]
  for name in ("cars/test", "shoes/train", "bags/val"):
    assert f"{name}: done before" in done["again"]


def test_records_hold_the_users_files_and_classes(folder, done):
  assert done
  place = layout.find(folder / "data")
  for domain, counts in (("shoes", SHOES), ("bags", BAGS)):
    found = notes.with_images(place, domain)
    names = notes.class_names(found, domain)
    assert sorted(names) == sorted(counts)
    keys = []
    for split in ("val", "test"):
      files, images = splits.open_eval(found, domain, split)
      assert len(files) == len(images.paths)
      for path, (label,) in zip(images.paths, images.labels, strict=True):
        assert names[label] == path.partition("/")[0]
      keys += images.paths
    _, num_classes = splits.open_train(found, domain)
    trained = {
      entry["path"].partition("/")[0]
      for entry in own_data.lists(found, domain)["train"]
    }
    assert num_classes == len(trained)
    held = {key.partition("/")[0] for key in keys}
    assert trained | held == set(counts)
    assert bool(trained & held) == (domain == "bags")


@pytest.fixture(scope="module")
def later(folder, done):
  """Returns {case: answer} after the data or its description changed."""
  assert done
  bags = {**OWN["bags"], "splits": OWN["bags"]["splits"] | {"seed": 1}}
  for name, own in (
    ("reseeded", OWN | {"bags": bags}),
    ("more", OWN | {"hats": {"folder": "hats"}}),
  ):
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(own))
  own_data.add_images(folder / "hats", own_data.by_class({"a": 4, "b": 4}))
  reseeded = "--config.own_file=FOLDER/reseeded.yaml"
  more = (
    "--config.own_file=FOLDER/more.yaml",
    "--config.domains=('cars','hats')",
  )
  cases = {
    "changed": (*TRAIN, reseeded, "--workdir=FOLDER/new"),
    "unprepared": (small_run.MAIN, *PLAIN, *more, "--workdir=FOLDER/new"),
    "too small": (small_run.PREPARE, *PLAIN, *more),
    "no config": (small_run.PREPARE, "--data_dir=FOLDER/data"),
    "twice": (*PREPARE, "--data_dir=FOLDER/data"),
  }
  before = data_files.snapshot(folder / "data")
  answers = command_lines.run_all(
    small_run.fill(cases, folder), XLA_FLAGS=compiling.FLAGS
  )
  assert before.items() <= data_files.snapshot(folder / "data").items()
  return answers


@pytest.mark.parametrize(
  ("case", "words"),
  [
    ("changed", "config.own.bags.splits is"),
    ("unprepared", "config.own.hats was not prepared"),
    ("too small", "no images of the split 'train'"),
    ("twice", "--data_dir="),
  ],
)
def test_what_changed_is_told(later, case, words):
  code, _, text = later[case]
  assert code == 2, text
  assert "Traceback" not in text
  last = text.splitlines()[-1]
  assert last.startswith("error: ")
  assert words in last
  assert "prepare" in last or case != "changed"


def test_without_a_config_all_that_has_lists_is_prepared(later):
  """Also what was described once; its images are found where they were."""
  code, _, text = later["no config"]
  assert code == 0, text
  for name in ("shoes/train: done before", "met/train: done, 20 images"):
    assert name in text


@pytest.mark.slow
def test_the_smoke_variant_of_the_config_trains(tmp_path):
  config = (
    "--config=configs/own.py:smoke",
    "--config.data_dir=FOLDER/data",
    "--config.own.shoes.folder=FOLDER/data/images/met/MET",
    "--config.own.bags.folder=FOLDER/data/images/food2k",
  )
  done = small_run.must_succeed(
    {
      "draw": small_run.COMMANDS["draw"],
      "prepare": (small_run.PREPARE, *config),
      "train": (small_run.MAIN, *config, "--workdir=FOLDER/run"),
    },
    tmp_path,
  )
  assert "student merged" in done["train"]
  results = reporting.read_json(tmp_path / "run" / reporting.RESULTS_FILE)
  test = results["student"]["merged"]["test"]
  assert set(test) == {"shoes", "bags", "mean"}
