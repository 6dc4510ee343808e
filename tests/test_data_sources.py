"""What folders, tables and built data sets list."""

import io
import itertools
import json
import logging
import os
import pathlib
import re
import sys

from etils import epath
import numpy as np
import pytest
import tensorflow_datasets as tfds

from tests import data_files, own_data
from udon_jax import errors
from udon_jax.data.sources import built, folder, table

KEY = "config.own.shoes"


def of_folder(root):
  return folder.read(root, key=f"{KEY}.folder")


def listed(found):
  """Returns (path, labels, splits) of every image of a listing."""
  splits = found.splits or [()] * len(found.paths)
  return list(zip(found.paths, found.labels, splits, strict=True))


def test_a_folder_of_classes(tmp_path):
  own_data.add_images(tmp_path, ["b/1.jpg", "a/x/y/2.PNG", "a/3.webp"])
  (tmp_path / "a" / "notes.txt").write_text("no image")
  (tmp_path / "README.md").write_text("no image")
  (tmp_path / "empty").mkdir()
  found = of_folder(tmp_path)
  assert listed(found) == [
    ("a/3.webp", ("a",), ()),
    ("a/x/y/2.PNG", ("a",), ()),
    ("b/1.jpg", ("b",), ()),
  ]
  assert found.splits is None
  assert found.images == epath.Path(tmp_path)


def test_hidden_files_are_no_part_of_a_folder(tmp_path):
  """As systems leave them: ._1.jpg, .thumbnails/1.jpg."""
  own_data.add_images(
    tmp_path,
    ["a/1.jpg", "a/._1.jpg", ".trash/1.jpg", "b/.t/2.jpg", "b.c/3.jpg"],
  )
  assert of_folder(tmp_path).paths == ["a/1.jpg", "b.c/3.jpg"]


@pytest.mark.parametrize(
  ("name", "split"),
  [
    *((x, x) for x in ("val", "test", "index", "val_index", "test_index")),
    *((x, "val") for x in ("valid", "validation", "dev", "Val", "VALIDATION")),
    ("testing", "test"),
    ("Test", "test"),
  ],
)
@pytest.mark.parametrize("train", ["train", "Train", "training"])
def test_a_folder_of_splits(tmp_path, train, name, split):
  own_data.add_images(tmp_path, [f"{train}/a/1.jpg", f"{name}/a/x/2.jpg"])
  assert set(listed(of_folder(tmp_path))) == {
    (f"{train}/a/1.jpg", ("a",), ("train",)),
    (f"{name}/a/x/2.jpg", ("a",), (split,)),
  }


@pytest.mark.parametrize(
  "tops", [("train", "bus"), ("val", "test"), ("trains", "test")]
)
def test_classes_may_be_named_as_splits(tmp_path, tops):
  own_data.add_images(tmp_path, [f"{top}/a/1.jpg" for top in tops])
  found = of_folder(tmp_path)
  assert found.splits is None
  assert set(found.labels) == {(top,) for top in tops}


@pytest.mark.parametrize(
  ("paths", "words"),
  [
    (["1.jpg", "a/2.jpg"], "1.jpg lies in no folder of a class"),
    (["train/1.jpg", "train/a/2.jpg"], "train/1.jpg lies in no folder of a"),
    (["train/a/1.jpg", "0.jpg"], "0.jpg lies in no folder of a class"),
    (["train/a/1.jpg", "test/a/2.jpg", "more/a/3.jpg"], "beside 'more'"),
  ],
)
def test_images_outside_of_classes_are_named(tmp_path, paths, words):
  own_data.add_images(tmp_path, paths)
  with pytest.raises(errors.UserError, match=re.escape(words)) as found:
    of_folder(tmp_path)
  assert f"{KEY}.folder={tmp_path}" in str(found.value)


def test_a_folder_that_is_none_or_holds_nothing_is_named(tmp_path):
  for place, words in (
    (tmp_path / "x", "is no folder"),
    (tmp_path, "no image"),
  ):
    with pytest.raises(
      errors.UserError, match=f"{KEY}.folder={place}.*{words}"
    ):
      of_folder(place)


