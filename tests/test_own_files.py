"""Files of descriptions are read as written, or told of in one line."""

import json
import pathlib
import re

import pytest
import yaml

from tests import fakes
from udon_jax import build, checks, errors, own_domains, own_files

FOLDER = {"folder": "/x"}
SPLITS = {"by": "class"}
FILE = {
  "shoes": {"folder": "shoes", "splits": SPLITS},
  "bags": {"table": "lists/bags.csv", "images": "/data/bags"},
  "toys": {"tfds": "mnist", "tfds_dir": "~/tfds"},
  "hats": {"tfds": "hats/1.0.0"},
}


@pytest.mark.parametrize("suffix", [".yaml", ".yml", ".json"])
def test_a_file_says_the_same_in_yaml_and_json(tmp_path, suffix):
  file = tmp_path / f"own{suffix}"
  write = json.dumps if suffix == ".json" else yaml.safe_dump
  file.write_text(write(FILE))
  (tmp_path / "hats" / "1.0.0").mkdir(parents=True)
  found = own_files.read(file, key="config.own_file")
  assert found["shoes"] == FILE["shoes"] | {"folder": f"{tmp_path}/shoes"}
  assert found["bags"] == {
    "table": f"{tmp_path}/lists/bags.csv",
    "images": "/data/bags",
  }
  home = str(pathlib.Path("~/tfds").expanduser())
  assert found["toys"] == {"tfds": "mnist", "tfds_dir": home}
  assert found["hats"] == {"tfds": f"{tmp_path}/hats/1.0.0"}


@pytest.mark.parametrize(
  ("name", "text", "words"),
  [
    ("none.yaml", None, "cannot be read (No such file"),
    ("folder.yaml", "", "cannot be read (Is a directory)"),
    ("own.yaml", "a: [", "neither YAML nor JSON"),
    ("own.json", "{", "neither YAML nor JSON"),
    ("own.json", "[" * 100_000, "neither YAML nor JSON"),
    ("own.yaml", "\0", "neither YAML nor JSON"),
    ("own.yaml", "", "holds no descriptions"),
    ("own.yaml", "- shoes", "holds no descriptions"),
    ("own.yaml", "shoes: 3", "own.yaml: shoes=3 is no description"),
    ("own.yaml", "shoes: {foldr: x}", "own.yaml: shoes.foldr is unknown"),
    ("own.yaml", "3: {folder: x}", "3 is no name of a domain"),
    ("own.yaml", "a.b: {folder: x}", "'a.b' is no name of a domain"),
    (
      "own.yaml",
      "a: {folder: x}\nb: {folder: x}\na: {folder: y}",
      "'a' is there",
    ),
    ("own.yaml", "a: {folder: x, folder: y}", "'folder' is there twice"),
    ("own.json", '{"a": {"folder": "x", "folder": "y"}}', "'folder' is there"),
    ("own.yaml", "? [a]\n: {folder: x}", "neither YAML nor JSON"),
    ("own.yaml", "!!python/object:os.system {}", "neither YAML nor JSON"),
  ],
)
def test_a_wrong_file_is_one_line(tmp_path, name, text, words):
  file = tmp_path / name
  if name == "folder.yaml":
    file.mkdir()
  elif text is not None:
    file.write_text(text)
  with pytest.raises(errors.UserError, match=re.escape(words)) as found:
    own_files.read(file, key="config.own_file")
  assert "\n" not in str(found.value)
  assert str(file) in str(found.value)


def test_a_file_that_is_no_text_is_named(tmp_path):
  file = tmp_path / "own.yaml"
  file.write_bytes(b"\xff\xfe\xfa")
  with pytest.raises(errors.UserError, match="neither YAML nor JSON"):
    own_files.read(file, key="config.own_file")


def test_yaml_may_say_once_what_domains_share(tmp_path):
  file = tmp_path / "own.yaml"
  file.write_text(
    "a: &a {folder: /x, splits: {by: class}}\nb: {<<: *a, folder: /y}"
  )
  found = own_files.read(file, key="config.own_file")
  assert found["a"] == {"folder": "/x", "splits": {"by": "class"}}
  assert found["b"] == {"folder": "/y", "splits": {"by": "class"}}


def test_a_file_becomes_part_of_the_config(tmp_path):
  file = tmp_path / "own.yaml"
  file.write_text(yaml.safe_dump(FILE))
  config = fakes.changed(own_file=str(file))
  with config.unlocked():
    config.own.gloves = FOLDER
  merged = build.with_own_file(config)
  assert merged.own_file is None
  assert merged.is_locked
  assert set(own_domains.parse_all(merged.own.to_dict())) == {*FILE, "gloves"}
  assert set(config.own) == {"gloves"}  # that one is as it was
  checks.check(merged)
  assert build.from_json(build.to_json(merged)).own == merged.own
  with config.unlocked():
    config.own.shoes = FOLDER
  with pytest.raises(errors.UserError, match=r"config.own.shoes is also desc"):
    build.with_own_file(config)


@pytest.mark.parametrize("name", ["a", "A-1_b", "7", "update", "items"])
def test_other_names_can_be_keys_of_a_config(name):
  config = fakes.config()
  with config.unlocked():
    config.own.update({name: FOLDER})
  checks.check(config)
  assert set(own_domains.parse_all(config.own.to_dict())) == {name}
  again = build.from_json(build.to_json(config))
  assert again.own.to_dict() == {name: FOLDER}
