"""Info files made from descriptions of domains."""

import contextlib
import json
import logging
import os
import re
import shutil

from etils import epath
import pytest
import yaml

from tests import data_files, own_data
from udon_jax import domains, errors
from udon_jax.data import importing, info, notes, replacing

KEY = "config.own.shoes"
CLASSES = {"b": 3, "a": 3, "10": 4, "9": 2, "猫": 3, "alone": 1}
BY_CLASS = {"by": "class", "val": 0.2, "test": 0.3}
BY_IMAGE = {"by": "image", "val": 0.3, "test": 0.3}


@pytest.fixture
def source(tmp_path):
  return own_data.add_images(tmp_path / "source", own_data.by_class(CLASSES))


@pytest.fixture
def root(tmp_path):
  return tmp_path / "data"


def folder_of(root):
  return root / "info_files" / "shoes"


def snapshot(root):
  return {
    path.relative_to(root): (path.stat().st_mtime_ns, path.read_bytes())
    for path in sorted(root.rglob("*"))
    if path.is_file()
  }


@pytest.mark.parametrize("splits", [BY_CLASS, BY_IMAGE])
def test_lists_are_valid_and_hold_every_image_once(root, source, splits):
  found = own_data.import_lists(root, folder=str(source), splits=splits)
  listed = [entry["path"] for entries in found.values() for entry in entries]
  assert sorted(listed) == sorted(own_data.by_class(CLASSES))
  for split, entries in found.items():
    images = info.read_info(folder_of(root) / f"{split}.json", split=split)
    assert images.paths == [entry["path"] for entry in entries]
    for path in images.paths:
      assert (source / path).is_file()


@pytest.mark.parametrize("splits", [BY_CLASS, BY_IMAGE])
def test_classes_that_are_trained_on_come_first(root, source, splits):
  found = own_data.import_lists(root, folder=str(source), splits=splits)
  names = notes.class_names(own_data.data_dir(root), "shoes")
  assert names == (folder_of(root) / "classes.txt").read_text().splitlines()
  assert sorted(names) == sorted(CLASSES)
  for entries in found.values():
    for entry in entries:
      assert names[entry["class_id"]] == entry["path"].partition("/")[0]
  trained = {entry["class_id"] for entry in found["train"]}
  assert trained == set(range(len(trained)))
  order = ["9", "10", "a", "alone", "b", "猫"]  # numbers by value
  for part in (names[: len(trained)], names[len(trained) :]):
    assert part == [name for name in order if name in part]


def test_what_the_lists_were_made_from_is_kept(root, source):
  own = own_data.describe(folder=str(source), splits=BY_IMAGE)
  place = own_data.data_dir(root)
  found = importing.import_lists(own, place)
  assert found.images == epath.Path(source)
  assert notes.with_images(place, "shoes").images == epath.Path(source)
  assert notes.with_images(place, "bags").images == place.images
  kept = yaml.safe_load((folder_of(root) / "source.yaml").read_text())
  assert kept["images"] == str(source)
  assert kept["essence"] == json.loads(json.dumps(own.essence()))
  assert kept["protocols"] == {
    "val": ["val", "train"],
    "test": ["test", "train"],
  }
  notes.check(own, place, info_files_key="--info_files")
  spec = notes.spec_of(place.info_files, "shoes", key="")
  assert spec == own.spec(notes.splits_of(place.info_files, "shoes"))


def test_a_relative_folder_is_found_from_elsewhere(
  root, source, tmp_path, monkeypatch
):
  monkeypatch.chdir(tmp_path)
  own_data.import_lists(root, folder="source")
  monkeypatch.chdir("/")
  place = notes.with_images(own_data.data_dir(root), "shoes")
  assert place.images == epath.Path(source)


def test_splits_that_are_told_are_kept(root, tmp_path):
  paths = ["train/a/1.jpg", "train/b/2.jpg", "valid/c/3.jpg", "valid/c/4.jpg"]
  paths += ["test/a/5.jpg", "index/a/6.jpg", "index/d/7.jpg"]
  own_data.add_images(tmp_path / "x", paths)
  found = own_data.import_lists(root, folder=str(tmp_path / "x"))
  assert {split: [e["path"] for e in found[split]] for split in found} == {
    "train": ["train/a/1.jpg", "train/b/2.jpg"],
    "val": ["valid/c/3.jpg", "valid/c/4.jpg"],
    "test": ["test/a/5.jpg"],
    "index": ["index/a/6.jpg", "index/d/7.jpg"],
  }
  ids = {e["path"]: e["class_id"] for each in found.values() for e in each}
  assert list(ids.values()) == [ids[path] for path in ids]
  assert ids["test/a/5.jpg"] == ids["train/a/1.jpg"] == 0
  assert ids["index/d/7.jpg"] == 3
  made = own_data.import_lists(
    root,
    folder=str(tmp_path / "x"),
    splits={"by": "image", "val": 0.4, "test": 0.4},
  )
  assert "index" not in made  # `splits` makes them anew


