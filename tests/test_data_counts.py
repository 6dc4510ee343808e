"""UnED's table is enforced on request, and otherwise told of in one line."""

import dataclasses
import logging

import pytest

from tests import data_files, official_data
from udon_jax import domains, errors
from udon_jax.data import counts, dataset, layout, places
from udon_jax.data.synthetic import generation

UNED = {
  (name, split): number
  for name, spec in domains.UNED.items()
  for split, number in spec.num_examples.items()
}
CLASSES = {name: spec.num_classes for name, spec in domains.UNED.items()}


@pytest.fixture
def log(caplog, monkeypatch):
  monkeypatch.setattr(logging.getLogger("udon_jax"), "propagate", True)
  return caplog


def check(root, num_examples, num_classes, data_check=None):
  counts.check(
    [layout.find(root)],
    num_examples=num_examples,
    num_classes=num_classes,
    data_check=data_check,
    key="config.data_check",
  )


@pytest.mark.parametrize("data_check", [None, "uned"])
def test_uned_passes(tmp_path, log, data_check):
  check(tmp_path, UNED, CLASSES, data_check)
  check(tmp_path, UNED | {("mine", "train"): 3}, {"mine": 1}, data_check)
  assert log.text == ""


@pytest.mark.parametrize("name", UNED)
def test_every_count_is_compared(tmp_path, name):
  changed = UNED | {name: UNED[name] - 1}
  words = f"{name[0]} {name[1]} {UNED[name] - 1:,} ({UNED[name]:,})"
  with pytest.raises(errors.UserError) as caught:
    check(tmp_path, changed, CLASSES, "uned")
  assert words in str(caught.value) and "\n" not in str(caught.value)


def test_classes_are_compared(tmp_path):
  with pytest.raises(
    errors.UserError, match=r"met train classes 5 \(224,408\); complete"
  ):
    check(tmp_path, UNED, CLASSES | {"met": 5}, "uned")


def test_other_data_is_told_of_in_one_line(tmp_path, log):
  check(tmp_path, dict.fromkeys(UNED, 60), {})
  (record,) = log.records
  line = record.getMessage()
  assert line.startswith(
    "data differs from UnED's table: cars train 60 (6,346), cars val 60"
  )
  assert line.endswith(
    f"and {len(UNED) - 3} more; fine for your own data, config.data_check=uned"
    " makes it an error"
  )


def test_synthetic_data_is_not_told_of(tmp_path, log):
  (tmp_path / "synthetic.json").write_text("{}")
  check(tmp_path, dict.fromkeys(UNED, 60), {})
  assert log.text == ""
  with pytest.raises(errors.UserError, match="differs from UnED"):
    check(tmp_path, dict.fromkeys(UNED, 60), {}, "uned")


def test_the_marker_is_that_of_the_synthetic_set():
  assert generation.MARKER == counts._SYNTHETIC


def test_another_check_is_unknown(tmp_path):
  with pytest.raises(errors.UserError, match="data_check=all is unknown"):
    check(tmp_path, UNED, CLASSES, "all")


@pytest.fixture
def small_uned(tmp_path, monkeypatch):
  """Data of one domain, and a table that it fulfils."""
  numbers = {"train": 9, "val": 5, "test": 6}
  for split, number in numbers.items():
    data_files.add_split(tmp_path, "cars", split, number)
  official_data.convert(tmp_path, "cars", splits=numbers)
  spec = dataclasses.replace(
    domains.UNED["cars"], num_classes=3, num_examples=numbers
  )
  monkeypatch.setattr(domains, "UNED", {"cars": spec})
  return tmp_path, numbers


def load(root):
  dataset.load(
    root,
    domains=("cars",),
    batch_size=4,
    eval_batch_size=4,
    seed=0,
    options=data_files.OPTIONS,
    data_check="uned",
  )


def evaluate(root):
  dataset.load_tasks(
    places.find(root, domains=("cars",), own={}, info_files=None),
    eval_batch_size=4,
    options=data_files.OPTIONS,
    eval_splits=("test",),
    data_check="uned",
  )


def test_data_of_the_right_counts_passes(small_uned):
  root, _ = small_uned
  load(root)
  evaluate(root)


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_training_looks_at_every_split_at_its_start(small_uned, split):
  root, numbers = small_uned
  numbers[split] += 1
  words = rf"config.data_check=uned: .*cars {split} \d \({numbers[split]}\)"
  with pytest.raises(errors.UserError, match=words):
    load(root)


def test_evaluation_looks_at_its_own_splits(small_uned):
  root, numbers = small_uned
  numbers["val"] += 1
  evaluate(root)
  numbers["test"] += 1
  with pytest.raises(errors.UserError, match=r"--data_check=uned: .*test 6"):
    evaluate(root)
