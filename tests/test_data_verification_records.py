"""Every damage to records and images is found."""

import json
import os
import pathlib
import shutil

import pytest

from tests import data_files, verification_data
from udon_jax.data import (
  examples,
  keys,
  metadata,
  offsets,
  records,
  sidecars,
)
from udon_jax.data.verification import findings, report


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
  """Sound data with its records, not to be changed."""
  folder = tmp_path_factory.mktemp("sound")
  verification_data.write(folder)
  return folder


@pytest.fixture
def root(prepared, tmp_path):
  """The same, to be changed."""
  return pathlib.Path(shutil.copytree(prepared, tmp_path / "data"))


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
    verification_data.relabel("cars", "val", 0, [3, 7]),
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
  result = verification_data.verify(root)
  found = verification_data.counts(result.found)
  assert found.pop(findings.RECORDS) in (1, 2)
  assert found == {}
  assert any(words in message for message in verification_data.messages(result))


def test_kept_offsets_that_were_wrong_are_made_anew(root):
  write_offsets(shift)(root)
  assert verification_data.verify(root, images=True).found
  assert verification_data.verify(root, images=True).found == []


def test_more_records_than_entries_are_found(root):
  data = stored(root, "cars", "test")
  store(root, "cars", "test", [*data, data[0]])
  result = verification_data.verify(root)
  assert verification_data.counts(result.found) == {findings.RECORDS: 1}
  assert verification_data.messages(result)[0].startswith(
    str(root / "tfds/cars/test")
  )
  result = verification_data.verify(root, images=True)
  assert verification_data.counts(result.found) == {
    findings.RECORDS: 1,
    findings.OTHER: 1,
  }
  assert any(
    "is listed less often" in text
    for text in verification_data.messages(result)
  )


def test_missing_images_are_found(root):
  gone = ("cars/val/0.jpg", "cars/test/3.jpg")
  for path in gone:
    (root / "images" / path).unlink()
  assert (
    verification_data.verify(root).found == []
  )  # records are all that is read
  assert verification_data.counts(
    verification_data.verify(root, images=True).found
  ) == {findings.MISSING: 2}
  shutil.rmtree(root / "tfds/cars/val")
  for images in (False, True):
    result = verification_data.verify(root, images=images)
    assert verification_data.counts(result.found) == {
      findings.RECORDS: 1,
      findings.MISSING: 1 + images,
    }
    assert any(
      f"cars/val.json: entry 0: {gone[0]} is not in" in text
      for text in verification_data.messages(result)
    )


def test_escaped_names_are_not_missing(root):
  (root / "images/cars/val/0.jpg").rename(root / "images/cars/val/#U00fc.jpg")
  entries = verification_data.read(root, "cars", "val")
  entries[0]["path"] = "cars/val/ü.jpg"
  data_files.write_info(root, "cars", "val", entries)
  data_files.prepare(root)
  assert verification_data.verify(root, images=True).found == []


def test_nothing_is_read_where_nothing_is(root):
  shutil.rmtree(root / "tfds")
  shutil.rmtree(root / "images")
  number = sum(len(spec.splits) for spec in verification_data.SPECS)
  assert verification_data.counts(
    verification_data.verify(root, images=True).found
  ) == {findings.RECORDS: number}


def flip(root, at):
  """Flips a bit of the last record of cars/test."""
  (file,) = files_of(root, "cars", "test")
  data = bytearray(file.read_bytes())
  data[at] ^= 4
  pathlib.Path(file).write_bytes(data)


def test_flipped_bits_are_found(root):
  flip(root, -100)
  assert verification_data.verify(root).found == []
  result = verification_data.verify(root, images=True)
  assert verification_data.counts(result.found) == {findings.DAMAGED: 1}
  assert "record 3" in verification_data.messages(result)[0]


def test_the_cure_of_a_damaged_length_helps(root):
  """Preparing again alone would find a file of the size that it had."""
  (file,) = files_of(root, "cars", "test")
  data = bytearray(pathlib.Path(file).read_bytes())
  data[0] ^= 4
  pathlib.Path(file).write_bytes(data)
  result = verification_data.verify(root)
  assert "delete files that are damaged, and run" in report.to_text(
    result, max_shown=5
  )
  data_files.prepare(root)
  assert verification_data.verify(root).found
  pathlib.Path(file).unlink()
  data_files.prepare(root)
  assert verification_data.verify(root).found == []


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
    result = verification_data.verify(root, images=True)
    assert verification_data.counts(result.found) == {findings.UNREADABLE: 1}
    assert (
      f"record 1 (key {key!r}) is damaged, or no JPEG"
      in (verification_data.messages(result)[0])
    )


def test_image_files_that_no_decoder_reads_are_found(root):
  shutil.rmtree(root / "tfds/cars/val")
  (root / "images/cars/val/1.jpg").write_bytes(b"no image")
  (root / "images/cars/val/0.jpg").unlink()
  (root / "images/cars/val/0.jpg").mkdir()
  result = verification_data.verify(root, images=True)
  assert verification_data.counts(result.found) == {
    findings.RECORDS: 1,
    findings.UNREADABLE: 2,
  }
  assert any(
    "cars/val.json: entry 1: " in text
    for text in verification_data.messages(result)
  )


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
  assert (
    verification_data.verify(root).found == []
  )  # neither the first nor the last
  result = verification_data.verify(root, images=True)
  assert verification_data.counts(result.found) == found
  assert any(words in message for message in verification_data.messages(result))
  # The same in the first place is seen by its key.
  store(root, "cars", "test", [data[1], data[0], *data[2:]])
  if name in ("another image", "no example"):
    assert verification_data.counts(verification_data.verify(root).found) == {
      findings.OTHER: 1
    }


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
  result = verification_data.verify(root, images=True)
  assert any(
    "has 2 class ids; training" in text
    for text in verification_data.messages(result)
  )
  assert set(verification_data.counts(result.found)) == {findings.OTHER}


def test_the_ends_of_records_tell_of_another_order(root):
  data = stored(root, "cars", "test")
  store(root, "cars", "test", data[::-1], as_official=False)
  (text, _) = verification_data.messages(verification_data.verify(root))
  assert "record 0 is of image 'cars/test/3.jpg', not of 'cars/test/0" in text


def test_an_order_that_metadata_denies_is_found(root):
  data = stored(root, "cars", "test")
  swapped = [data[0], data[2], data[1], data[3]]
  store(root, "cars", "test", swapped, as_official=False)
  assert verification_data.verify(root).found == []
  result = verification_data.verify(root, images=True)
  assert verification_data.counts(result.found) == {findings.OTHER: 1}
  assert (
    "2 records are not in the order" in verification_data.messages(result)[0]
  )
  # Without metadata, records are matched by their keys.
  (root / "tfds/cars/test/metadata.json").unlink()
  assert verification_data.verify(root, images=True).found == []
