"""Sound data has no findings; every damage has its own."""

import collections
import json
import os
import pathlib
import shutil
import subprocess
import sys

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest

from tests import data_files
from udon_jax import domains
from udon_jax.data import (
  examples,
  keys,
  layout,
  metadata,
  offsets,
  records,
  sidecars,
  synthetic,
  verification,
)
from udon_jax.data.verification import (
  digests,
  duplicates,
  findings,
  infos,
  leaks,
  protocols,
  report,
)

MINE = domains.DomainSpec(
  "mine",
  val=domains.Protocol("val", "val"),
  test=domains.Protocol("test", "index"),
)
SPECS = (*(domains.UNED[name] for name in ("cars", "inshop", "met")), MINE)
# Classes of every image; those of Met's test are its training classes.
CLASSES = {
  "cars": {"train": [0, 1, 2, 0, 1, 2], "val": [3, 3], "test": [5, 5, 6, 6]},
  "inshop": {
    "train": [0, 1, 1],
    "val": [2, 2],
    "test": [3, 4],
    "index": [[3], [4, 5], 5],
  },
  "met": {"train": [0, 1, 0, 1], "val": [0, 1], "test": [1, [0, 1]]},
  "mine": {
    "train": [0, 1],
    "val": [2, 2],
    "test": [3, 4],
    "index": [4, 3],
  },
}


def read(root, domain, split):
  return json.loads((root / f"info_files/{domain}/{split}.json").read_text())


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
  """Sound data with its records, not to be changed."""
  root = tmp_path_factory.mktemp("sound")
  seed = 0
  for domain, splits in CLASSES.items():
    for split, classes in splits.items():
      entries = []
      for i, class_id in enumerate(classes):
        path = f"{domain}/{split}/{i}.jpg"
        file = root / "images" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        seed += 1
        file.write_bytes(data_files.encode(seed, size=(12, 10)))
        entries.append({"path": path, "class_id": class_id})
      data_files.write_info(root, domain, split, entries)
  trained = read(root, "met", "train")
  data_files.write_info(root, "met", "index", trained)
  data_files.write_info(root, "met", "small_index", trained[:2])
  data_files.prepare(root)
  return root


@pytest.fixture
def root(prepared, tmp_path):
  """The same, to be changed."""
  return pathlib.Path(shutil.copytree(prepared, tmp_path / "data"))


def verify(root, *, images=False, uned=False, specs=SPECS):
  place = layout.find(root)
  return verification.verify(
    [(spec, place) for spec in specs],
    class_rule=verification.of_uned,
    uned=uned,
    images=images,
    num_workers=2,
  )


def counts(groups):
  found = collections.Counter()
  for group in groups:
    assert group.kind in findings.KINDS
    assert len(list(group)) == group.count > 0
    found[group.kind] += group.count
  return dict(found)


def messages(result):
  """The messages of all findings and notes, each naming a file that exists."""
  found = [one for g in (*result.found, *result.notes) for one in g]
  for one in found:
    assert one.file in one.message
    assert "\n" not in one.message
  return [one.message for one in found]


@pytest.mark.parametrize("images", [False, True])
def test_sound_data_has_no_findings(prepared, images):
  before = data_files.snapshot(prepared)
  result = verify(prepared, images=images)
  assert messages(result) == []
  assert result.found == result.notes == []
  assert len(result.rows) == sum(len(spec.splits) for spec in SPECS)
  assert data_files.snapshot(prepared) == before


@pytest.mark.parametrize("stored", ["both", "records", "files"])
def test_the_synthetic_set_has_no_findings(tmp_path, stored):
  synthetic.generate(tmp_path, size="smoke", seed=0, num_workers=1)
  if stored != "files":
    data_files.prepare(tmp_path)
  if stored == "records":
    shutil.rmtree(tmp_path / "images")
  result = verify(tmp_path, images=True, specs=domains.UNED.values())
  number = len(result.rows)
  expected = {findings.RECORDS: number} if stored == "files" else {}
  assert (counts(result.found), result.notes) == (expected, [])