def test_a_built_data_set_is_imported_into_the_folder_it_lies_in(tmp_path):
  """Its files, <name>/<version>/*.tfrecord*, are not taken for our records."""
  root = tmp_path / "all"
  place = own_data.build_tfds(
    root,
    {
      split: [own_data.example(i, label) for i in range(2)]
      for split, label in (("train", 0), ("validation", 1), ("test", 2))
    },
  )
  found = own_data.import_lists(root, tfds=str(place))
  assert {split: len(entries) for split, entries in found.items()} == {
    **{"train": 2, "val": 2, "test": 2}
  }
  assert sorted(os.listdir(root)) == ["images", "info_files", "tiny"]
  assert os.listdir(tmp_path) == ["all"]
  for entry in found["val"]:
    assert (root / "images" / entry["path"]).is_file()
  names = notes.class_names(own_data.data_dir(root), "shoes")
  assert names == ["cat", "dog", "猫"]


def test_without_splits_whole_classes_are_held_out(root, source):
  told = own_data.import_lists(root, folder=str(source))
  default = {"by": "class", "val": 0.1, "test": 0.2}
  assert told == own_data.import_lists(root, folder=str(source), splits=default)


def test_several_classes_are_a_list(root, tmp_path):
  rows = [
    {"path": "1.jpg", "label": "a", "split": "train"},
    {"path": "2.jpg", "label": "b", "split": "train"},
    {"path": "3.jpg", "label": ["b", "c"], "split": "val"},
    {"path": "4.jpg", "label": "c", "split": "val"},
    {"path": "5.jpg", "label": ["a"], "split": "test", "role": "query"},
    {"path": "6.jpg", "label": ["c", "a"], "split": "test", "role": "index"},
  ]
  file = own_data.write_table(tmp_path / "x.jsonl", rows)
  found = own_data.import_lists(root, table=str(file))
  ids = {e["path"]: e["class_id"] for each in found.values() for e in each}
  assert ids == {
    **{"1.jpg": 0, "2.jpg": 1, "3.jpg": [1, 2], "4.jpg": 2},
    **{"5.jpg": 0, "6.jpg": [2, 0]},
  }
  assert set(found) == {"train", "val", "test", "test_index"}


def test_unchanged_sources_leave_files_alone(root, source):
  described_as = {"folder": str(source), "splits": BY_CLASS}
  own_data.import_lists(root, **described_as)
  before = snapshot(root)
  own_data.import_lists(root, **described_as)
  assert snapshot(root) == before
  own_data.add_images(source, ["new/1.jpg"])
  own_data.import_lists(root, **described_as)
  after = snapshot(root)
  assert after.keys() == before.keys()
  assert after != before


def test_a_class_more_leaves_the_other_lists_as_they_are(root, source):
  """By image: what was trained on is never tested."""
  before = own_data.import_lists(root, folder=str(source), splits=BY_IMAGE)
  own_data.add_images(source, own_data.by_class({"zebra": 4}))
  after = own_data.import_lists(root, folder=str(source), splits=BY_IMAGE)
  for split, entries in before.items():
    kept = {e["path"] for e in after[split] if "zebra" not in e["path"]}
    assert kept == {entry["path"] for entry in entries}


def test_splits_that_are_gone_leave_no_list(root, source):
  shared = BY_IMAGE | {"index": 0.5}
  some = {name: 20 for name in CLASSES}
  own_data.add_images(source, own_data.by_class(some))
  found = own_data.import_lists(root, folder=str(source), splits=shared)
  assert {"val_index", "test_index"} <= found.keys()
  found = own_data.import_lists(root, folder=str(source), splits=BY_IMAGE)
  assert found.keys() == {"train", "val", "test"}


CHANGES = {
  "source": {"table": "/x.csv"},
  "splits": {"folder": "/x", "splits": BY_CLASS | {"seed": 1}},
  "label_column": {"table": "/x.csv", "label_column": "sku"},
}


@pytest.mark.parametrize("key", CHANGES)
def test_a_changed_description_is_refused_by_its_key(root, source, key):
  own_data.import_lists(root, folder=str(source), splits=BY_CLASS)
  place = own_data.data_dir(root)
  words = f"{KEY}.{key}" if key != "label_column" else f"{KEY}.source"
  with pytest.raises(errors.UserError, match=re.escape(words)) as found:
    notes.check(
      own_data.describe(**CHANGES[key]), place, info_files_key="--info_files"
    )
  assert "prepare` with the same --config" in str(found.value)


