"""Descriptions of users' own domains: every key, and every wrong value."""

import dataclasses
import json
import pathlib
import re

import pytest

from udon_jax import domains, errors, own_domains, own_files
from udon_jax.data import notes

DOCS = pathlib.Path(__file__).parent.parent / "docs" / "own_domains.md"
KEY = "config.own.shoes"
FOLDER = {"folder": "/x"}
TABLE = {"table": "/x.csv"}
TFDS = {"tfds": "mnist"}
RECORDS = {"records": "/x"}
SPLITS = {"by": "class", "val": 0.1, "test": 0.2}


def parse(described):
  return own_domains.parse("shoes", described, key=KEY)


GOOD = {
  "folder": FOLDER | {"splits": {"by": "class"}},
  "table": TABLE
  | {
    "images": "/y",
    "path_column": "a",
    "label_column": "b",
    "split_column": "c",
    "role_column": "d",
    "val": ["val", "train"],
    "test": ("test", "gallery"),
  },
  "tfds": TFDS
  | {
    "tfds_dir": "/z",
    "image_feature": "e",
    "label_feature": "f",
    "splits": {"by": "image", "val": 0.3, "test": 1e-3, "index": 0, "seed": 9},
  },
  "records": RECORDS | {"val": ["val", "val"]},
}


@pytest.mark.parametrize("source", own_domains.SOURCES)
def test_every_key_is_taken_as_it_is(source):
  own = parse(GOOD[source])
  assert own.source == source
  assert own.name == "shoes"
  for key, value in GOOD[source].items():
    found = getattr(own, key)
    if key == "splits":
      assert dataclasses.asdict(found).items() >= value.items()
    else:
      assert found == (tuple(value) if isinstance(value, list) else value)


def test_the_cases_above_have_every_key():
  given = {key for described in GOOD.values() for key in described}
  names = {field.name for field in dataclasses.fields(own_domains.OwnDomain)}
  assert given == names - {"name"}


def test_none_is_a_default():
  assert parse(TABLE | {"folder": None, "images": None}) == parse(TABLE)


@pytest.mark.parametrize(
  ("described", "words"),
  [
    ("/data/shoes", "is no description"),
    (None, "is no description"),
    ([FOLDER], "is no description"),
    ({}, "names no source; give exactly one of folder, table, tfds, records"),
    (FOLDER | TFDS, "names folder and tfds; give exactly one"),
    (FOLDER | {"foldr": "/y"}, ".foldr is unknown; known: folder, table"),
    (FOLDER | {3: "/y"}, ".3 is unknown"),
    ({"folder": 3}, ".folder=3 must be a text"),
    ({"folder": ""}, ".folder='' must be a text"),
    ({"table": ["/x.csv"]}, ".table=['/x.csv'] must be a text"),
    (TABLE | {"label_column": 1}, ".label_column=1 must be a text"),
    (FOLDER | {"images": "/y"}, ".images goes with table, not with folder"),
    (TFDS | {"path_column": "y"}, ".path_column goes with table"),
    (FOLDER | {"label_column": "y"}, ".label_column goes with table"),
    (FOLDER | {"split_column": "y"}, ".split_column goes with table"),
    (FOLDER | {"role_column": "y"}, ".role_column goes with table"),
    (TABLE | {"image_feature": "y"}, ".image_feature goes with tfds"),
    (TABLE | {"label_feature": "y"}, ".label_feature goes with tfds"),
    (FOLDER | {"tfds_dir": "/y"}, ".tfds_dir goes with tfds"),
    (RECORDS | {"splits": SPLITS}, ".splits goes with folder or table or tfds"),
    (FOLDER | {"val": "val"}, ".val='val' must be two splits"),
    (FOLDER | {"test": ["test"]}, ".test=['test'] must be two splits"),
    (FOLDER | {"test": ["a/b", "c"]}, "must be two splits"),
    (FOLDER | {"splits": "class"}, ".splits='class' must be of by, val, test"),
    (FOLDER | {"splits": {"val": 0.1}}, ".splits={'val': 0.1} must be of by"),
    (FOLDER | {"splits": SPLITS | {"x": 1}}, "must be of by, val, test"),
    (FOLDER | {"splits": {"by": "luck"}}, ".splits.by='luck' must be 'class'"),
    (FOLDER | {"splits": {"by": None}}, ".splits.by=None must be"),
    (FOLDER | {"splits": {"by": []}}, ".splits.by=[] must be"),
    *(
      (FOLDER | {"splits": SPLITS | {key: value}}, f".splits.{key}={value!r}")
      for key in ("val", "test", "index")
      for value in (-0.1, 1, 1.5, float("nan"), "0.1", None, True, [0.1])
    ),
    (FOLDER | {"splits": SPLITS | {"val": 0}}, "val=0 and test=0.2 must be"),
    (FOLDER | {"splits": SPLITS | {"test": 0.0}}, "test=0.0 must be above 0"),
    (FOLDER | {"splits": SPLITS | {"val": 0.8}}, "leave something to train"),
    *(
      (FOLDER | {"splits": SPLITS | {"seed": value}}, f".splits.seed={value!r}")
      for value in (-1, 2**32, 0.5, "1", None, True)
    ),
  ],
)
def test_a_wrong_value_is_one_line_that_names_the_key(described, words):
  with pytest.raises(errors.UserError) as found:
    parse(described)
  message = str(found.value)
  assert message.startswith(KEY)
  assert words in message
  assert "\n" not in message


