"""Info files: what is read, and what each mistake is answered with."""

import json

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest

from udon_jax import errors
from udon_jax.data import info

GOOD = {"path": "a/1.jpg", "class_id": 0}


def write(tmp_path, contents):
  file = tmp_path / "train.json"
  if not isinstance(contents, str | bytes):
    contents = json.dumps(contents)
  if isinstance(contents, str):
    contents = contents.encode()
  file.write_bytes(contents)
  return file


def test_several_labels_are_padded(tmp_path):
  entries = [
    {"path": "a", "class_id": 7},
    {"path": "b/c", "class_id": [2, 7, 1]},
    {"path": "ä", "class_id": [4], "extra": None},
  ]
  images = info.read_info(write(tmp_path, entries), split="test")
  assert images.paths == ["a", "b/c", "ä"]
  np.testing.assert_array_equal(
    images.labels, [[7, -1, -1], [2, 7, 1], [4, -1, -1]]
  )
  assert images.labels.dtype == np.int32
  assert images.num_classes == 8


BAD = {
  "not json": ('[{"path": "a"', "not valid JSON"),
  "not text": (b"\xff\xfe\x00", "not valid JSON"),
  "a dict": ({"a": 1}, "JSON dict"),
  "empty": ([], "lists no image"),
  "a name alone": ([GOOD, "a.jpg"], "entry 1: 'a.jpg'"),
  "no path": ([{"class_id": 1}], "entry 0"),
  "no class": ([GOOD, {"path": "a"}], "entry 1"),
  "path of wrong type": ([{"path": 3, "class_id": 0}], "path 3"),
  "empty path": ([{"path": "", "class_id": 0}], "entry 0: path ''"),
  "absolute path": ([{"path": "/a", "class_id": 0}], "out of the"),
  "path above": ([{"path": "a/../../b", "class_id": 0}], "out of the"),
  "path above by \\": (
    [{"path": "a\\..\\..\\b", "class_id": 0}],
    "out of the",
  ),
  "path on a drive": (
    [{"path": "C:\\a.jpg", "class_id": 0}],
    "out of the",
  ),
  "path on a server": (
    [{"path": "\\\\a\\b", "class_id": 0}],
    "out of the",
  ),
  "path ends above": ([{"path": "a/..", "class_id": 0}], "out of the"),
  "path with NUL": ([{"path": "a\0b", "class_id": 0}], "is no file name"),
  "path with half a character": (
    '[{"path": "a\\ud800b.jpg", "class_id": 0}]',
    "is no file name",
  ),
  "nested too deeply": ("[" * 100_000, "too deep"),
  "nested deeply": (
    '[{"path": "a", "class_id": ' + "[" * 200 + "]" * 200 + "}]",
    "entry 0: class_id",
  ),
  "number of many digits": (
    '[{"path": "a", "class_id": ' + "9" * 5000 + "}]",
    "not valid JSON",
  ),
  "number of some digits": (
    '[{"path": "a", "class_id": ' + "9" * 500 + "}]",
    "entry 0: class_id 9999",
  ),
  "nested classes": ([{"path": "b", "class_id": [[1]]}], "entry 0: class_id"),
  "no number": ('[{"path": "b", "class_id": NaN}]', "entry 0: class_id nan"),
  "negative": ([GOOD, {"path": "b", "class_id": -1}], "entry 1: class_id -1"),
  "float": ([{"path": "b", "class_id": 1.0}], "class_id 1.0"),
  "text": ([{"path": "b", "class_id": "1"}], "class_id '1'"),
  "bool": ([{"path": "b", "class_id": True}], "class_id True"),
  "null": ([{"path": "b", "class_id": None}], "class_id None"),
  "too large": ([{"path": "b", "class_id": 2**31}], "class_id 2147483648"),
  "no classes": ([{"path": "b", "class_id": []}], r"class_id \[\]"),
  "two classes": ([{"path": "b", "class_id": [0, 1]}], "one class, not 2"),
  "gap": ([GOOD, {"path": "b", "class_id": 2}], "entry 1: class_id 2 is out"),
}


@pytest.mark.parametrize("name", BAD)
def test_mistakes_are_named(tmp_path, name):
  contents, message = BAD[name]
  file = write(tmp_path, contents)
  with pytest.raises(errors.UserError, match=message) as caught:
    info.read_info(file, split="train")
  assert str(file) in str(caught.value)
  assert "\n" not in str(caught.value)
  assert len(str(caught.value)) < 400 + len(str(file))