def test_names_of_any_script_and_links(tmp_path):
  names = ["größe", "猫 と 犬", "'; drop", "a,b", "[x]", "-", "a\\b", " ", "é"]
  own_data.add_images(tmp_path / "root", [f"{name}/ü 1.jpg" for name in names])
  own_data.add_images(tmp_path / "other", ["2.jpg"])
  (tmp_path / "root" / "linked").symlink_to(tmp_path / "other")
  (tmp_path / "root" / "é" / "up").symlink_to("..")
  found = of_folder(tmp_path / "root")
  assert set(found.labels) == {(name,) for name in [*names, "linked"]}
  assert len(found.paths) == len(names) + 1
  assert "linked/2.jpg" in found.paths


ROWS = [
  {"path": "a/1.jpg", "label": "猫", "split": "train", "role": ""},
  {"path": "a/2.jpg", "label": "two, three", "split": "Training", "role": "x"},
  {"path": "b/3.jpg", "label": '"q"', "split": "valid", "role": ""},
  {"path": "b/4.jpg", "label": "7", "split": "test", "role": "query"},
  {"path": "b/5.jpg", "label": ["7", "猫"], "split": "test", "role": "Index"},
  {"path": "b/6.jpg", "label": "7", "split": "test", "role": "both"},
  {"path": "b/7.jpg", "label": "7", "split": "extra", "role": ""},
]
LISTED = [
  ("a/1.jpg", ("猫",), ("train",)),
  ("a/2.jpg", ("two, three",), ("train",)),
  ("b/3.jpg", ('"q"',), ("val",)),
  ("b/4.jpg", ("7",), ("test",)),
  ("b/5.jpg", ("7", "猫"), ("test_index",)),
  ("b/6.jpg", ("7",), ("test", "test_index")),
  ("b/7.jpg", ("7",), ("extra",)),
]


def read_table(file, rows, **described):
  own_data.write_table(file, rows)
  return table.read(own_data.describe(table=str(file), **described), key=KEY)


@pytest.mark.parametrize("suffix", table.SUFFIXES)
def test_all_forms_of_a_table_list_the_same(tmp_path, suffix):
  rows = ROWS
  if suffix == ".parquet":  # a column has one type there: a list, as it is
    rows = [
      row | {"label": x if isinstance(x := row["label"], list) else [x]}
      for row in ROWS
    ]
  found = read_table(tmp_path / f"x{suffix}", rows)
  assert listed(found) == LISTED
  assert found.images == epath.Path(tmp_path)
  assert found.rows[3] == f"{tmp_path}/x{suffix}: row 4"


@pytest.mark.parametrize("suffix", table.SUFFIXES)
def test_columns_can_have_other_names_and_images_lie_elsewhere(
  tmp_path, suffix
):
  (tmp_path / "images").mkdir()
  found = read_table(
    tmp_path / "lists" / f"x{suffix}",
    [
      {"i": "a.jpg", "c": 3, "s": "train", "r": "", "split": "ignored"},
      {"i": "b.jpg", "c": 4, "s": "val", "r": "both", "split": "ignored"},
    ],
    images=str(tmp_path / "images"),
    path_column="i",
    label_column="c",
    split_column="s",
    role_column="r",
  )
  assert listed(found) == [
    ("a.jpg", ("3",), ("train",)),
    ("b.jpg", ("4",), ("val", "val_index")),
  ]
  assert found.images == epath.Path(tmp_path / "images")


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_numbers_are_names_and_lists_are_sets(tmp_path, suffix):
  path = {"path": "x.jpg"}
  for label, names in (
    ([3], ("3",)),
    ([3.0], ("3",)),
    ([-1], ("-1",)),
    (["a", "b", "a"], ("a", "b")),
    ([" a "], ("a",)),
  ):
    found = read_table(tmp_path / f"x{suffix}", [path | {"label": label}])
    assert found.labels == [names]
    assert found.splits is None


@pytest.mark.parametrize("suffix", table.SUFFIXES)
@pytest.mark.parametrize("key", ["split_column", "role_column"])
def test_a_column_that_is_named_is_there(tmp_path, suffix, key):
  row = {"path": "x.jpg", "label": ["a"], "split": "train"}
  words = f"row 1: there is no column 'fold', .*; name it by {KEY}.{key}"
  with pytest.raises(errors.UserError, match=words):
    read_table(tmp_path / f"x{suffix}", [row], **{key: "fold"})