def test_records_of_the_official_converter_are_sound(root):
  for file in (root / "tfds").rglob("*"):
    if file.suffix in (".npy", ".json"):
      file.unlink()
  assert verify(root, images=True).found == []


def test_the_table_counts_images_and_classes(prepared):
  rows = {(row.domain, row.split): row for row in verify(prepared).rows}
  # Classes 3, 4, 4 + 5, 5: of sizes 1, 1, 2.
  assert rows["inshop", "index"] == infos.Row(
    *("inshop", "index", 3, 3),
    fewest=1,
    median=1.0,
    most=2,
    singletons=2,
  )
  text = report.to_text(verify(prepared), max_shown=3)
  assert text.splitlines()[0].split()[:4] == [
    *("domain", "split", "images", "classes")
  ]
  assert text.splitlines()[-1] == "no findings"


def append(domain, split, path, class_id):
  """An edit of an info file: one more entry."""

  def edit(root):
    entries = [*read(root, domain, split), {"path": path, "class_id": class_id}]
    data_files.write_info(root, domain, split, entries)

  return edit


def relabel(domain, split, entry, class_id):
  """An edit of an info file: another class."""

  def edit(root):
    entries = read(root, domain, split)
    entries[entry]["class_id"] = class_id
    data_files.write_info(root, domain, split, entries)

  return edit


def copy(source, target):
  """An edit of the images: the bytes of one under the name of another."""
  return lambda root: shutil.copy(
    root / "images" / source, root / "images" / target
  )


def both(*edits):
  return lambda root: [edit(root) for edit in edits]


TRAINED = "cars/train/0.jpg"
# Edits, after which the data is prepared again: what is found by kind, what is
# noted, and words of a message.
BY_NAME = {
  "a class without an image": (
    both(relabel("cars", "train", 1, 0), relabel("cars", "train", 4, 0)),
    {findings.EMPTY: 1},
    {},
    "cars/train.json: class 1 has no image",
  ),
  "an image twice": (
    append("cars", "train", TRAINED, 0),
    {findings.REPEATED: 1},
    {},
    f"cars/train.json: entry 6: {TRAINED} stands at entry 0 already",
  ),
  "an image twice, written otherwise": (
    append("cars", "train", f"./{TRAINED.replace('/', '//')}", 0),
    {findings.REPEATED: 1},
    {},
    "stands at entry 0 already",
  ),
  "an image in two classes": (
    append("cars", "train", TRAINED, 1),
    {findings.CONFLICT: 1},
    {},
    "is of class 1, but at entry 0 of class 0",
  ),
  "labels that are written otherwise": (
    append("inshop", "index", "inshop/index/1.jpg", [5, 4, 5]),
    {findings.REPEATED: 1},
    {},
    "entry 3: inshop/index/1.jpg stands at entry 1",
  ),
  "a query that is trained": (
    append("cars", "test", TRAINED, 5),
    {findings.LEAK: 1},
    {},
    f"cars/test.json: entry 4: {TRAINED} is also entry 0 of cars/train.json",
  ),
  "a query of both splits": (
    append("cars", "test", "cars/val/1.jpg", 5),
    {findings.LEAK: 1},
    {},
    "is also entry 1 of cars/val.json",
  ),
  "a query that another domain trains": (
    append("cars", "test", "met/train/3.jpg", 5),
    {findings.LEAK: 1},
    {},
    "is also entry 3 of met/train.json",
  ),
  "an index image that is trained": (
    append("inshop", "index", "inshop/train/2.jpg", 5),
    {findings.LEAK: 1},
    {},
    "inshop/index.json: entry 3: inshop/train/2.jpg is also entry 2",
  ),
  "an index image that is trained, of an unknown domain": (
    append("mine", "index", "mine/train/1.jpg", 4),
    {},
    {findings.LEAK: 1},
    "mine/index.json: entry 2",
  ),
  "a query in its index": (
    append("inshop", "index", "inshop/test/1.jpg", 4),
    {findings.OWN_INDEX: 1},
    {},
    "inshop/test.json: entry 1: inshop/test/1.jpg is also entry 3",
  ),
  "a query in an index that is trained": (
    append("met", "test", "met/train/2.jpg", 0),
    {findings.LEAK: 1, findings.OWN_INDEX: 1},
    {},
    "met/test.json: entry 2",
  ),
  "classes that are trained": (
    both(relabel("cars", "test", 0, 2), relabel("cars", "test", 1, 2)),
    {findings.SHARED: 1},
    {},
    "cars/test.json: entry 0: cars/test/0.jpg is of class 2, which is a",
  ),
  "classes that are trained, of an unknown domain": (
    both(relabel("mine", "val", 0, 1), relabel("mine", "val", 1, 1)),
    {},
    {findings.SHARED: 1},
    "mine/val.json: entry 0",
  ),
  "queries without a positive in their own split": (
    relabel("cars", "test", 0, 9),
    {findings.UNANSWERABLE: 2},
    {},
    "is of class 9, of which cars/test.json lists no other image",
  ),
  "a query without a positive in its index": (
    relabel("inshop", "test", 0, [8, 9]),
    {findings.UNANSWERABLE: 1},
    {},
    "is of classes 8, 9, of which inshop/index.json lists no image",
  ),
}
BY_CONTENT = {
  "a duplicate": (
    copy(TRAINED, "cars/train/3.jpg"),
    {findings.DUPLICATE: 1},
    {},
    f"entry 3: cars/train/3.jpg has the same bytes as entry 0, {TRAINED}",
  ),
  "a duplicate in another class": (
    copy(TRAINED, "cars/train/4.jpg"),
    {findings.CONFLICT: 1},
    {},
    f"same bytes as entry 0, {TRAINED}, but is of class 1, not class 0",
  ),
  "a query that is trained under another name": (
    copy(TRAINED, "cars/test/2.jpg"),
    {findings.LEAK: 1},
    {},
    "cars/test/2.jpg has the same bytes as entry 0 of cars/train.json",
  ),
  "a query that another domain trains under another name": (
    copy("met/train/3.jpg", "cars/test/2.jpg"),
    {findings.LEAK: 1},
    {},
    "has the same bytes as entry 3 of met/train.json",
  ),
  "a query in its index under another name": (
    copy("mine/test/0.jpg", "mine/index/1.jpg"),
    {findings.OWN_INDEX: 1},
    {},
    "mine/test/0.jpg has the same bytes as entry 1 of mine/index.json",
  ),
}


