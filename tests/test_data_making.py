"""Laws of splits that are made."""

import collections
import dataclasses
import random

import hypothesis
from hypothesis import strategies as st
import pytest

from udon_jax import own_domains
from udon_jax.data.sources import making

MAKE = hypothesis.settings(max_examples=60, deadline=None)
NAMES = st.text(
  st.characters(blacklist_categories=(), blacklist_characters="/"),
  min_size=1,
  max_size=6,
)
CATALOGUES = st.dictionaries(NAMES, st.integers(1, 30), min_size=1, max_size=25)


@st.composite
def ways(draw, by):
  val, test = draw(
    st.tuples(st.floats(0.01, 0.9), st.floats(0.01, 0.9)).filter(
      lambda pair: sum(pair) < 0.99
    )
  )
  return own_domains.Splits(
    by=by,
    val=val,
    test=test,
    index=draw(st.sampled_from([0.0, 0.0, 0.2, 0.5, 0.9])),
    seed=draw(st.integers(0, 3)),
  )


def listing(catalogue):
  """Returns paths and labels of {class: number of images}."""
  pairs = [
    (f"{name}/{i}.jpg", (name,))
    for name, n in catalogue.items()
    for i in range(n)
  ]
  return [path for path, _ in pairs], [labels for _, labels in pairs]


def make(catalogue, how):
  """Returns {path: splits}."""
  paths, labels = listing(catalogue)
  splits = making.split(paths, labels, how=how)
  return dict(zip(paths, splits, strict=True))


def by_class(made):
  """Returns {class: {split without its index: images}}."""
  found = collections.defaultdict(collections.Counter)
  for path, (split,) in made.items():
    found[path.rpartition("/")[0]][split.removesuffix("_index")] += 1
  return found


@MAKE
@hypothesis.given(CATALOGUES, ways("class"))
def test_by_class_whole_classes_are_held_out(catalogue, how):
  found = by_class(make(catalogue, how))
  assert {name: sum(n.values()) for name, n in found.items()} == catalogue
  for name, counts in found.items():
    assert len(counts) == 1  # train, val and test share no class
    assert set(counts) <= {"train", "val", "test"}
    assert catalogue[name] > 1 or set(counts) == {"train"}
  numbers = collections.Counter(next(iter(n)) for n in found.values())
  findable = sum(n > 1 for n in catalogue.values())
  total = len(catalogue)
  for split, share, room in (
    ("test", how.test, findable),
    ("val", how.val, findable - numbers["test"]),
  ):
    wanted = max(1, round(share * total))
    assert numbers[split] == min(wanted, room)
    if wanted <= room:
      assert abs(numbers[split] - share * total) <= 1


@MAKE
@hypothesis.given(CATALOGUES, ways("image"))
def test_by_image_every_class_is_trained_on(catalogue, how):
  found = by_class(make(catalogue, how))
  assert {name: sum(n.values()) for name, n in found.items()} == catalogue
  for name, counts in found.items():
    assert counts["train"] >= 1
    total = catalogue[name]
    assert abs(counts["test"] - min(how.test * total, total - 1)) <= 1
    held = counts["val"] + counts["test"]
    assert abs(held - min((how.val + how.test) * total, total - 1)) <= 1


@MAKE
@hypothesis.given(st.integers(2, 9), st.floats(0.05, 0.4), st.floats(0.05, 0.4))
def test_by_image_shares_hold_over_many_small_classes(size, val, test):
  """Where none of them has a whole image to give, some give one."""
  hypothesis.assume((val + test) * size <= size - 1)
  catalogue = {str(i): size for i in range(400)}
  how = own_domains.Splits(by="image", val=val, test=test)
  totals = sum(by_class(make(catalogue, how)).values(), collections.Counter())
  images = 400 * size
  for split, share in (("val", val), ("test", test)):
    # One standard deviation of 400 roundings is at most 10.
    assert abs(totals[split] - share * images) < 30


@MAKE
@hypothesis.given(CATALOGUES, st.sampled_from(["class", "image"]).flatmap(ways))
def test_a_share_is_searched_by_the_rest(catalogue, how):
  made = make(catalogue, how)
  without = make(catalogue, dataclasses.replace(how, index=0.0))
  counts = collections.defaultdict(collections.Counter)
  for path, (split,) in made.items():
    assert split.removesuffix("_index") == without[path][0]
    counts[path.rpartition("/")[0]][split] += 1
  for found in counts.values():
    assert not found["train_index"]
    for split in ("val", "test"):
      queries, index = found[split], found[f"{split}_index"]
      if how.index and queries + index >= 2:
        assert queries
        assert index
        assert abs(index - how.index * (queries + index)) <= 1
      else:
        assert not index