def test_a_table_of_a_spreadsheet_begins_with_a_mark(tmp_path):
  file = tmp_path / "x.csv"
  file.write_text("path,label\r\na.jpg,1\r\n", encoding="utf-8-sig")
  found = table.read(own_data.describe(table=str(file)), key=KEY)
  assert listed(found) == [("a.jpg", ("1",), ())]


def test_absolute_paths_of_a_table_are_those_below_its_images(
  tmp_path, monkeypatch
):
  photos = tmp_path / "photos"
  photos.mkdir()
  paths = [
    *(f"{photos}/a/1.jpg", f"{photos}//2.jpg", "3.jpg"),
    *("photos/4.jpg", f"{photos}s/5.jpg"),
  ]
  monkeypatch.chdir(tmp_path)
  own_data.write_table(
    tmp_path / "x.csv", [{"path": path, "label": "1"} for path in paths]
  )
  for images in (str(photos), f"{photos}/", "photos"):
    own = own_data.describe(table=str(tmp_path / "x.csv"), images=images)
    found = table.read(own, key=KEY)
    # What lies elsewhere stays absolute, and is refused with the lists.
    assert found.paths == ["a/1.jpg", "2.jpg", *paths[2:]]


BAD_ROWS = {
  "no path": ({"path": ""}, "path='' is no path"),
  "no class": ({"label": ""}, "label='' is no class"),
  "blank class": ({"label": " "}, "label=' ' is no class"),
  "unknown role": ({"role": "gallery"}, "role='gallery' must be one of query"),
  "role alone": ({"split": "", "role": "query"}, "without a split"),
  "no split": ({"split": "", "role": ""}, "split is empty, but not in all"),
}


# Where cells are text, and lists JSON.
BAD_CELLS = {
  "no list": ({"label": "[a"}, "label='[a' is no JSON list"),
  "deep": ({"label": "[" * 99_999}, "is no JSON list"),
  "empty list": ({"label": "[]"}, "label=[] is no class"),
  "list of lists": ({"label": "[[1]]"}, "is no class"),
  "list of nothing": ({"label": "[null]"}, "is no class"),
}


@pytest.mark.parametrize(
  ("case", "suffix"),
  [
    *itertools.product(BAD_ROWS, (".csv", ".tsv", ".jsonl")),
    *itertools.product(BAD_CELLS, (".csv", ".tsv")),
  ],
)
def test_a_bad_row_is_named_with_its_number(tmp_path, case, suffix):
  changes, words = (BAD_ROWS | BAD_CELLS)[case]
  rows = [ROWS[0], ROWS[2], ROWS[3] | changes, ROWS[0]]
  with pytest.raises(errors.UserError, match=re.escape(words)) as found:
    read_table(tmp_path / f"x{suffix}", rows)
  message = str(found.value)
  assert message.startswith(f"{tmp_path}/x{suffix}: row 3: ")
  assert "\n" not in message


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_a_name_may_begin_with_a_bracket_where_lists_are_lists(
  tmp_path, suffix
):
  names = ["[A] x", '["a"]', "[1"]
  rows = [{"path": "x.jpg", "label": name} for name in names]
  found = read_table(tmp_path / f"x{suffix}", rows)
  assert found.labels == [(name,) for name in names]


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
@pytest.mark.parametrize(
  ("row", "words"),
  [
    ({"path": 3, "label": "a"}, "path=3 is no path"),
    ({"path": None, "label": "a"}, "path=None is no path"),
    ({"path": "a", "label": True}, "label=True is no class"),
    ({"path": "a", "label": 0.5}, "label=0.5 is no class"),
    ({"path": "a", "label": float("nan")}, "label=nan is no class"),
    ({"path": "a", "label": None}, "label=None is no class"),
    ({"path": "a", "label": "b", "split": 1}, "split=1 must be a name"),
    ({"path": "a"}, "no column 'label', only path; name it by"),
    ({"label": "a"}, f"only label; name it by {KEY}.path_column"),
  ],
)
def test_values_of_a_wrong_type_are_named(tmp_path, row, words, suffix):
  with pytest.raises(errors.UserError, match=re.escape(words)) as found:
    read_table(tmp_path / f"x{suffix}", [row])
  assert f"x{suffix}: row 1: " in str(found.value)