@pytest.mark.parametrize(
  "text", [None, "", "[", "3", "[1]", "essence: 3", "essence: []", "\0", "a: b"]
)
def test_a_damaged_note_is_as_none(root, source, text):
  own = own_data.describe(folder=str(source), splits=BY_CLASS)
  place = own_data.data_dir(root)
  importing.import_lists(own, place)
  file = folder_of(root) / "source.yaml"
  if text is None:
    file.unlink()
  else:
    file.write_text(text)
  with pytest.raises(errors.UserError, match="yaml is missing or dam"):
    notes.check(own, place, info_files_key="--info_files")
  assert notes.with_images(place, "shoes") == place
  spec = notes.spec_of(place.info_files, "shoes", key="")
  assert spec == domains.from_splits("shoes", {"train", "val", "test"})


def table_of(tmp_path, *rows):
  """Writes a good table with some rows more; returns its description."""
  good = [
    {"path": f"{split}/{name}{i}.jpg", "label": name, "split": split}
    for split in ("train", "val", "test")
    for name in ("a", "b")
    for i in range(2)
  ]
  file = own_data.write_table(tmp_path / "x.jsonl", [*good, *rows])
  return {"table": str(file)}


def row(**changes):
  return {"path": "x.jpg", "label": "a", "split": "test"} | changes