@MAKE
@hypothesis.given(
  CATALOGUES, st.sampled_from(["class", "image"]).flatmap(ways), st.randoms()
)
def test_the_order_of_the_input_changes_nothing(catalogue, how, rng):
  paths, labels = listing(catalogue)
  order = list(range(len(paths)))
  rng.shuffle(order)
  shuffled = making.split(
    [paths[i] for i in order], [labels[i] for i in order], how=how
  )
  assert make(catalogue, how) == {
    paths[i]: split for i, split in zip(order, shuffled, strict=True)
  }


def test_the_seed_decides():
  catalogue = {str(i): 5 for i in range(40)}
  for by in ("class", "image"):
    first, again, other = (
      make(catalogue, own_domains.Splits(by=by, seed=seed))
      for seed in (1, 1, 2)
    )
    assert first == again
    assert first != other


def test_splits_stay_what_they_were():
  """A release that splits otherwise would mix tested with trained images."""
  catalogue = {"a": 4, "b": 3, "c": 5, "d": 2, "e": 1}

  def lists(how):
    found = collections.defaultdict(list)
    for path, (split,) in make(catalogue, how).items():
      found[split].append(path.removesuffix(".jpg"))
    return dict(found)

  whole = own_domains.Splits(by="class", val=0.2, test=0.2, index=0.5)
  assert lists(whole) == {
    "train": ["a/0", "a/1", "a/2", "a/3", "b/0", "b/1", "b/2", "e/0"],
    "val": ["d/0"],
    "val_index": ["d/1"],
    "test": ["c/0", "c/2", "c/3"],
    "test_index": ["c/1", "c/4"],
  }
  some = own_domains.Splits(by="image", val=0.2, test=0.3)
  assert lists(some) == {
    "train": ["a/1", "a/3", "b/0", "b/2", "c/0", "c/1", "c/4", "d/1", "e/0"],
    "val": ["a/0", "c/2", "d/0"],
    "test": ["a/2", "b/1", "c/3"],
  }


@MAKE
@hypothesis.given(CATALOGUES, NAMES, st.integers(1, 30), ways("class"))
def test_a_class_more_changes_few_others(catalogue, name, images, how):
  hypothesis.assume(name not in catalogue)
  before, after = (
    {c: next(iter(n)) for c, n in by_class(make(grown, how)).items()}
    for grown in (catalogue, catalogue | {name: images})
  )
  changed = [c for c in catalogue if before[c] != after[c]]
  # One where test ends and one where val ends, and as many by rounding.
  assert len(changed) <= 4


@MAKE
@hypothesis.given(CATALOGUES, NAMES, st.integers(1, 30), ways("image"))
def test_by_image_a_class_more_changes_no_other(catalogue, name, images, how):
  hypothesis.assume(name not in catalogue)
  before, after = (
    make(grown, how) for grown in (catalogue, catalogue | {name: images})
  )
  assert {path: after[path] for path in before} == before


@pytest.mark.parametrize("by", ["class", "image"])
def test_images_of_several_classes_are_left_to_evaluation(by):
  rng = random.Random(0)
  names = [str(i) for i in range(12)]
  labels = [
    tuple(rng.sample(names, rng.choice([1, 1, 2, 3]))) for _ in range(300)
  ]
  paths = [f"{i}.jpg" for i in range(300)]
  how = own_domains.Splits(by=by, val=0.2, test=0.3)
  splits = making.split(paths, labels, how=how)
  trained, held = set(), collections.defaultdict(set)
  for (split,), each in zip(splits, labels, strict=True):
    if len(each) > 1:
      assert split in ("val", "test")
    else:
      (trained if split == "train" else held[split]).add(each[0])
  if by == "class":
    assert not trained & (held["val"] | held["test"])
    assert not held["val"] & held["test"]


def test_by_image_a_class_trains_on_what_it_can():
  """On its only image of one class, whatever comes first by chance."""
  for seed in range(30):
    splits = making.split(
      ["one.jpg", "two.jpg", "three.jpg"],
      [("a",), ("a", "b"), ("a", "c")],
      how=own_domains.Splits(by="image", val=0.1, test=0.5, seed=seed),
    )
    assert splits[0] == ("train",)
    assert {split for (split,) in splits[1:]} <= {"val", "test"}