@pytest.mark.parametrize(
  ("name", "text", "words"),
  [
    ("x.csv", "path,label\na,b\na,b,c\n", "row 2 has more cells"),
    ("x.csv", 'path,label\na,"b\n', "cannot be read"),
    ("x.csv", "path,label\na\n", "row 1: label=None is no class"),
    ("x.csv", "", "has no rows"),
    ("x.tsv", "path\tlabel\n", "has no rows"),
    ("x.csv", "p,l\na,b\n", "no column 'path', only p, l"),
    ("x.csv", "path,label,label\na,b,c\n", "two columns are called 'label'"),
    ("x.jsonl", '{"path": "a", "label": 1}\n{', "(line 2 is no JSON: "),
    ("x.jsonl", '{"path": "a", "label": 1}\n\n[]\n', "line 3 holds no object"),
    ("x.jsonl", "[" * 99_999, "cannot be read"),
    ("x.parquet", "PAR1", "cannot be read"),
    ("x.xlsx", "", "unknown suffix; known: .csv, .tsv, .jsonl, .parquet"),
    ("x", "", "unknown suffix"),
  ],
)
def test_a_bad_table_is_one_line(tmp_path, name, text, words):
  (tmp_path / name).write_text(text)
  with pytest.raises(errors.UserError, match=re.escape(words)) as found:
    table.read(own_data.describe(table=str(tmp_path / name)), key=KEY)
  assert str(tmp_path / name) in str(found.value)
  assert "\n" not in str(found.value)


def test_a_table_that_is_not_there_is_named_by_its_key(tmp_path):
  for file in (tmp_path / "x.csv", tmp_path / "nowhere" / "x.parquet"):
    with pytest.raises(errors.UserError, match=f"{KEY}.table={file} cannot be"):
      table.read(own_data.describe(table=str(file)), key=KEY)
  own = own_data.describe(table="x.csv", images=str(tmp_path / "nowhere"))
  with pytest.raises(errors.UserError, match=f"{KEY}.images=.* is no folder"):
    table.read(own, key=KEY)


def test_arrow_is_asked_for_where_it_is_missing(tmp_path, monkeypatch):
  file = own_data.write_table(tmp_path / "x.parquet", ROWS[:1])
  monkeypatch.setitem(sys.modules, "pyarrow", None)
  with pytest.raises(errors.UserError, match=r"pyarrow.*pip install") as found:
    table.read(own_data.describe(table=str(file)), key=KEY)
  assert "correct the file" not in str(found.value)


EXAMPLES = {
  "train": [own_data.example(i, i % 2) for i in range(4)],
  "validation": [own_data.example(9, 2, kind="PNG")],
  "test": [own_data.example(7, 2), own_data.example(8, 0)],
}
BYTES = {
  split: [example["image"].getvalue() for example in examples]
  for split, examples in EXAMPLES.items()
}


def fresh(splits):
  """Returns examples whose images can be read again."""
  return {
    split: [
      example | {"image": io.BytesIO(example["image"].getvalue())}
      for example in examples
    ]
    for split, examples in splits.items()
  }


@pytest.fixture(scope="module")
def built_at(tmp_path_factory):
  folder = tmp_path_factory.mktemp("tfds")
  return folder, own_data.build_tfds(folder, fresh(EXAMPLES))


def read_built(images, **described):
  own = own_data.describe(**{k: str(v) for k, v in described.items()})
  return built.read(own, images=epath.Path(images), key=KEY)


@pytest.mark.parametrize("how", ["folder", "name", "version"])
def test_a_built_data_set_is_written_as_it_was_put_in(tmp_path, built_at, how):
  folder, place = built_at
  found = read_built(
    tmp_path,
    **{
      "folder": {"tfds": place},
      "name": {"tfds": "tiny", "tfds_dir": folder},
      "version": {"tfds": "tiny:1.0.0", "tfds_dir": folder},
    }[how],
  )
  assert found.labels == [("猫",), ("cat",)] + [("cat",), ("dog",)] * 2 + [
    ("猫",)
  ]
  assert found.splits == [("test",)] * 2 + [("train",)] * 4 + [("val",)]
  data = [(tmp_path / path).read_bytes() for path in found.paths]
  assert data == BYTES["test"] + BYTES["train"] + BYTES["validation"]
  assert [path[-4:] for path in found.paths[-2:]] == [".jpg", ".png"]
  assert found.images == epath.Path(tmp_path)


