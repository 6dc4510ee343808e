"""UnED as its users have it: the records of the official converter alone."""

import itertools
import json
import shutil

import numpy as np
import pytest
import tensorflow as tf

from tests import data_files, official_data
from udon_jax import domains, errors
from udon_jax.data import dataset, examples, image_files, layout, splits

SPLITS = {"train": 9, "val": 5, "test": 6, "index": 7, "small_index": 4}
NAMES = ("met", "cars")


def make(root, *, seed=0, num_shards=12):
  """Writes what a user has: tfds/ and info_files/, and no images."""
  for domain in NAMES:
    for split, count in SPLITS.items():
      data_files.add_split(root, domain, split, count)
  entries = json.loads((root / "info_files/met/test.json").read_text())
  entries[2]["class_id"] = [2, 0]
  data_files.write_info(root, "met", "test", entries)
  for domain in NAMES:
    official_data.convert(
      root, domain, splits=SPLITS, num_shards=num_shards, seed=seed
    )
  shutil.rmtree(root / "images")


@pytest.fixture(scope="module")
def original(tmp_path_factory):
  root = tmp_path_factory.mktemp("official")
  make(root)
  return root


@pytest.fixture
def root(original, tmp_path):
  shutil.copytree(original, tmp_path / "data")
  return tmp_path / "data"


def load(root, **changes):
  arguments = {"domains": NAMES, "batch_size": 4, "eval_batch_size": 4}
  arguments |= {"seed": 0, "options": data_files.OPTIONS}
  return dataset.load(root, **arguments | changes)


def train(source, count=6):
  return list(itertools.islice(source.open(0), count))


def assert_equal(batches, others):
  for batch, other in zip(batches, others, strict=True):
    np.testing.assert_array_equal(batch.images, other.images)
    np.testing.assert_array_equal(batch.labels, other.labels)


def record_files(root):
  return {
    path.relative_to(root): path.read_bytes()
    for path in root.rglob("*.tfrecord*")
    if not path.name.startswith(".")
  }


def test_they_are_used_as_they_are(root):
  """Empty shards, no metadata, no sidecars, no images; nothing is changed."""
  before = record_files(root)
  assert any(data == b"" for data in before.values())
  sources, tasks = load(root)
  found = [(s.name, s.num_examples, s.num_classes) for s in sources]
  assert found == [("met", 9, 3), ("cars", 9, 3)]
  for source in sources:
    entries = json.loads(
      (root / f"info_files/{source.name}/train.json").read_text()
    )
    labels = np.concatenate([b.labels for b in train(source, 9)]).reshape(4, 9)
    wanted = sorted(entry["class_id"] for entry in entries)
    np.testing.assert_array_equal(np.sort(labels), [wanted] * 4)
  for build in tasks.values():
    for task in build():
      for split in (task.query, task.index):
        assert sum(batch.mask.sum() for batch in split.open()) == len(
          split.keys
        )
  assert tasks["test"]()[0].query.labels[2].tolist() == [2, 0]
  assert record_files(root) == before
  for domain, split in itertools.product(NAMES, SPLITS):
    # The official code reads its own records afterwards, and no more.
    assert len(official_data.read(root, domain, split)) == SPLITS[split]


ORDERS = list(itertools.permutations(range(3)))


@pytest.mark.parametrize(
  "order",
  [
    ORDERS[-1],
    *(pytest.param(order, marks=pytest.mark.slow) for order in ORDERS[1:-1]),
  ],
)
def test_features_in_any_order_and_others_beside_them(tmp_path, order):
  """Labels of an evaluation are those of the info file."""
  make(tmp_path)
  sources, tasks = load(tmp_path, domains=("cars",))
  expected = train(sources[0]), evaluated(tasks)
  names = ["image_bytes", "class_id", "key"]
  extra = official_data.feature(a=[1.5], height=[30], zzz=[b"x" * 400])
  for file in (tmp_path / "tfds/cars").glob("*/cars.*"):
    contents = []
    for data in tf.data.TFRecordDataset(str(file)).as_numpy_iterator():
      found = tf.train.Example.FromString(data).features.feature
      # A later entry of the same Example is appended as it is.
      parts = [{names[i]: found[names[i]]} for i in order]
      parts = [{"a": extra["a"]}, *parts, extra]
      contents.append(
        b"".join(
          tf.train.Features(feature=part).SerializeToString() for part in parts
        )
      )
    official_data.write(file, [b"\x0a" + _length(x) + x for x in contents])
  sources, tasks = load(tmp_path, domains=("cars",))
  assert_equal(train(sources[0]), expected[0])
  for images, others in zip(evaluated(tasks), expected[1], strict=True):
    np.testing.assert_array_equal(images, others)