@pytest.mark.parametrize("images", [False, True])
@pytest.mark.parametrize("name", BY_NAME)
def test_mistakes_in_info_files_are_found(root, name, images):
  """With images as without: what its path tells is not told once more."""
  edit, found, noted, words = BY_NAME[name]
  edit(root)
  data_files.prepare(root)
  result = verify(root, images=images)
  assert (counts(result.found), counts(result.notes)) == (found, noted)
  assert any(words in message for message in messages(result))


@pytest.mark.parametrize("stored", ["records", "files"])
@pytest.mark.parametrize("name", BY_CONTENT)
def test_equal_bytes_are_found(root, name, stored):
  edit, found, noted, words = BY_CONTENT[name]
  edit(root)
  shutil.rmtree(root / "tfds")
  if stored == "records":
    data_files.prepare(root)
    shutil.rmtree(root / "images")
  else:
    found = {**found, findings.RECORDS: sum(len(s.splits) for s in SPECS)}
  result = verify(root, images=True)
  assert (counts(result.found), counts(result.notes)) == (found, noted)
  assert any(words in message for message in messages(result))


def test_a_query_that_is_the_train_split_is_no_leak(root):
  spec = domains.DomainSpec(
    "mine",
    val=domains.Protocol("train", "train"),
    test=domains.Protocol("train", "train"),
  )
  data_files.write_info(
    root,
    *("mine", "train"),
    [{"path": f"mine/train/{i}.jpg", "class_id": 0} for i in range(2)],
  )
  data_files.prepare(root)
  result = verify(root, images=True, specs=[spec])
  assert result.found == result.notes == []
  assert len(result.rows) == 1


