"""Records that hold resized images give the batches that files give."""

import dataclasses
import itertools
import json
import logging
import shutil

import numpy as np
from PIL import Image
import pytest
import tensorflow as tf

from tests import data_files, official_data
from udon_jax import domains, errors
from udon_jax.data import (
  dataset,
  examples,
  formats,
  layout,
  metadata,
  records,
  splits,
  stores,
  storing,
  stream,
)

SPLITS = {"train": 11, "val": 5, "test": 6}
SIZE, CROP = 64, 56
OPTIONS = stream.Options(
  resize_size=SIZE, crop_size=CROP, round_pixels=True, num_threads=2
)
EXACT = ("raw64", "webp64")
STORES = (*EXACT, "jpeg64")
COUNT = 9  # batches of 4: more than three epochs
# Of JPEG at quality 95 on what these images are: smooth, and resized.
MAX_LEVELS, MEAN_LEVELS = 16, 2.0


@pytest.fixture(scope="module")
def roots(tmp_path_factory):
  """{name of a store: a data directory of the same images}."""
  base = tmp_path_factory.mktemp("original")
  for split, count in SPLITS.items():
    data_files.add_split(base, "cars", split, count)
    others = {
      "0.jpg": data_files.encode(1, size=(50, 70), mode="L"),
      "1.jpg": data_files.encode(2, size=(90, 61), kind="PNG", mode="RGBA"),
      "2.jpg": data_files.encode(3, size=(80, 60), exif=orientation(6)),
      "3.jpg": data_files.encode(4, size=(700, 20)),
    }
    for name, data in others.items():
      (base / "images/cars" / split / name).write_bytes(data)
  found = {"original": base}
  for name in STORES:
    found[name] = tmp_path_factory.mktemp(name)
    shutil.copytree(base, found[name], dirs_exist_ok=True)
  for name, root in found.items():
    data_files.prepare(root, store=name)
  return found


def orientation(value):
  """Returns the EXIF block of an orientation."""
  exif = Image.Exif()
  exif[0x0112] = value
  return exif


@pytest.fixture
def root(roots, tmp_path):
  """A data directory that a test may change, with its images alone."""
  for name in ("images", "info_files"):
    shutil.copytree(roots["original"] / name, tmp_path / name)
  return tmp_path


@pytest.fixture(autouse=True)
def log(caplog, monkeypatch):
  monkeypatch.setattr(logging.getLogger("udon_jax"), "propagate", True)
  caplog.set_level(logging.INFO, "udon_jax")
  return caplog


def load(root, names=("cars",), batch_size=4, **changes):
  return dataset.load(
    root,
    domains=names,
    batch_size=batch_size,
    eval_batch_size=batch_size,
    seed=3,
    options=dataclasses.replace(OPTIONS, **changes),
  )


def train(root, start=0, count=COUNT, **changes):
  """Returns images and labels of training batches."""
  ((source,), _) = load(root, **changes)
  batches = list(itertools.islice(source.open(start), count))
  return [(batch.images, batch.labels) for batch in batches]


def evaluate(root, **changes):
  """Returns images and masks of every evaluation batch."""
  _, tasks = load(root, **changes)
  return [
    (batch.images, batch.mask)
    for build in tasks.values()
    for task in build()
    for batch in task.query.open()
  ]


def assert_equal(found, wanted):
  assert len(found) == len(wanted) > 0
  for pairs in zip(found, wanted, strict=True):
    for array, other in zip(*pairs, strict=True):
      np.testing.assert_array_equal(array, other)


@pytest.fixture(scope="module")
def trained(roots):
  return {name: train(root) for name, root in roots.items()}


@pytest.mark.parametrize("store", EXACT)
def test_pixels_without_loss_give_the_batches_of_the_files(
  roots, trained, store
):
  assert_equal(trained[store], trained["original"])
  assert_equal(evaluate(roots[store]), evaluate(roots["original"]))


def test_jpegs_are_near(roots, trained):
  for found, wanted in (
    (trained["jpeg64"], trained["original"]),
    (evaluate(roots["jpeg64"]), evaluate(roots["original"])),
  ):
    for (images, other), (expected, same) in zip(found, wanted, strict=True):
      np.testing.assert_array_equal(other, same)
      distance = np.abs(images.astype(int) - expected)
      assert 0 < distance.max() <= MAX_LEVELS
      assert distance.mean() <= MEAN_LEVELS


@pytest.mark.parametrize("store", STORES)
@pytest.mark.parametrize("start", [1, 4])
def test_a_stream_opens_at_any_position(roots, trained, store, start):
  opened = train(roots[store], start, COUNT - start)
  assert_equal(opened, trained[store][start:])