@pytest.mark.parametrize(
  "name", ["", ".x", "a b", "a/b", "../a", "a\n", "猫", "a.b", 3, None]
)
def test_a_name_names_a_folder_and_a_key(name):
  """Keys of configs have no dots."""
  with pytest.raises(errors.UserError, match="is no name of a domain"):
    own_domains.parse(name, FOLDER, key="file")
  with pytest.raises(errors.UserError, match="is no name of a domain"):
    own_domains.parse_all({name: FOLDER})


def test_domains_of_uned_are_not_described():
  with pytest.raises(errors.UserError, match="describes a domain of UnED"):
    own_domains.parse_all({"cars": FOLDER})


def test_protocols_follow_the_splits_unless_they_are_named():
  def pairs(described, *splits):
    spec = parse(described).spec(frozenset(splits))
    return [
      dataclasses.astuple(spec.protocol(name)) for name in domains.EVAL_SPLITS
    ]

  assert pairs(FOLDER, "val", "test") == [("val", "val"), ("test", "test")]
  assert pairs(FOLDER, "index", "val_index") == [
    ("val", "val_index"),
    ("test", "index"),
  ]
  assert pairs(FOLDER, "index", "test_index")[1] == ("test", "test_index")
  image = FOLDER | {"splits": {"by": "image"}}
  assert pairs(image) == [("val", "train"), ("test", "train")]
  shared = FOLDER | {"splits": {"by": "image", "index": 0.5}}
  assert pairs(shared, "val_index", "test_index") == [
    ("val", "val_index"),
    ("test", "test_index"),
  ]
  named = image | {"test": ["a", "b"]}
  assert pairs(named) == [("val", "train"), ("a", "b")]


def test_what_decides_the_lists_is_no_place():
  """So that data may be prepared here and trained on there."""
  first = parse(FOLDER).essence()
  assert parse({"folder": "/elsewhere"}).essence() == first
  assert parse(FOLDER | {"test": ["test", "train"]}).essence() == first
  assert parse(FOLDER | {"splits": SPLITS}).essence() != first
  assert parse(TABLE).essence() != first
  assert json.loads(json.dumps(first)) == first


def rows_of(heading):
  """Returns the first cells of the table after a heading of the page."""
  text = DOCS.read_text().partition(f"## {heading}\n")[2].partition("\n## ")[0]
  return re.findall(r"^\| `([^`|]+)` \|", text, re.MULTILINE)


def test_the_page_has_every_key_and_no_other():
  fields = [f.name for f in dataclasses.fields(own_domains.OwnDomain)]
  assert sorted(rows_of("Four descriptions")) == sorted(fields[1:])
  (told,) = re.findall(r"source tells: (`[^|]*`) \|", DOCS.read_text())
  splits = [f.name for f in dataclasses.fields(own_domains.Splits)]
  assert re.findall(r"`(\w+)`", told) == splits


def test_the_page_says_which_keys_go_together():
  lines = DOCS.read_text().splitlines()
  for key in own_domains.SOURCES:
    assert any(line.startswith(f"| `{key}` | |") for line in lines)
  sources = {"table": TABLE, "tfds": TFDS}
  for line in lines:
    for name, source in sources.items():
      for key in re.findall(rf"^\| `(\w+)` \| `{name}` \|", line):
        assert getattr(parse(source | {key: "x"}), key) == "x"
        with pytest.raises(errors.UserError, match=f"{key} goes with {name}"):
          parse(FOLDER | {key: "x"})


def test_the_descriptions_of_the_page_are_good(tmp_path):
  (text,) = re.findall(r"```yaml\n(.*?)```", DOCS.read_text(), re.DOTALL)
  (tmp_path / "own.yaml").write_text(text)
  found = own_files.read(tmp_path / "own.yaml", key="")
  sources = [own.source for own in own_domains.parse_all(found).values()]
  assert sources == list(own_domains.SOURCES)


def test_the_page_names_files_that_are_written():
  assert set(rows_of("What is written")) >= {
    f"info_files/<name>/{file}"
    for file in ("<split>.json", notes.CLASSES_FILE, notes.SOURCE_FILE)
  }
  root = DOCS.parent.parent
  for path in re.findall(r"\]\(([^)]+)\)", DOCS.read_text()):
    assert (DOCS.parent / path).exists()
  for path in re.findall(r"--config=(\S+)", DOCS.read_text()):
    assert (root / path).exists()
  assert len(DOCS.read_text().splitlines()) <= 130


def test_the_page_tells_the_defaults():
  text = DOCS.read_text()
  for field in dataclasses.fields(own_domains.OwnDomain):
    if isinstance(field.default, str):
      (line,) = re.findall(rf"^\| `{field.name}` \|.*$", text, re.MULTILINE)
      assert f"`{field.default}` by default" in line
  default = own_domains.Splits(by="class")
  assert f"({default.val} and {default.test} by default)" in text