def test_images_come_in_the_order_of_their_files(tmp_path):
  examples = [own_data.example(i, i % 3) for i in range(23)]
  place = own_data.build_tfds(
    tmp_path / "tfds", fresh({"train": examples}), num_shards=5
  )
  for _ in range(2):
    found = read_built(tmp_path, tfds=place)
    data = [(tmp_path / path).read_bytes() for path in found.paths]
    assert data == [example["image"].getvalue() for example in examples]
    assert found.labels == [(["cat", "dog", "猫"][i % 3],) for i in range(23)]


def test_a_data_set_that_tfds_knows_is_read_where_it_was_built(tmp_path):
  builder = tfds.builder("mnist", data_dir=tmp_path / "tfds")
  version = str(builder.info.version)
  grey = data_files.encode(3, size=(28, 28), mode="L", kind="PNG")
  own_data.build_tfds(
    tmp_path / "tfds",
    {"train": [{"image": io.BytesIO(grey), "label": 7}]},
    features=builder.info.features,
    name="mnist",
    version=version,
  )
  found = read_built(tmp_path, tfds="mnist", tfds_dir=tmp_path / "tfds")
  assert found.labels == [("7",)]
  assert (tmp_path / found.paths[0]).read_bytes() == grey


def files_of(root):
  return {
    path: path.stat().st_mtime_ns
    for path in pathlib.Path(root).rglob("*")
    if path.is_file()
  }


def test_images_are_written_once(tmp_path, built_at):
  _, place = built_at
  first = read_built(tmp_path, tfds=place)
  before = files_of(tmp_path)
  assert listed(read_built(tmp_path, tfds=place)) == listed(first)
  assert files_of(tmp_path) == before


def test_images_of_another_build_are_written_beside(tmp_path, built_at):
  """Of the same name and version, or of another feature of it."""
  _, place = built_at
  first = read_built(tmp_path / "images", tfds=place)
  changed = {"train": [own_data.example(50 + i, 0) for i in range(4)]}
  other = own_data.build_tfds(tmp_path / "other", fresh(EXAMPLES | changed))
  again = read_built(tmp_path / "images", tfds=other)
  for found, train in ((first, EXAMPLES["train"]), (again, changed["train"])):
    data = [
      (tmp_path / "images" / path).read_bytes() for path in found.paths[2:6]
    ]
    assert data == [example["image"].getvalue() for example in train]
  both = tfds.features.FeaturesDict(
    {name: tfds.features.Image() for name in ("image", "back")}
    | {"label": tfds.features.Text()}
  )
  example = {
    "image": io.BytesIO(BYTES["test"][0]),
    "back": io.BytesIO(BYTES["test"][1]),
    "label": "größe",
  }
  two = own_data.build_tfds(
    tmp_path / "two", {"train": [example]}, features=both
  )
  for feature, expected in zip(("image", "back"), BYTES["test"], strict=True):
    found = read_built(tmp_path / "i", tfds=two, image_feature=feature)
    assert (tmp_path / "i" / found.paths[0]).read_bytes() == expected
    assert found.labels == [("größe",)]


def test_lists_of_labels_numbers_and_none(tmp_path, caplog, monkeypatch):
  """-1 is what data sets write for classes that they do not tell."""
  monkeypatch.setattr(logging.getLogger("udon_jax"), "propagate", True)
  features = tfds.features.FeaturesDict(
    {
      "image": tfds.features.Image(),
      "labels": tfds.features.Sequence(tfds.features.ClassLabel(num_classes=9)),
    }
  )
  examples = [
    {"image": io.BytesIO(BYTES["train"][0]), "labels": labels}
    for labels in ([3, 5], [5, 5], [8])
  ]
  place = own_data.build_tfds(
    tmp_path / "tfds", {"train": examples}, features=features
  )
  found = read_built(tmp_path, tfds=place, label_feature="labels")
  assert found.labels == [("3", "5"), ("5",), ("8",)]
  assert found.splits is None  # one split is none
  number = tfds.features.FeaturesDict(
    {"image": tfds.features.Image(), "label": tfds.features.Scalar(np.int64)}
  )
  place = own_data.build_tfds(
    tmp_path / "numbers",
    {
      "train": [own_data.example(1, 40), own_data.example(2, 2**40)],
      "test": [own_data.example(3, -1), own_data.example(4, 40)],
    },
    features=number,
  )
  found = read_built(tmp_path, tfds=place)
  assert found.labels == [("40",), ("40",), (f"{2**40}",)]
  assert "1 images of test have no class" in caplog.text
  data = [(tmp_path / path).read_bytes() for path in found.paths]
  assert data == [own_data.example(i, 0)["image"].getvalue() for i in (4, 1, 2)]