def test_every_rule_of_classes_is_a_choice_of_the_caller(root):
  both(*(relabel("cars", "test", i, 2) for i in (0, 1)))(root)
  place = layout.find(root)
  expected = {
    leaks.Classes.NEW: ({findings.SHARED: 1}, {}),
    leaks.Classes.UNKNOWN: ({}, {findings.SHARED: 1}),
    leaks.Classes.TRAINED: ({}, {}),
  }
  data_files.prepare(root)
  for rule, wanted in expected.items():
    result = verification.verify(
      [(domains.UNED["cars"], place)],
      class_rule=lambda _, rule=rule: rule,
      uned=False,
      images=False,
      num_workers=1,
    )
    assert (counts(result.found), counts(result.notes)) == wanted


def test_domains_may_lie_in_several_folders(root, prepared):
  """Equal paths in two folders are not one image, but equal bytes are."""
  append("cars", "test", "met/train/3.jpg", 5)(root)
  data_files.prepare(root, domain_names=["cars"])
  places = [
    (domains.UNED["cars"], layout.find(root)),
    (domains.UNED["met"], layout.find(prepared)),
  ]
  for images, found in ((False, {}), (True, {findings.LEAK: 1})):
    result = verification.verify(
      places,
      class_rule=verification.of_uned,
      uned=False,
      images=images,
      num_workers=1,
    )
    assert counts(result.found) == found


def test_counts_of_uned_are_compared_on_demand(root):
  result = verify(root, uned=True)
  number = sum(1 + len(spec.splits) for spec in SPECS[:3])
  assert counts(result.found) == {findings.COUNTS: number}
  assert any(
    message.endswith("cars/train.json: 6 images, UnED has 6,346")
    for message in messages(result)
  )


@pytest.mark.parametrize("damage", ["cut", "missing", "a folder", "an entry"])
def test_an_unreadable_info_file_does_not_end_the_report(root, damage):
  file = root / "info_files/cars/train.json"
  contents = file.read_text()
  file.unlink()
  if damage == "cut":
    file.write_text(contents[:-5])
  elif damage == "a folder":
    file.mkdir()
  elif damage == "an entry":
    file.write_text(contents.replace('"class_id": 1', '"class_id": -1', 1))
  result = verify(root, images=True)
  assert counts(result.found) == {findings.INFO: 1}
  assert str(file) in messages(result)[0]
  assert len(result.rows) == sum(len(spec.splits) for spec in SPECS) - 1


def files_of(root, domain, split):
  folder = root / f"tfds/{domain}/{split}"
  base = records.file_name(domain, split)
  return records.find_files(folder, base=base, cure="")


def stored(root, domain, split):
  """The records of an evaluation split."""
  files = records.RecordFiles(files_of(root, domain, split))
  return [files.read(i) for i in range(len(files))]


def store(root, domain, split, data, *, as_official=True):
  """Replaces the records of an evaluation split."""
  (file,) = files_of(root, domain, split)
  data_files.write_records(pathlib.Path(file), data)
  if as_official:
    for path in (
      file.parent / metadata.FILE_NAME,
      sidecars.beside(file, sidecars.OFFSETS),
    ):
      path.unlink(missing_ok=True)
  else:
    offsets.rebuild(file)


def rewrite_metadata(**changes):
  def damage(root):
    file = root / "tfds/cars/val/metadata.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))

  return damage


def damage_sidecar(root):
  (file,) = files_of(root, "cars", "test")
  beside = pathlib.Path(sidecars.beside(file, sidecars.OFFSETS))
  data = bytearray(beside.read_bytes())
  data[-9] ^= 1
  beside.write_bytes(data)


def write_offsets(change):
  def damage(root):
    (file,) = files_of(root, "cars", "test")
    kept = offsets.load(file)
    offsets.write(file, change(kept.copy()))

  return damage


def shift(kept):
  kept[1] += 3
  return kept