@pytest.mark.parametrize("store", EXACT)
def test_processes_share_a_batch(roots, trained, store):
  parts = [
    train(roots[store], 2, 3, process_index=i, process_count=2)
    for i in range(2)
  ]
  joined = [
    tuple(map(np.concatenate, zip(*pair, strict=True)))
    for pair in zip(*parts, strict=True)
  ]
  assert_equal(joined, trained["original"][2:5])
  parts = [
    evaluate(roots[store], process_index=i, process_count=2) for i in range(2)
  ]
  joined = [
    tuple(map(np.concatenate, zip(*pair, strict=True)))
    for pair in zip(*parts, strict=True)
  ]
  assert_equal(joined, evaluate(roots["original"]))


@pytest.mark.parametrize("store", STORES)
def test_metadata_say_the_store(roots, store):
  for split in SPLITS:
    folder = roots[store] / "tfds/cars" / split
    known = metadata.read(folder)
    assert (known.store, known.exif) == (store, True)
    assert metadata.store_of(known).name == store
  known = metadata.read(roots["original"] / "tfds/cars/train")
  assert (known.store, known.exif) == ("original", None)


@pytest.mark.parametrize("value", [7, None, "zip9"])
def test_metadata_of_no_known_store_are_told_in_one_line(root, value):
  data_files.prepare(root, store="raw64")
  file = root / "tfds/cars/train/metadata.json"
  file.write_text(json.dumps(json.loads(file.read_text()) | {"store": value}))
  if isinstance(value, str):
    with pytest.raises(errors.UserError, match="store=zip9 is unknown"):
      load(root)
  else:
    assert metadata.read(file.parent) is None


TRAIN_AS_INDEX = domains.DomainSpec(
  "cars",
  val=domains.Protocol("val", "val"),
  test=domains.Protocol("test", "train"),
)
MISFITS = {
  "resize_size": ({"resize_size": 72}, r"resize_size=72 .*raw64 and has 64"),
  "crop_size": ({"crop_size": 48}, r"crop_size=48 .*raw64 and has 56"),
  "round_pixels": ({"round_pixels": False}, "round_pixels=False .*has True"),
  "exif": ({"exif": False}, "exif=False .*has True"),
  "index": ({"names": (TRAIN_AS_INDEX,)}, "searched in evaluation too"),
}


@pytest.mark.parametrize("name", MISFITS)
def test_configs_that_do_not_fit_are_refused(roots, name):
  changes, message = MISFITS[name]

  def build(root):
    for tasks in load(root, **changes)[1].values():
      tasks()

  with pytest.raises(errors.UserError, match=message) as caught:
    build(roots["raw64"])
  assert "\n" not in str(caught.value)
  assert "--store" in str(caught.value)
  build(roots["original"])


def test_images_that_were_not_turned_fit_configs_that_do_not_turn(root, roots):
  data_files.prepare(root, store="raw64", exif=False)
  wanted = train(roots["original"], exif=False)
  assert_equal(train(root, exif=False), wanted)
  assert any(
    (images != turned).any()
    for (images, _), (turned, _) in zip(
      wanted, train(roots["original"]), strict=True
    )
  )
  with pytest.raises(errors.UserError, match=r"exif=True .*has False"):
    train(root)


def test_another_store_replaces_and_none_leaves_alone(root, roots, log):
  data_files.prepare(root, store="raw64")
  first = data_files.snapshot(root)
  data_files.prepare(root)
  data_files.prepare(root, store="raw64")
  assert data_files.snapshot(root) == first
  data_files.prepare(root, store="jpeg64")
  assert "cars/train: it is stored as raw64" in log.text
  assert written(root) == written(roots["jpeg64"])
  data_files.prepare(root, store="original")
  assert written(root) == written(roots["original"])


def written(root):
  """What a preparation wrote; others note orders beside it."""
  return {
    path: data
    for path, data in data_files.contents(root).items()
    if not path.name.endswith(".order.npy")
  }


def test_what_is_made_again_keeps_its_store(root):
  data_files.prepare(root, store="raw64")
  data_files.add_split(root, "cars", "val", 7)
  data_files.prepare(root)
  assert metadata.read(root / "tfds/cars/val").store == "raw64"
  assert metadata.read(root / "tfds/cars/val").num_examples == 7


@pytest.mark.parametrize("exif", [True, False])
def test_what_is_made_again_is_turned_as_it_was(root, exif):
  data_files.prepare(root, store="raw64", exif=exif)
  data_files.add_split(root, "cars", "val", 7)
  data_files.prepare(root, exif=None)
  assert metadata.read(root / "tfds/cars/val").exif == exif