def test_a_byte_order_mark_is_no_mistake(tmp_path):
  file = write(tmp_path, b"\xef\xbb\xbf" + json.dumps([GOOD]).encode())
  assert info.read_info(file, split="train").paths == ["a/1.jpg"]


def test_names_may_hold_what_disks_allow(tmp_path):
  paths = ["a..b/c...jpg", "a:b.jpg", "C:c.jpg", "d\\e.jpg", "~/f.jpg", "-g"]
  entries = [{"path": path, "class_id": 0} for path in paths]
  assert info.read_info(write(tmp_path, entries), split="train").paths == paths


def test_a_folder_in_the_place_of_the_file_is_named(tmp_path):
  (tmp_path / "val.json").mkdir()
  for read in (
    info.fingerprint,
    info.require,
    lambda file: info.read_info(file, split="val"),
  ):
    with pytest.raises(
      errors.UserError, match=r"val\.json (cannot|is missing)"
    ):
      read(tmp_path / "val.json")


def test_a_missing_file_is_named(tmp_path):
  for read in (
    info.fingerprint,
    info.require,
    lambda file: info.read_info(file, split="val"),
  ):
    with pytest.raises(errors.UserError, match=r"val\.json is missing"):
      read(tmp_path / "val.json")


def test_evaluation_splits_may_number_classes_freely(tmp_path):
  file = write(tmp_path, [{"path": "b", "class_id": [900, 17]}])
  assert info.read_info(file, split="test").num_classes == 901


def test_the_fingerprint_is_of_the_bytes(tmp_path):
  first = info.fingerprint(write(tmp_path, [GOOD]))
  assert first == info.fingerprint(write(tmp_path, [GOOD]))
  assert first != info.fingerprint(write(tmp_path, [GOOD, GOOD]))


@settings(max_examples=200, deadline=None, derandomize=True)
@given(data=st.data())
def test_damage_is_named_or_still_a_list(tmp_path_factory, data):
  """Any bytes give a list of sound entries or a UserError, nothing else."""
  entries = [
    {"path": f"ä/{i}.jpg", "class_id": [i % 2, i % 3][: 1 + i % 2]}
    for i in range(6)
  ]
  whole = bytearray(json.dumps(entries, ensure_ascii=False).encode())
  for _ in range(data.draw(st.integers(1, 3), "flips")):
    at = data.draw(st.integers(0, len(whole) - 1), "byte")
    whole[at] ^= data.draw(st.integers(1, 255), "bits")
  if data.draw(st.booleans(), "cut"):
    del whole[data.draw(st.integers(0, len(whole) - 1), "size") :]
  file = write(tmp_path_factory.getbasetemp(), bytes(whole))
  try:
    found = info.read_info(file, split="test")
  except errors.UserError as error:
    assert str(file) in str(error) and "\n" not in str(error)
    return
  assert len(found.paths) == len(found.labels) == 6
  assert (found.labels[:, 0] >= 0).all()
  for path in found.paths:
    assert path.encode() and "\0" not in path
    assert ".." not in path.split("/") and not path.startswith("/")


ODD = st.sampled_from(
  [True, 1.0, -1, 0, 5, 2**31 - 1, 2**31, 2**70, None, "0", [], [1], [1, 2]]
)
PATHS = st.one_of(
  st.text(st.sampled_from("a./\\:C\n\0ä\ud800"), max_size=5),
  st.sampled_from([None, 3, "a..b", "b/../c", ["a"]]),
)
ENTRIES = st.one_of(
  st.fixed_dictionaries({"path": PATHS, "class_id": ODD}),
  st.fixed_dictionaries({"path": st.just("a"), "class_id": st.integers(0, 9)}),
  st.sampled_from(["path", ["path", "class_id"], 3, None, {"path": "a"}]),
)


@settings(max_examples=500, deadline=None, derandomize=True)
@given(entries=st.lists(ENTRIES, min_size=1, max_size=4))
def test_what_is_sound_at_a_glance_is_sound_when_looked_at(entries):
  for split in ("train", "test"):
    looked_at = [info._problem(entry, split) for entry in entries]
    if info._are_sound(entries, split):
      assert looked_at == [None] * len(entries)


def test_plain_entries_are_sound_at_a_glance():
  assert info._are_sound([GOOD, {"path": "ä b/c.jpg", "class_id": 7}], "train")
