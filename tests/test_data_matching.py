"""Evaluation records are read in the order of the info file, wherever."""

import os
import random

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest

from tests import data_files, official_data
from udon_jax import errors
from udon_jax.data import keys, layout, matching, sidecars, splits

COUNT = 9


@pytest.fixture
def root(tmp_path):
  data_files.add_split(tmp_path, "cars", "val", COUNT)
  return tmp_path


def place_records(root, contents, *, num_shards=None, seed=0):
  file = official_data.place(root, "cars", "val")
  if num_shards:
    file.unlink(missing_ok=True)
    official_data.write_shards(file, contents, num_shards=num_shards, seed=seed)
  else:
    official_data.write(file, contents)


def read(root):
  """Returns the records in the order in which they are evaluated."""
  files, images = splits.open_eval(layout.find(root), "cars", "val")
  found = [files.read(i) for i in range(len(files))]
  assert [keys.read(files, i) for i in range(len(files))] == images.paths
  return found


@pytest.fixture
def counted(monkeypatch):
  """Returns how many times all keys were read."""
  calls = []
  read_all = keys.read_all
  monkeypatch.setattr(
    keys, "read_all", lambda files: calls.append(1) or read_all(files)
  )
  return calls


def test_records_in_order_are_read_as_they_lie(root, counted):
  contents = official_data.records(root, "cars", "val")
  place_records(root, contents)
  assert read(root) == contents
  assert read(root) == contents
  assert len(counted) == 1  # the second time it was known


@pytest.mark.parametrize("num_shards", [None, 1, 3, 20])
def test_shuffled_records_are_read_by_their_keys(root, counted, num_shards):
  contents = official_data.records(root, "cars", "val")
  shuffled = contents[::-1]
  place_records(root, shuffled, num_shards=num_shards, seed=4)
  before = {path: path.read_bytes() for path in root.rglob("*.tfrecord*")}
  assert read(root) == contents
  assert read(root) == contents
  assert len(counted) == 1
  assert {p: p.read_bytes() for p in before} == before


@pytest.mark.parametrize("pair", [(3, 4), (0, 8), (1, 7)])
def test_no_two_images_change_places(root, pair):
  """Whichever two, in the middle too."""
  contents = official_data.records(root, "cars", "val")
  swapped = list(contents)
  swapped[pair[0]], swapped[pair[1]] = swapped[pair[1]], swapped[pair[0]]
  place_records(root, swapped)
  assert read(root) == contents


def test_what_was_found_is_of_these_records_and_this_list(root, counted):
  contents = official_data.records(root, "cars", "val")
  place_records(root, contents)
  read(root)
  file = official_data.place(root, "cars", "val")
  place_records(root, contents[::-1])
  os.utime(file, ns=(10**18, 10**18))
  assert read(root) == contents
  entries = data_files.add_split(root, "cars", "val", COUNT)
  data_files.write_info(root, "cars", "val", entries[::-1])
  assert read(root) == contents[::-1]
  assert len(counted) == 3


def test_a_kept_order_that_is_wrong_is_found_again(root, counted):
  contents = official_data.records(root, "cars", "val")
  place_records(root, contents[::-1])
  read(root)
  (kept,) = root.rglob("*.order.npy")
  version = np.load(kept)[0]
  file = layout.epath.Path(official_data.place(root, "cars", "val"))
  for order in ([], range(COUNT), [0] * COUNT, [8] * COUNT, [2**40] * COUNT):
    sidecars.write(file, "order", np.array([version, *order]))
    assert read(root) == contents
  assert len(counted) == 6


def test_a_path_that_stands_several_times_is_read_in_turn(root):
  paths = ["a", "b", "a", "c", "a"]
  data_files.write_info(
    root, "cars", "val", [{"path": p, "class_id": 0} for p in paths]
  )
  contents = [
    official_data.example(bytes([i]), i, p) for i, p in enumerate("caaba")
  ]
  place_records(root, contents)
  assert read(root) == [contents[i] for i in (1, 3, 2, 0, 4)]


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
  paths=st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=30),
  seed=st.integers(0, 99),
)
def test_the_order_is_a_permutation_that_keeps_equal_keys(paths, seed):
  found = list(paths)
  random.Random(seed).shuffle(found)

  class Files:
    files = ("a",)

  keys_read = pytest.MonkeyPatch()
  with keys_read.context() as patch:
    patch.setattr(keys, "read_all", lambda _: found)
    order = matching._match(Files(), paths, where="w", cure="c")
  if order is None:
    assert found == paths
    return
  assert sorted(order) == list(range(len(paths)))
  assert [found[i] for i in order] == paths
  for path in set(paths):
    places = [order[i] for i, p in enumerate(paths) if p == path]
    assert places == sorted(places)


@pytest.mark.parametrize(
  ("names", "words"),
  [
    ("abcx", r"record 3 is of image 'x', .*1 of its 4 .*first is 'd'; restore"),
    ("abca", r"of image 'a', .*not list as often; 1 of its 4 .* is 'd'"),
    ("wxyz", r"record 0 is of image 'w', .*4 of its 4 images"),
  ],
)
def test_missing_and_other_keys_are_one_line(root, names, words):
  data_files.write_info(
    root, "cars", "val", [{"path": p, "class_id": 0} for p in "abcd"]
  )
  place_records(root, [official_data.example(b"i", 0, name) for name in names])
  for _ in range(2):
    with pytest.raises(errors.UserError, match=words) as caught:
      read(root)
    assert "\n" not in str(caught.value)


def test_other_numbers_of_records_are_one_line(root):
  place_records(root, official_data.records(root, "cars", "val")[:-1])
  with pytest.raises(errors.UserError, match=r"8 records.*lists 9 images"):
    read(root)


def test_a_damaged_key_is_named_as_damage(root):
  place_records(root, official_data.records(root, "cars", "val"))
  file = official_data.place(root, "cars", "val")
  whole = bytearray(file.read_bytes())
  whole[whole.index(b"cars/val/4.jpg")] ^= 1
  file.write_bytes(whole)
  with pytest.raises(errors.UserError, match=r"record 4 .*is damaged"):
    read(root)


def test_records_that_prepare_found_keep_their_order(root):
  """What it accepted stays as it is and is read by keys."""
  contents = official_data.records(root, "cars", "val")
  place_records(root, contents[::-1])
  before = official_data.place(root, "cars", "val").read_bytes()
  data_files.prepare(root)
  assert official_data.place(root, "cars", "val").read_bytes() == before
  assert (root / "tfds/cars/val/metadata.json").exists()
  assert read(root) == contents


def test_prepared_records_are_not_searched(root, monkeypatch):
  data_files.prepare(root)
  monkeypatch.setattr(keys, "read_all", None)
  assert read(root) == official_data.read(root, "cars", "val")