BAD = {
  "leads out": (row(path="../x.jpg"), "row 13: path '../x.jpg' leads out"),
  "absolute": (row(path="/x.jpg"), "row 13: path '/x.jpg' leads out"),
  "windows": (row(path="C:\\x.jpg"), "row 13: path 'C:"),
  "no name": (row(path="a\0b"), "row 13: path 'a\\x00b' is no file name"),
  "half": (row(path="\ud800"), "row 13: path '\\ud800' is no file name"),
  "line": (row(label="a\nb"), "row 13: class ('a\\nb',) is no line of text"),
  "return": (row(label="a\rb"), "row 13: class ('a\\rb',) is no line of text"),
  "half a class": (row(label="\ud800"), "class ('\\ud800',) is no line of"),
  "several": (
    row(label=["a", "b"], split="train"),
    "row 13: a training image has one class, not 2",
  ),
  "split": (row(split="../test"), "row 13: split '../test' is no name"),
  "blank": (row(split=" "), "row 13: split '' is no name"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_row_is_named_and_nothing_is_written(root, tmp_path, case):
  bad, words = BAD[case]
  own_data.import_lists(root, **table_of(tmp_path))
  before = snapshot(root)
  with pytest.raises(errors.UserError, match=re.escape(words)) as found:
    own_data.import_lists(root, **table_of(tmp_path, bad))
  assert "\n" not in str(found.value)
  assert snapshot(root) == before


def test_images_listed_twice_are_not_split(root, tmp_path):
  twice = table_of(tmp_path, row(path="val/a0.jpg", label="b"))
  own_data.import_lists(root, **twice)  # whoever tells the splits may
  for how in (BY_CLASS, BY_IMAGE):
    with pytest.raises(errors.UserError, match=r"row 13: val/a0.jpg.*row 5"):
      own_data.import_lists(root, **twice, splits=how)


def test_images_listed_in_two_ways_are_not_split(root, tmp_path):
  for path in ("./val/a0.jpg", "val//a0.jpg", "val/./a0.jpg"):
    twice = table_of(tmp_path, row(path=path))
    words = re.escape(f"row 13: {path} was listed before") + ".*row 5"
    with pytest.raises(errors.UserError, match=words):
      own_data.import_lists(root, **twice, splits=BY_IMAGE)


def test_images_of_a_split_that_nothing_reads_are_told(
  root, tmp_path, caplog, monkeypatch
):
  monkeypatch.setattr(logging.getLogger("udon_jax"), "propagate", True)
  own_data.import_lists(root, **table_of(tmp_path))
  assert not caplog.records
  own_data.import_lists(root, **table_of(tmp_path, row(split="tset")))
  assert "reads the 1 images of 'tset'; correct" in caplog.text


def test_classes_that_get_other_numbers_are_told(
  root, tmp_path, caplog, monkeypatch
):
  monkeypatch.setattr(logging.getLogger("udon_jax"), "propagate", True)
  later = row(label="c", split="train")
  own_data.import_lists(root, **table_of(tmp_path))
  own_data.import_lists(root, **table_of(tmp_path, later))
  assert not caplog.records  # it is the last
  first = row(label="Z", split="train", path="y.jpg")
  own_data.import_lists(root, **table_of(tmp_path, later, first))
  assert "3 of 3 classes have another number now" in caplog.text
  assert "the first is 'a'" in caplog.text


@pytest.mark.parametrize(
  ("classes", "splits", "words"),
  [
    ({"a": 5}, None, "no images of the split 'train', only of test"),
    ({"a": 5, "b": 5}, BY_CLASS, "no images of the split 'train'"),
    ({"a": 5, "b": 1, "c": 1}, BY_CLASS, "no images of the split 'val'"),
    ({"a": 1, "b": 1}, BY_IMAGE, "no images of the split 'val'"),
    (
      {"a": 3, "b": 3, "c": 3, "d": 3},
      {"by": "image", "val": 0.2, "test": 0.3, "index": 0.5},
      "no images of the split 'val_index'",
    ),
  ],
)
def test_too_few_images_are_told_of(root, tmp_path, classes, splits, words):
  source = own_data.add_images(tmp_path / "x", own_data.by_class(classes))
  given = {"folder": str(source)} | ({"splits": splits} if splits else {})
  with pytest.raises(errors.UserError, match=words) as found:
    own_data.import_lists(root, **given)
  assert f"change {KEY}.splits" in str(found.value)
  assert not list(root.rglob("*.json"))


def test_splits_that_are_not_told_are_asked_for(root, tmp_path):
  own_data.add_images(
    tmp_path, ["train/a/1.jpg", "test/b/2.jpg", "test/b/3.jpg"]
  )
  given = {"folder": str(tmp_path)}
  with pytest.raises(errors.UserError, match="no images of the split 'val'"):
    own_data.import_lists(root, **given)
  shutil.rmtree(root)
  found = own_data.import_lists(root, **given, val=["test", "test"])
  assert found.keys() == {"train", "test"}
  with pytest.raises(errors.UserError, match="of the split 'gallery'"):
    own_data.import_lists(root, **given, val=["test", "gallery"])


@pytest.mark.parametrize("index", [("val", "val"), ("val", "train")])
def test_what_nothing_could_find_is_told_before_a_run(root, tmp_path, index):
  paths = ["train/a/1.jpg", "val/b/2.jpg", "val/c/3.jpg"]
  own_data.add_images(tmp_path, [*paths, "test/d/4.jpg", "test/d/5.jpg"])
  with pytest.raises(errors.UserError, match=f"no image of 'val'.*{KEY}.val"):
    own_data.import_lists(root, folder=str(tmp_path), val=list(index))


def test_lists_that_somebody_else_made_are_not_replaced(root, source):
  data_files.write_info(root, "shoes", "train", [{"path": "x", "class_id": 0}])
  before = snapshot(root)
  with pytest.raises(errors.UserError, match="lists that were not made from"):
    own_data.import_lists(root, folder=str(source), splits=BY_CLASS)
  assert snapshot(root) == before


def test_a_file_in_the_place_of_the_lists_is_named(root, source):
  (root / "info_files").mkdir(parents=True)
  folder_of(root).write_text("precious")
  with pytest.raises(errors.UserError, match="info_files/shoes cannot be writ"):
    own_data.import_lists(root, folder=str(source), splits=BY_CLASS)
  assert folder_of(root).read_text() == "precious"


@pytest.mark.parametrize("moment", ["a file", "the end"])
def test_an_interruption_leaves_what_was(root, source, monkeypatch, moment):
  own_data.import_lists(root, folder=str(source), splits=BY_CLASS)
  before = snapshot(root)

  @contextlib.contextmanager
  def interrupted(target):
    with replacing_folder(target) as temporary:
      if moment == "a file":
        (temporary / "train.json").write_text("[")
        raise KeyboardInterrupt
      yield temporary
      raise KeyboardInterrupt

  replacing_folder = replacing.folder
  monkeypatch.setattr(importing.replacing, "folder", interrupted)
  with pytest.raises(KeyboardInterrupt):
    own_data.import_lists(root, folder=str(source), splits=BY_IMAGE)
  assert snapshot(root) == before
  monkeypatch.undo()
  own_data.import_lists(root, folder=str(source), splits=BY_IMAGE)
  assert os.listdir(root / "info_files") == ["shoes"]


@pytest.mark.parametrize("how", ["an entry less", "a list more"])
def test_lists_that_were_changed_by_hand_are_not_replaced(root, source, how):
  own_data.import_lists(root, folder=str(source))
  file = folder_of(root) / "train.json"
  if how == "an entry less":
    file.write_text(json.dumps(json.loads(file.read_text())[1:]))
  else:
    file = folder_of(root) / "index.json"
    file.write_text("[]")
  before = snapshot(root)
  for changes in ({}, {"splits": {"by": "class", "seed": 5}}):
    with pytest.raises(
      errors.UserError, match=f"{file.name} was changed since"
    ):
      own_data.import_lists(root, folder=str(source), **changes)
    assert snapshot(root) == before
  shutil.rmtree(folder_of(root))
  own_data.import_lists(root, folder=str(source))