def _length(data):
  """Returns a length below 2^14 as Protocol Buffers write it."""
  assert 128 <= len(data) < 2**14
  return bytes([len(data) % 128 + 128, len(data) // 128])


def test_training_is_a_function_of_the_read(root, tmp_path):
  """Not of what we keep beside them, nor of the place or its other splits."""
  first, _ = load(root)
  batches = [train(source) for source in first]
  again, _ = load(root)  # with sidecars
  found = [[train(source) for source in again]]
  data_files.prepare(root)  # with metadata
  adopted, _ = load(root)
  found.append([train(source) for source in adopted])
  moved = tmp_path / "moved"
  shutil.move(root, moved)
  for path in moved.rglob(".*"):
    path.unlink()
  for split in ("val", "test"):
    shards = official_data.read(moved, "cars", split)
    official_data.place(moved, "cars", split).unlink()
    official_data.write_shards(
      official_data.place(moved, "cars", split), shards, num_shards=3
    )
    (moved / f"tfds/cars/{split}/metadata.json").unlink()
  elsewhere, _ = load(moved / "tfds")
  found.append([train(source) for source in elsewhere])
  for sources in (again, adopted, elsewhere):
    assert [s.fingerprint for s in sources] == [s.fingerprint for s in first]
  for others, expected in itertools.product(found, [batches]):
    for other, one in zip(others, expected, strict=True):
      assert_equal(other, one)


def test_other_shards_are_other_data(tmp_path):
  """The same images in another conversion have another order."""
  prints = []
  for seed in (0, 1):
    make(tmp_path / str(seed), seed=seed)
    sources, _ = load(tmp_path / str(seed))
    prints.append([source.fingerprint for source in sources])
  assert prints[0] != prints[1]


def test_evaluation_splits_may_lie_in_shards(root):
  expected = evaluated(load(root)[1])
  for domain, split in itertools.product(NAMES, ("val", "index", "test")):
    file = official_data.place(root, domain, split)
    contents = official_data.read(root, domain, split)
    file.unlink()
    official_data.write_shards(file, contents, num_shards=5)
  for _ in range(2):
    found = evaluated(load(root)[1])
    for images, others in zip(found, expected, strict=True):
      np.testing.assert_array_equal(images, others)


def evaluated(tasks):
  return [
    np.concatenate([batch.images for batch in split.open()])
    for build in tasks.values()
    for task in build()
    for split in (task.query, task.index)
  ]


@pytest.mark.parametrize("data_dir", ["", "tfds"])
def test_info_files_may_lie_elsewhere(root, tmp_path, data_dir):
  expected = load(root)[0]
  shutil.move(root / "info_files", tmp_path / "lists")
  sources, tasks = load(root / data_dir, info_files=tmp_path / "lists")
  for source, other in zip(sources, expected, strict=True):
    assert source.fingerprint == other.fingerprint
    assert source.num_classes == 3
  assert len(tasks["test"]()) == 2
  with pytest.raises(errors.UserError) as caught:
    load(root)
  assert "info_files/met/val.json is missing" in str(caught.value)
  assert "config.info_files_dir" in str(caught.value)
  with pytest.raises(
    errors.UserError, match=r"config\.info_files_dir=.*nowhere"
  ):
    load(root, info_files=tmp_path / "nowhere")


def test_the_folder_of_records_may_have_any_name(root):
  expected = load(root)[0]
  shutil.move(root / "tfds", root / "made_in_2023")
  sources, tasks = load(root / "made_in_2023")
  for source, other in zip(sources, expected, strict=True):
    assert source.fingerprint == other.fingerprint
  assert len(tasks["test"]()) == 2


def test_lists_elsewhere_are_named_in_the_cure(root, tmp_path):
  shutil.move(root / "info_files", tmp_path / "lists")
  shutil.rmtree(root / "tfds/cars/val")
  with pytest.raises(errors.UserError) as caught:
    load(root, info_files=tmp_path / "lists")
  flags = f"--data_dir={root} --info_files={tmp_path}/lists --domains=cars"
  assert f"run `python -m udon_jax.data.prepare {flags}`" in str(caught.value)


def test_training_needs_its_list(root):
  """It tells the number of classes, which records do not."""
  (root / "info_files/cars/train.json").unlink()
  with pytest.raises(errors.UserError) as caught:
    load(root)
  message = str(caught.value)
  assert "cars/train.json is missing" in message
  assert "beside its records too" in message and "\n" not in message


def test_classes_and_counts_are_those_of_the_files(root):
  """Not those of UnED's table."""
  entries = json.loads((root / "info_files/cars/train.json").read_text())
  entries[4]["class_id"] = 7
  data_files.write_info(root, "cars", "train", entries)
  sources, _ = load(root)
  assert [source.num_classes for source in sources] == [3, 8]
  assert domains.UNED["cars"].num_classes == 78


@pytest.mark.parametrize("path", ["../x.jpg", "/x.jpg", "a\\..\\x", "a\0b"])
@pytest.mark.parametrize("split", ["val", "index"])
def test_lists_that_lead_out_are_refused_though_no_path_is_opened(
  root, path, split
):
  entries = json.loads((root / f"info_files/met/{split}.json").read_text())
  entries[3]["path"] = path
  data_files.write_info(root, "met", split, entries)
  _, tasks = load(root)
  with pytest.raises(errors.UserError, match=r"entry 3: path .*(out|no file)"):
    tasks["val" if split == "val" else "test"]()


def test_keys_that_lead_out_open_nothing(root):
  """A key is compared with the list, which holds none that leads out."""
  contents = official_data.read(root, "cars", "val")
  example = tf.train.Example.FromString(contents[2])
  example.features.feature["key"].bytes_list.value[0] = b"../../secret.jpg"
  contents[2] = example.SerializeToString()
  official_data.write(official_data.place(root, "cars", "val"), contents)
  _, tasks = load(root)
  with pytest.raises(errors.UserError, match=r"secret\.jpg.*does not list"):
    tasks["val"]()


def official_escape(path):
  """The name that the official converter tries for a file of RP2K."""
  escaped = str(path.encode("unicode-escape"))
  return escaped.replace("\\\\u", "#U").replace("\\\\x", "#U00")[2:-1]


@pytest.mark.parametrize("domain", ["rp2k", "cars"])
@pytest.mark.parametrize(
  "name", ["康师傅/é.jpg", "王.jpg", "ÿ a'b.jpg", "x/Ω-ß.jpg", "plain.jpg"]
)
def test_escaped_files_are_found_as_the_official_converter_finds_them(
  tmp_path, domain, name
):
  path = f"{domain}/{name}"
  file = tmp_path / "images" / official_escape(path)
  file.parent.mkdir(parents=True)
  file.write_bytes(b"")
  place = layout.find(tmp_path)
  assert str(place.images / image_files.find_name(place.images, path)) == str(
    file
  )


def test_prepare_takes_lists_from_elsewhere(tmp_path):
  root = tmp_path / "data"
  data_files.add_split(root, "cars", "val", 4)
  shutil.move(root / "info_files", tmp_path / "lists")
  place = layout.find(root, info_files=tmp_path / "lists")
  data_files.prepare(root, place=place)
  files, images = splits.open_eval(place, "cars", "val")
  assert [examples.key(files.read(i)) for i in range(4)] == images.paths


@pytest.mark.parametrize("name", ["tfds", "records_of_uned"])
def test_records_are_found_in_a_folder_of_any_name(tmp_path, name):
  data_files.add_split(tmp_path, "cars", "val", 4)
  data_files.prepare(tmp_path)
  (tmp_path / "tfds").rename(tmp_path / name)
  place = layout.find(tmp_path / name)
  assert place.root == tmp_path
  assert place.info_files == tmp_path / "info_files"
  files, images = splits.open_eval(place, "cars", "val")
  assert [examples.key(files.read(i)) for i in range(4)] == images.paths
  # The command that messages name leads to the same folder.
  named = tmp_path if name == "tfds" else tmp_path / name
  assert f"--data_dir={named} --domains=cars`" in place.prepare("cars")
  assert layout.find(named).tfds == place.tfds