STRUCTURE = {
  "no records": (
    lambda root: shutil.rmtree(root / "tfds/cars/val"),
    "cars.val.tfrecord is missing; run `python -m udon_jax.data.prepare",
  ),
  "a shard is missing": (
    lambda root: pathlib.Path(files_of(root, "cars", "train")[1]).unlink(),
    "one of 3 shards",
  ),
  "a file is cut off": (
    lambda root: os.truncate(files_of(root, "met", "test")[0], 100),
    "is not whole",
  ),
  "metadata is damaged": (
    lambda root: (root / "tfds/cars/val/metadata.json").write_text("{"),
    "metadata.json is damaged",
  ),
  "metadata counts otherwise": (
    rewrite_metadata(num_examples=7),
    "records 7, found 2",
  ),
  "metadata tells other classes": (
    rewrite_metadata(num_classes=9),
    "classes 9, found 4",
  ),
  "metadata tells another size": (
    rewrite_metadata(num_bytes=[3]),
    "sizes of its files [3], found",
  ),
  "the info file changed": (
    relabel("cars", "val", 0, [3, 7]),
    "changed since the records of",
  ),
  "kept offsets are damaged": (damage_sidecar, "offsets that were kept are"),
  "kept offsets are of another size": (
    write_offsets(lambda kept: kept[:-1]),
    "are not of a file of",
  ),
  "kept offsets are of another file": (
    write_offsets(shift),
    "tell of a record 0 at byte 0, where none starts",
  ),
}


@pytest.mark.parametrize("name", STRUCTURE)
def test_wrong_structure_of_records_is_found(root, name):
  damage, words = STRUCTURE[name]
  damage(root)
  result = verify(root)
  found = counts(result.found)
  assert found.pop(findings.RECORDS) in (1, 2)
  assert found == {}
  assert any(words in message for message in messages(result))


def test_kept_offsets_that_were_wrong_are_made_anew(root):
  write_offsets(shift)(root)
  assert verify(root, images=True).found
  assert verify(root, images=True).found == []


def test_more_records_than_entries_are_found(root):
  data = stored(root, "cars", "test")
  store(root, "cars", "test", [*data, data[0]])
  result = verify(root)
  assert counts(result.found) == {findings.RECORDS: 1}
  assert messages(result)[0].startswith(str(root / "tfds/cars/test"))
  result = verify(root, images=True)
  assert counts(result.found) == {findings.RECORDS: 1, findings.OTHER: 1}
  assert any("is listed less often" in text for text in messages(result))


def test_missing_images_are_found(root):
  gone = ("cars/val/0.jpg", "cars/test/3.jpg")
  for path in gone:
    (root / "images" / path).unlink()
  assert verify(root).found == []  # records are all that is read
  assert counts(verify(root, images=True).found) == {findings.MISSING: 2}
  shutil.rmtree(root / "tfds/cars/val")
  for images in (False, True):
    result = verify(root, images=images)
    assert counts(result.found) == {
      findings.RECORDS: 1,
      findings.MISSING: 1 + images,
    }
    assert any(
      f"cars/val.json: entry 0: {gone[0]} is not in" in text
      for text in messages(result)
    )


def test_escaped_names_are_not_missing(root):
  (root / "images/cars/val/0.jpg").rename(root / "images/cars/val/#U00fc.jpg")
  entries = read(root, "cars", "val")
  entries[0]["path"] = "cars/val/ü.jpg"
  data_files.write_info(root, "cars", "val", entries)
  data_files.prepare(root)
  assert verify(root, images=True).found == []


def test_nothing_is_read_where_nothing_is(root):
  shutil.rmtree(root / "tfds")
  shutil.rmtree(root / "images")
  number = sum(len(spec.splits) for spec in SPECS)
  assert counts(verify(root, images=True).found) == {findings.RECORDS: number}


def flip(root, at):
  """Flips a bit of the last record of cars/test."""
  (file,) = files_of(root, "cars", "test")
  data = bytearray(file.read_bytes())
  data[at] ^= 4
  pathlib.Path(file).write_bytes(data)


def test_flipped_bits_are_found(root):
  flip(root, -100)
  assert verify(root).found == []
  result = verify(root, images=True)
  assert counts(result.found) == {findings.DAMAGED: 1}
  assert "record 3" in messages(result)[0]