@pytest.mark.parametrize(
  ("described", "words"),
  [
    ({"tfds": "nothing_such"}, ".tfds=nothing_such is no data set"),
    ({"tfds": "tiny:2.0.0"}, ".tfds=tiny:2.0.0 is no data set"),
    ({"tfds": "mnist"}, "was not built in "),
    ({"tfds": "FOLDER"}, "FOLDER cannot be opened"),
    ({"tfds": "/nowhere/x"}, ".tfds=/nowhere/x cannot be opened"),
    ({"image_feature": "img"}, ".image_feature='img' is not in PLACE, which"),
    ({"label_feature": "class"}, ".label_feature='class' is not in PLACE"),
    ({"image_feature": "label"}, ".image_feature='label' of PLACE is no image"),
    ({"label_feature": "image"}, ".label_feature='image' of PLACE is neither"),
  ],
)
def test_what_cannot_be_read_is_named(tmp_path, built_at, described, words):
  folder, place = built_at
  names = {"FOLDER": str(folder), "PLACE": str(place)}
  given = {"tfds": str(place), "tfds_dir": str(folder)} | described
  given = {key: names.get(value, value) for key, value in given.items()}
  for name, value in names.items():
    words = words.replace(name, value)
  with pytest.raises(errors.UserError, match=re.escape(words)) as found:
    read_built(tmp_path, **given)
  assert str(found.value).startswith(f"{KEY}.")
  assert "\n" not in str(found.value)
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("feature", [tfds.features.Scalar(np.float32), {}])
def test_labels_that_are_no_classes_are_named(tmp_path, feature):
  feature = feature or {"x": tfds.features.Scalar(np.int64)}
  features = tfds.features.FeaturesDict(
    {"image": tfds.features.Image(), "label": feature}
  )
  label = {"x": 1} if isinstance(feature, dict) else 0.5
  place = own_data.build_tfds(
    tmp_path / "tfds",
    {"train": [own_data.example(1, label)]},
    features=features,
  )
  with pytest.raises(errors.UserError, match=r"label_feature='label'.*neither"):
    read_built(tmp_path / "images", tfds=place)


@pytest.mark.parametrize("damage", ["cut", "remove"])
def test_damaged_files_of_a_data_set_leave_no_half(tmp_path, damage):
  place = own_data.build_tfds(tmp_path / "tfds", fresh(EXAMPLES))
  file = place / "tiny-train.tfrecord-00000-of-00001"
  if damage == "cut":
    file.write_bytes(file.read_bytes()[:-30])
  else:
    file.unlink()
  with pytest.raises(errors.UserError, match=r"tfds=.*split train is missing"):
    read_built(tmp_path / "images", tfds=place)
  assert not list((tmp_path / "images").rglob("*train*"))
  file.unlink(missing_ok=True)
  own_data.build_tfds(tmp_path / "again", fresh(EXAMPLES))
  os.replace(tmp_path / "again/tiny/1.0.0" / file.name, file)
  found = read_built(tmp_path / "images", tfds=place)
  data = [(tmp_path / "images" / path).read_bytes() for path in found.paths]
  assert data == BYTES["test"] + BYTES["train"] + BYTES["validation"]


def test_a_folder_that_cannot_be_written_is_named(tmp_path, built_at):
  _, place = built_at
  (tmp_path / "shoes").write_text("precious")
  with pytest.raises(errors.UserError, match=r"shoes/.* cannot be written"):
    read_built(tmp_path, tfds=place)
  assert (tmp_path / "shoes").read_text() == "precious"
  assert json.dumps([x.name for x in tmp_path.iterdir()]) == '["shoes"]'