@pytest.mark.parametrize("name", ["raw", "jpeg60", "png256", "raw00", "RAW64"])
def test_unknown_stores_are_told(root, name):
  with pytest.raises(errors.UserError, match=f"--store={name} is unknown"):
    data_files.prepare(root, store=name)
  assert not (root / "tfds").exists()


def test_readers_of_the_official_code_find_images(roots):
  features = {
    "image_bytes": tf.io.FixedLenFeature([], tf.string),
    "class_id": tf.io.VarLenFeature(tf.int64),
    "key": tf.io.FixedLenFeature([], tf.string),
  }
  for split, count in SPLITS.items():
    found = official_data.read(roots["jpeg64"], "cars", split)
    assert len(found) == count
    for record in found:
      parsed = tf.io.parse_single_example(record, features)
      image = tf.io.decode_jpeg(parsed["image_bytes"], channels=3)
      side = SIZE if split == "train" else CROP
      assert image.shape == (side, side, 3)
      assert parsed["key"].numpy().startswith(f"cars/{split}/".encode())


@pytest.mark.parametrize("store", STORES)
def test_images_that_cannot_be_decoded_are_named(root, store):
  file = root / "images/cars/val/1.jpg"
  file.write_bytes(data_files.encode(0)[:-20])
  with pytest.raises(errors.UserError, match=r"1\.jpg is damaged"):
    data_files.prepare(root, store=store)
  assert not (root / "tfds/cars/val").exists()


def test_a_record_of_pixels_that_is_too_short_is_named(root):
  data_files.prepare(root, store="raw64")
  file = root / "tfds/cars/train/cars.train.tfrecord-00000-of-00003"
  contents = list(tf.data.TFRecordDataset(str(file)).as_numpy_iterator())
  contents[0] = official_data.example(b"short", 0, "x")
  data_files.write_records(file, contents)
  folder = file.parent
  known = json.loads((folder / "metadata.json").read_text())
  known["num_bytes"][0] = file.stat().st_size
  (folder / "metadata.json").write_text(json.dumps(known))
  with pytest.raises(errors.UserError, match=r"record 0 .*holds no image"):
    train(root)


@pytest.mark.parametrize("split", SPLITS)
def test_pixels_without_their_metadata_are_no_images(root, split):
  """Whoever reads them says so, and nobody replaces them."""
  data_files.prepare(root, store="raw64")
  (root / "tfds/cars" / split / "metadata.json").unlink()
  before = data_files.contents(root)
  for use in (data_files.prepare, train if split == "train" else evaluate):
    with pytest.raises(errors.UserError, match=rf"{split} holds bare pixels"):
      use(root)
  with pytest.raises(errors.UserError, match="would replace"):
    data_files.prepare(root, store="raw64")
  assert data_files.contents(root) == before


@pytest.mark.parametrize("store", ["jpeg64", "webp64"])
def test_resized_files_without_their_metadata_are_images(
  roots, tmp_path, store
):
  shutil.copytree(roots[store], tmp_path / "data")
  for split in SPLITS:
    (tmp_path / "data/tfds/cars" / split / "metadata.json").unlink()
  for use in (train, evaluate):
    for ours, known in zip(
      use(tmp_path / "data"), use(roots[store]), strict=True
    ):
      np.testing.assert_array_equal(ours[0], known[0])


@pytest.mark.parametrize("store", STORES)
def test_images_of_records_become_files(roots, store):
  place = layout.find(roots[store])
  files = splits.open_records(place, "cars", "val")
  assert isinstance(files, records.RecordFiles)
  found = examples.image_bytes(files.read(2))
  shown = formats.decode(storing.to_file(found, files))
  decode = storing.decode_in_graph(tf.constant(found), files, exif=True)
  np.testing.assert_array_equal(shown, decode.numpy())
  assert shown.shape == (CROP, CROP, 3)


def test_names_of_stores_come_back():
  for name in ("original", "jpeg256", "webp256", "raw256", "raw512"):
    store = stores.parse(name, exif=True, key="--store")
    assert store.name == name
  assert (store.side("train"), store.side("test")) == (512, 448)


def test_sizes_of_evaluation_are_those_of_the_defaults():
  store = stores.parse("raw256", exif=True, key="--store")
  assert (store.size, store.crop_size) == (256, 224)


def test_adopted_records_are_never_made_small(tmp_path):
  """Not by the command that finds them, nor by one after it."""
  data_files.add_split(tmp_path, "cars", "val", 5)
  official_data.convert(tmp_path, "cars", splits=["val"])
  before = data_files.contents(tmp_path)
  for _ in range(2):
    with pytest.raises(errors.UserError, match="store=raw64 would replace"):
      data_files.prepare(tmp_path, store="raw64")
    data_files.prepare(tmp_path)  # adopts them
  after = data_files.contents(tmp_path)
  assert {path: after[path] for path in before} == before