def test_images_that_no_decoder_reads_are_found(root):
  data = stored(root, "cars", "test")
  key = examples.key(data[1])
  broken = {
    "no image": b"no image",
    "cut": examples.image_bytes(data[1])[:200],
    "empty": b"",
  }
  for image in broken.values():
    again = list(data)
    again[1] = examples.serialize(image_bytes=image, class_ids=[5], key=key)
    data_files.prepare(root)
    store(root, "cars", "test", again)
    result = verify(root, images=True)
    assert counts(result.found) == {findings.UNREADABLE: 1}
    assert (
      f"record 1 (key {key!r}) is damaged, or no JPEG" in (messages(result)[0])
    )


def test_image_files_that_no_decoder_reads_are_found(root):
  shutil.rmtree(root / "tfds/cars/val")
  (root / "images/cars/val/1.jpg").write_bytes(b"no image")
  (root / "images/cars/val/0.jpg").unlink()
  (root / "images/cars/val/0.jpg").mkdir()
  result = verify(root, images=True)
  assert counts(result.found) == {
    findings.RECORDS: 1,
    findings.UNREADABLE: 2,
  }
  assert any("cars/val.json: entry 1: " in text for text in messages(result))


def serialize(key, class_ids, seed=77):
  return examples.serialize(
    image_bytes=data_files.encode(seed), class_ids=class_ids, key=key
  )


def two_images(key):
  example = examples.tf.train.Example.FromString(serialize(key, [5]))
  values = example.features.feature["image_bytes"].bytes_list.value
  values.append(values[0])
  return example.SerializeToString()


