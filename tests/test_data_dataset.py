"""Sources and tasks of a data directory."""

import dataclasses
import shutil

import numpy as np
import pytest

from tests import data_files
from udon_jax import domains, errors
from udon_jax.data import dataset, info

SPLITS = {"train": 9, "val": 5, "test": 6, "index": 7, "small_index": 4}


@pytest.fixture(scope="module")
def original(tmp_path_factory):
  root = tmp_path_factory.mktemp("data")
  for domain in ("cars", "met", "mine"):
    for split, count in SPLITS.items():
      data_files.add_split(root, domain, split, count)
  data_files.prepare(root)
  return root


@pytest.fixture
def root(original, tmp_path):
  shutil.copytree(original, tmp_path / "data")
  return tmp_path / "data"


def load(root, **changes):
  arguments = {
    "domains": ("met", "cars"),
    "batch_size": 4,
    "eval_batch_size": 4,
    "seed": 0,
  }
  fields = {field.name for field in dataclasses.fields(data_files.OPTIONS)}
  options = {name: changes.pop(name) for name in fields & changes.keys()}
  return dataset.load(
    root,
    options=dataclasses.replace(data_files.OPTIONS, **options),
    **arguments | changes,
  )


def test_sources_are_in_the_order_of_the_domains(original):
  sources, _ = load(original)
  found = [(s.name, s.num_examples, s.num_classes) for s in sources]
  assert found == [("met", 9, 3), ("cars", 9, 3)]
  batch = next(sources[1].open(5))
  assert batch.images.shape == (4, 16, 16, 3)


def test_another_domain_beside_it_changes_nothing(original):
  alone = load(original, domains=("cars",))[0][0]
  together = load(original)[0][1]
  np.testing.assert_array_equal(
    next(alone.open(2)).images, next(together.open(2)).images
  )


def test_tasks_follow_the_protocol_of_every_domain(original):
  _, tasks = load(original)
  names = {
    split: [(t.domain, t.query.name, t.index.name) for t in build()]
    for split, build in tasks.items()
  }
  assert names == {
    "val": [("met", "val", "small_index"), ("cars", "val", "val")],
    "test": [("met", "test", "index"), ("cars", "test", "test")],
  }


def test_splits_carry_keys_and_labels(original):
  _, tasks = load(original)
  query = tasks["val"]()[1].query
  assert query.keys == [f"cars/val/{i}.jpg" for i in range(5)]
  np.testing.assert_array_equal(query.labels[:, 0], [0, 1, 2, 0, 1])
  batches = list(query.open())
  assert [batch.mask.sum() for batch in batches] == [4, 1]
  again = list(query.open())
  np.testing.assert_array_equal(batches[0].images, again[0].images)


def test_a_split_is_opened_once(original):
  _, tasks = load(original)
  first, second = tasks["val"](), tasks["val"]()
  assert first[1].query is first[1].index
  assert first[0].query is second[0].query


def test_no_labels_are_read_to_start_training(original, monkeypatch):
  monkeypatch.setattr(info, "read_info", None)
  sources, tasks = load(original)
  next(sources[0].open(0))
  with pytest.raises(TypeError):
    tasks["test"]()


def test_records_without_metadata_are_read(root):
  for file in root.glob("tfds/*/*/*"):
    if file.suffix in (".json", ".npy"):
      file.unlink()
  sources, tasks = load(root)
  assert (sources[0].num_examples, sources[0].num_classes) == (9, 3)
  assert len(tasks["test"]()) == 2


def test_own_domains_are_given_by_description(original):
  protocol = domains.Protocol("test", "index")
  mine = domains.DomainSpec(
    "mine", val=domains.Protocol("val", "val"), test=protocol
  )
  sources, tasks = load(original, domains=["cars", mine])
  assert sources[1].name == "mine"
  assert tasks["test"]()[1].index.name == "index"


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"domains": ()}, r"config\.domains is empty"),
    ({"domains": ("cars", "cars")}, r"config\.domains names 'cars' twice"),
    ({"domains": ("card",)}, r"config\.domains: 'card' is unknown"),
    ({"seed": -1}, r"config\.seed=-1"),
    ({"crop_size": 21}, r"config\.data\.crop_size=21"),
    ({"crop_size": 0}, r"config\.data\.crop_size=0"),
    ({"batch_size": 0}, r"config\.batch_size=0"),
    ({"batch_size": 5, "process_count": 2}, r"config\.batch_size=5"),
    (
      {"eval_batch_size": 5, "process_count": 2},
      r"config\.eval\.batch_size=5",
    ),
    ({"num_threads": -1}, r"config\.data\.num_threads=-1"),
    ({"prefetch": -1}, r"config\.data\.prefetch=-1"),
  ],
)
def test_impossible_values_are_named(original, changes, message):
  with pytest.raises(errors.UserError, match=message):
    load(original, **changes)


@pytest.mark.parametrize(
  ("lost", "message"),
  [
    ("info_files/cars/train.json", r"cars/train\.json is missing"),
    ("info_files/met/small_index.json", r"small_index\.json is missing"),
    ("tfds", r"met\.val\.tfrecord is missing; run .*data\.prepare"),
    ("tfds/cars/train", r"cars\.train\.tfrecord is missing; run"),
    (
      "tfds/met/train/met.train.tfrecord-00001-of-00003",
      "00001-of-00003 is missing",
    ),
    ("tfds/met/index/met.index.tfrecord", r"met\.index\.tfrecord is missing"),
  ],
)
def test_what_is_lost_is_named_at_the_start(root, lost, message):
  path = root / lost
  if path.is_dir():
    shutil.rmtree(path)
  else:
    path.unlink()
  with pytest.raises(errors.UserError, match=message) as caught:
    load(root)
  assert "\n" not in str(caught.value)


def test_a_missing_folder_comes_with_its_cure(tmp_path):
  with pytest.raises(errors.UserError, match=r"config\.data_dir=.*synthetic"):
    load(tmp_path / "nowhere")


def test_the_fingerprint_is_of_the_training_data(root, tmp_path):
  first = dataset.fingerprint(root, domains=("cars", "met"))
  assert first != dataset.fingerprint(root, domains=("cars",))
  moved = tmp_path / "moved"
  shutil.move(root, moved)
  for file in moved.glob("tfds/*/*/*.npy"):
    file.unlink()
  shutil.rmtree(moved / "tfds/cars/test")
  assert dataset.fingerprint(moved, domains=("cars", "met")) == first
  data_files.prepare(moved, num_shards=2)
  second = dataset.fingerprint(moved, domains=("cars", "met"))
  assert second != first
  shard = moved / "tfds/met/train/met.train.tfrecord-00001-of-00002"
  whole = shard.read_bytes()
  shard.write_bytes(whole + whole)
  assert dataset.fingerprint(moved, domains=("cars", "met")) != second
  shard.write_bytes(whole)
  assert dataset.fingerprint(moved, domains=("cars", "met")) == second
  data_files.add_split(moved, "cars", "train", 9, num_classes=2)
  assert dataset.fingerprint(moved, domains=("cars", "met")) != second


def test_data_that_vanishes_after_the_start_is_named(root):
  sources, tasks = load(root, domains=("cars",))
  (root / "info_files/cars/val.json").unlink()
  with pytest.raises(errors.UserError, match=r"val\.json is missing"):
    tasks["val"]()
  shutil.rmtree(root)
  with pytest.raises(errors.UserError, match=r"test\.json is missing"):
    tasks["test"]()
  with pytest.raises(errors.UserError, match=r"tfrecord\S+ cannot be read any"):
    next(sources[0].open(0))