# What is in the place of record 1 of cars/test, what is found with images,
# and words of a message.
FOREIGN = {
  "another class": (
    lambda key: serialize(key, [6]),
    {findings.OTHER: 1},
    "with other classes than entry 1 of cars/test.json: class 5",
  ),
  "another image": (
    lambda _: serialize("else.jpg", [5]),
    {findings.OTHER: 2},
    "is of image 'else.jpg', which the info file does not list",
  ),
  "a second image": (two_images, {findings.OTHER: 1}, "holds 2 images"),
  "no example": (
    lambda _: b"\xff" * 40,
    {findings.OTHER: 2},
    "is no serialized tf.train.Example",
  ),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_records_that_are_not_of_the_info_file_are_found(root, name):
  make, found, words = FOREIGN[name]
  data = stored(root, "cars", "test")
  data[1] = make(examples.key(data[1]))
  store(root, "cars", "test", data)
  assert verify(root).found == []  # neither the first nor the last
  result = verify(root, images=True)
  assert counts(result.found) == found
  assert any(words in message for message in messages(result))
  # The same in the first place is seen by its key.
  store(root, "cars", "test", [data[1], data[0], *data[2:]])
  if name in ("another image", "no example"):
    assert counts(verify(root).found) == {findings.OTHER: 1}


def test_training_records_have_one_class(root):
  for i, file in enumerate(files_of(root, "cars", "train")):
    opened = records.RecordFiles([file])
    data = [opened.read(r) for r in range(len(opened))]
    if not i:
      data[0] = serialize(keys.read(opened, 0), [0, 1])
    data_files.write_records(pathlib.Path(file), data)
  (root / "tfds/cars/train/metadata.json").unlink()
  for file in (root / "tfds/cars/train").glob(".*.npy"):
    file.unlink()
  result = verify(root, images=True)
  assert any("has 2 class ids; training" in text for text in messages(result))
  assert set(counts(result.found)) == {findings.OTHER}


def test_an_order_that_metadata_denies_is_found(root):
  data = stored(root, "cars", "test")
  swapped = [data[0], data[2], data[1], data[3]]
  store(root, "cars", "test", swapped, as_official=False)
  assert verify(root).found == []
  result = verify(root, images=True)
  assert counts(result.found) == {findings.OTHER: 1}
  assert "2 records are not in the order" in messages(result)[0]
  # Without metadata, records are matched by their keys.
  (root / "tfds/cars/test/metadata.json").unlink()
  assert verify(root, images=True).found == []


WORDS = st.lists(st.sampled_from("abcdefg"), max_size=30)


def hashes(words):
  return digests.pack(digests.of_bytes(word.encode()) for word in words)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(wanted=WORDS, offered=WORDS)
def test_digests_find_what_dictionaries_find(wanted, offered):
  first = {}
  repeated = []
  for row, word in enumerate(wanted):
    if first.setdefault(word, row) != row:
      repeated.append((row, first[word]))
  rows, firsts = digests.repeats(hashes(wanted))
  assert list(zip(rows.tolist(), firsts.tolist(), strict=True)) == repeated
  places = {word: row for row, word in reversed(list(enumerate(offered)))}
  expected = [places.get(word, -1) for word in wanted]
  found = digests.match(hashes(wanted), hashes(offered))
  assert found.tolist() == expected
  # Numbered, the k-th finds the k-th.
  seen, places = collections.Counter(), {}
  for row, word in enumerate(offered):
    places[word, seen[word]] = row
    seen[word] += 1
  seen.clear()
  expected = []
  for word in wanted:
    expected.append(places.get((word, seen[word]), -1))
    seen[word] += 1
  found = digests.match(
    digests.number(hashes(wanted)), digests.number(hashes(offered))
  )
  assert found.tolist() == expected


def make_split(name, paths, labels):
  padded = np.full((len(labels), 3), -1, np.int32)
  for row, ids in zip(padded, labels, strict=True):
    row[: len(ids)] = sorted(ids)
  return infos.Split(
    *("cars", name, layout.find(".")),
    paths=infos.Names(paths),
    labels=padded,
    places=hashes(paths),
  )


LABELS = st.lists(
  st.sets(st.integers(0, 6), min_size=1, max_size=3), min_size=1, max_size=8
)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(query=LABELS, index=LABELS)
def test_answerable_queries_are_those_with_a_positive(query, index):
  one = make_split("test", list(map(str, range(len(query)))), query)
  other = make_split("index", list(map(str, range(len(index)))), index)
  assert protocols.answerable(one, other).tolist() == [
    any(ids & offered for offered in index) for ids in query
  ]
  assert protocols.answerable(one, one).tolist() == [
    any(ids & offered for j, offered in enumerate(query) if j != i)
    for i, ids in enumerate(query)
  ]


IMAGES = st.lists(
  st.tuples(
    st.sampled_from("pqrs"),
    st.sampled_from("xyz"),
    st.integers(0, 1),
    st.booleans(),
  ),
  min_size=1,
  max_size=10,
)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(images=IMAGES)
def test_duplicates_are_those_of_a_dictionary(images):
  """Images are (path, contents, class, whether the contents are known)."""
  split = make_split("test", [i[0] for i in images], [{i[2]} for i in images])
  first, paths = {}, set()
  expected = []
  for row, (path, contents, class_id, known) in enumerate(images):
    if path in paths:
      continue
    paths.add(path)
    if known:
      at = first.setdefault(contents, row)
      if at != row:
        same = images[at][2] == class_id
        kind = findings.DUPLICATE if same else findings.CONFLICT
        expected.append((kind, row))
  known = np.array([i[3] for i in images])
  marked = duplicates.mark(split, hashes([i[1] for i in images]), known)
  found = duplicates.check(
    [], {("cars", "test"): marked}, class_rule=verification.of_uned
  )
  assert sorted((g.kind, one.entry) for g in found for one in g) == sorted(
    expected
  )


NAMES = st.text(st.characters(codec="utf-8"), max_size=6)


@given(names=st.lists(NAMES, max_size=8))
def test_names_are_those_that_were_given(names):
  packed = infos.Names(names)
  assert len(packed) == len(names)
  assert [packed[i] for i in range(len(names))] == list(packed) == names


def run(*arguments, **options):
  return subprocess.run(
    [sys.executable, "-m", "udon_jax.data.verify", *map(str, arguments)],
    capture_output=True,
    text=True,
    check=False,
    timeout=100,
    **options,
  )


DOMAINS = "--domains=cars,inshop,met"


def test_the_command_line_ends_with_what_was_found(root, tmp_path):
  done = run(f"--data_dir={root}", "--num_workers=1")
  assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "no findings")
  append("cars", "train", TRAINED, 0)(root)
  output = tmp_path / "found.json"
  output.write_text("something old")
  done = run(
    *(f"--data_dir={root}", DOMAINS, "--uned", "--max_shown=2"),
    f"--output={output}",
  )
  assert done.returncode == 1
  assert "listed twice (1): " in done.stdout
  number = json.loads(output.read_text())["num_findings"]
  last = done.stdout.splitlines()[-1]
  assert last == f"{number} findings in 3 kinds"
  assert done.stdout.count("UnED has") == 2
  assert sorted(os.listdir(tmp_path)) == ["data", "found.json"]
  value = json.loads(output.read_text())
  assert len(value["findings"]) == number == sum(value["num_by_kind"].values())
  twice = [f for f in value["findings"] if f["kind"] == "listed twice"]
  assert twice == [
    {
      "kind": "listed twice",
      "domain": "cars",
      "split": "train",
      "file": str(root / "info_files/cars/train.json"),
      "entry": 6,
      "path": TRAINED,
      "message": f"{root}/info_files/cars/train.json: entry 6: {TRAINED} stands"
      " at entry 0 already",
    }
  ]
  assert value["splits"][0]["images"] == 7


def test_the_command_line_reads_a_config(root):
  config = "--config=configs/quickstart.py"
  flags = (f"--config.data_dir={root}", "--config.domains=('cars','met')")
  here = pathlib.Path(__file__).parent.parent
  done = run(config, *flags, "--images", cwd=here)
  assert done.stdout.splitlines()[-1] == "no findings", done.stderr
  assert done.returncode == 0
  folder = root / "elsewhere"
  (root / "info_files").rename(folder)
  done = run(config, *flags, f"--config.info_files_dir={folder}", cwd=here)
  assert done.returncode == 0, done.stderr


def test_tensorflow_is_needed_for_images_alone(root):
  program = """if True:
    import sys
    sys.modules["tensorflow"] = None
    sys.argv[0] = "verify"
    from udon_jax import cli
    from udon_jax.data import verify
    cli.run(verify.main)
  """
  for flag, code in ((), 0), (("--images",), 2):
    done = subprocess.run(
      [sys.executable, "-c", program, f"--data_dir={root}", *flag],
      capture_output=True,
      text=True,
      check=False,
    )
    assert done.returncode == code, done.stderr
  assert "pip install 'udon_jax[data]'" in done.stderr.splitlines()[-1]


BAD = {
  "nothing": ((), "--data_dir is missing"),
  "no folder": (("--data_dir=ROOT/none",), "--data_dir=ROOT/none is no folder"),
  "no info files": (("--data_dir=ROOT/images",), "holds no <domain>"),
  "unknown domain": (("--data_dir=ROOT", "--domains=art"), "art is missing"),
  "no domain": (("--data_dir=ROOT", "--domains="), "--domains= must name"),
  "a domain twice": (("--data_dir=ROOT", "--domains=cars,cars"), "each once"),
  "no info folder": (("--data_dir=ROOT", "--info_files=x"), "--info_files=x"),
  "both": (
    ("--data_dir=ROOT", "--config=configs/quickstart.py"),
    "--data_dir does not go with --config",
  ),
  "no config": (("--config=nothing.py",), "--config: "),
  "output": (
    ("--data_dir=ROOT", "--output=ROOT/images"),
    "--output=ROOT/images cannot be written",
  ),
  "output in no folder": (
    ("--data_dir=ROOT", "--output=ROOT/none/a.json"),
    "--output=ROOT/none/a.json cannot be written",
  ),
  "workers": (("--data_dir=ROOT", "--num_workers=0"), "num_workers"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_usage_is_one_line(prepared, name):
  arguments, words = BAD[name]
  done = run(*(text.replace("ROOT", str(prepared)) for text in arguments))
  assert done.returncode == 2
  assert done.stdout == ""
  (line,) = done.stderr.splitlines()
  assert line.startswith("error: ")
  assert words.replace("ROOT", str(prepared)) in line
