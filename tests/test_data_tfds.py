"""UnED through TensorFlow Datasets: what goes in comes out."""

import ast
import dataclasses
import glob
import importlib.util
import json
import os
import pathlib
import pickle
import re
import shutil
import subprocess
import sys
import textwrap
import types

import numpy as np
import pytest
import tensorflow_datasets as tfds
from tensorflow_datasets.core import dataset_metadata, shuffle

from tests import command_lines, data_files
from udon_jax import domains, errors
from udon_jax.data import order, preprocess, synthetic
from udon_jax.data.uned import uned_dataset_builder

ROOT = command_lines.ROOT
SKIP = {"image": tfds.decode.SkipDecoding()}
NAMES = domains.UNED_NAMES


@pytest.fixture(scope="module")
def original(tmp_path_factory):
  root = tmp_path_factory.mktemp("uned")
  synthetic.generate(root, size="smoke", seed=0, num_workers=1)
  entries = read_list(root, "met", "val")
  for entry, ids in zip(entries, ([4], [3, 1], [0, 5, 2]), strict=True):
    entry["class_id"] = ids
  data_files.write_info(root, "met", "val", entries)
  return root


@pytest.fixture(scope="module")
def records(original, tmp_path_factory):
  """The folder of a build of all domains."""
  out = tmp_path_factory.mktemp("records")
  for name in NAMES:
    build(original, out, config=name)
  return out


@pytest.fixture
def root(original, tmp_path):
  """A copy of one domain, to be damaged."""
  for part in ("images", "info_files"):
    shutil.copytree(original / part / "cars", tmp_path / "data" / part / "cars")
  return tmp_path / "data"


def build(root, out, *, options=None, **arguments):
  arguments = {"config": "cars", "data_dir": out} | arguments
  builder = uned_dataset_builder.Builder(**arguments)
  config = tfds.download.DownloadConfig(manual_dir=root, **(options or {}))
  builder.download_and_prepare(download_config=config)
  return builder


def read_list(root, domain, split):
  return json.loads((root / f"info_files/{domain}/{split}.json").read_text())


def listed(root, domain, split):
  """Returns (key, classes, bytes of the image) of every entry of a list."""
  return [
    (
      entry["path"],
      np.atleast_1d(entry["class_id"]).tolist(),
      (root / "images" / entry["path"]).read_bytes(),
    )
    for entry in read_list(root, domain, split)
  ]


def plain(examples):
  return [
    (
      x["key"].decode() if isinstance(x["key"], bytes) else x["key"],
      np.asarray(x["class_id"]).tolist(),  # a list in data sources
      x["image"],
    )
    for x in examples
  ]


def read(builder, split):
  return plain(tfds.as_numpy(builder.as_dataset(split=split, decoders=SKIP)))


def rereading(out, domain):
  return tfds.builder_from_directory(out / "uned" / domain / "1.0.0")


@pytest.mark.parametrize("domain", NAMES)
def test_all_splits_come_back_as_they_are(original, records, domain):
  """Files byte by byte, classes, keys; evaluation in the order of the list."""
  builder = rereading(records, domain)
  assert set(builder.info.splits) == set(domains.UNED[domain].splits)
  for split, found in builder.info.splits.items():
    wanted = listed(original, domain, split)
    assert found.num_examples == len(wanted)
    if split == domains.TRAIN_SPLIT:
      assert read(builder, split) != wanted
      assert sorted(read(builder, split)) == sorted(wanted)
    else:
      assert read(builder, split) == wanted


def test_the_order_of_training_is_a_permutation_by_name(original, records):
  wanted = listed(original, "cars", "train")
  permuted = order.permute(
    np.arange(len(wanted)), len(wanted), seed=0, epoch=0, domain="cars"
  )
  found = read(rereading(records, "cars"), "train")
  assert found == [wanted[i] for i in permuted]


def test_several_classes_stay_several(records):
  found = [x[1] for x in read(rereading(records, "met"), "val")]
  assert [len(x) for x in found] == [1, 2, 3]


def test_array_records_give_random_access(original, tmp_path):
  builder = build(original, tmp_path, config="met", file_format="array_record")
  assert list(tmp_path.rglob("*.array_record*"))
  for split in ("index", "val"):
    wanted = listed(original, "met", split)
    source = builder.as_data_source(split=split, decoders=SKIP)
    assert len(source) == len(wanted)
    for i in (len(wanted) - 1, 0, 1):  # in any order
      assert plain([source[i]]) == [wanted[i]]
  train = builder.as_data_source(split="train", decoders=SKIP)
  found = plain(train[i] for i in range(len(train)))
  assert sorted(found) == sorted(listed(original, "met", "train"))


def test_pixels_are_those_of_training(tmp_path):
  """Grey, CMYK and PNG too. Data sources decode otherwise: let them skip it."""
  data_files.add_split(tmp_path, "mine", "val", 4)
  entries = read_list(tmp_path, "mine", "val")
  kinds = [("RGB", "JPEG"), ("L", "JPEG"), ("CMYK", "JPEG"), ("RGB", "PNG")]
  for entry, (mode, kind) in zip(entries, kinds, strict=True):
    data = data_files.encode(7, mode=mode, kind=kind)
    (tmp_path / "images" / entry["path"]).write_bytes(data)
  config = tfds.core.BuilderConfig(name="mine")
  builder = build(tmp_path, tmp_path / "out", config=config)
  found = list(tfds.as_numpy(builder.as_dataset(split="val")))
  for example, entry in zip(found, entries, strict=True):
    data = (tmp_path / "images" / entry["path"]).read_bytes()
    np.testing.assert_array_equal(
      example["image"], preprocess.decode(data).numpy()
    )


def test_order_holds_where_memory_does_not_suffice(
  original, tmp_path, monkeypatch
):
  """Records then go through files, and no file gets them all."""
  monkeypatch.setattr(shuffle, "MAX_MEM_BUFFER_SIZE", 0)
  used = set()
  add = shuffle._Bucket.add

  def spy(self, key, data):
    used.add(self._path)
    add(self, key, data)

  monkeypatch.setattr(shuffle._Bucket, "add", spy)
  builder = build(original, tmp_path)
  entries = {
    split: listed(original, "cars", split) for split in ("val", "test")
  }
  for split, wanted in entries.items():
    assert read(builder, split) == wanted
  assert len(used) == sum(x.num_examples for x in builder.info.splits.values())


def test_files_can_be_shuffled_where_that_is_meant(original, records):
  builder = rereading(records, "cars")
  with pytest.raises(ValueError, match="ordered dataset"):
    builder.as_dataset(split="train", shuffle_files=True)
  config = tfds.ReadConfig(enable_ordering_guard=False)
  found = builder.as_dataset(
    split="train", decoders=SKIP, shuffle_files=True, read_config=config
  )
  wanted = listed(original, "cars", "train")
  assert sorted(plain(tfds.as_numpy(found))) == sorted(wanted)


def test_order_holds_over_shards(original, tmp_path):
  builder = build(original, tmp_path, options={"num_shards": 3})
  assert builder.info.splits["test"].num_shards == 3
  assert read(builder, "test") == listed(original, "cars", "test")


def test_an_image_may_be_listed_twice(root, tmp_path):
  entries = read_list(root, "cars", "val")
  data_files.write_info(root, "cars", "val", [*entries, entries[0]])
  builder = build(root, tmp_path / "out")
  assert read(builder, "val") == listed(root, "cars", "val")


def test_escaped_files_are_found(root, tmp_path):
  entries = read_list(root, "cars", "val")
  file = root / "images" / entries[0]["path"]
  data = file.read_bytes()
  entries[0]["path"] = "cars/王.jpg"
  data_files.write_info(root, "cars", "val", entries)
  file.rename(root / "images/cars/#U738b.jpg")
  found = read(build(root, tmp_path / "out"), "val")[0]
  assert found[0] == "cars/王.jpg" and found[2] == data


def test_what_is_known_of_them(records):
  builder = rereading(records, "met")
  info = builder.info
  assert info.name == "uned" and info.config_name == "met"
  assert info.supervised_keys == ("image", "class_id")
  assert "ypsilantis2023uned" in info.citation
  assert "belong to their owners" in info.redistribution_info.license
  assert info.metadata == {
    "num_classes": 12,
    "val": {"query": "val", "index": "small_index"},
    "test": {"query": "test", "index": "index"},
  }
  instructions = uned_dataset_builder.Builder.MANUAL_DOWNLOAD_INSTRUCTIONS
  assert all(f"({name})" in instructions for name in NAMES)


def test_it_is_registered_and_the_first_config_is_the_default(tmp_path):
  assert tfds.builder_cls("uned") is uned_dataset_builder.Builder
  assert tfds.builder("uned", data_dir=tmp_path).builder_config.name == "cars"
  named = tfds.builder("uned/met", data_dir=tmp_path, data_check="uned")
  assert named.builder_config.name == "met"


def test_a_copy_in_another_process_has_the_same_options(root, tmp_path):
  builder = uned_dataset_builder.Builder(
    config="cars", data_dir=tmp_path / "out", data_check="uned", beam=False
  )
  copy = pickle.loads(pickle.dumps(builder))
  with pytest.raises(errors.UserError, match="data_check=uned"):
    copy.download_and_prepare(
      download_config=tfds.download.DownloadConfig(manual_dir=root)
    )


def test_a_domain_of_ones_own(tmp_path):
  data_files.add_split(tmp_path, "mine", "train", 5)
  data_files.add_split(tmp_path, "mine", "night", 3)
  config = tfds.core.BuilderConfig(name="mine")
  builder = build(tmp_path, tmp_path / "out", config=config)
  assert read(builder, "night") == listed(tmp_path, "mine", "night")
  sizes = {name: x.num_examples for name, x in builder.info.splits.items()}
  assert sizes == {"train": 5, "night": 3}


def test_images_of_a_described_domain_are_where_they_were(tmp_path):
  """Lists that `prepare` made tell of images that lie elsewhere."""
  root, photos = tmp_path / "data", tmp_path / "photos"
  data_files.add_split(root, "mine", "train", 4)
  (root / "images").rename(photos)
  (root / "info_files/mine/source.yaml").write_text(f"images: {photos}\n")
  config = tfds.core.BuilderConfig(name="mine")
  builder = build(root, tmp_path / "out", config=config)
  assert builder.info.splits["train"].num_examples == 4


def remove(path):
  def change(root):
    (root / path).unlink()

  return change


def remove_image(root):
  (root / "images" / read_list(root, "cars", "test")[1]["path"]).unlink()


def cut_image(root):
  file = root / "images" / read_list(root, "cars", "test")[1]["path"]
  file.write_bytes(file.read_bytes()[:200])


def lead_out(root):
  data_files.write_info(
    root, "cars", "val", [{"path": "../x.jpg", "class_id": 0}]
  )


MISTAKES = {
  "a list": (remove("info_files/cars/val.json"), "cars/val.json is missing"),
  "an image": (remove_image, "images/cars/.*jpg; add them to"),
  "half an image": (cut_image, "images/cars/.*jpg is damaged"),
  "a path": (lead_out, "val.json: entry 0: .*leads out"),
}


@pytest.mark.parametrize("change, message", MISTAKES.values(), ids=MISTAKES)
def test_mistakes_are_told_in_a_line(root, tmp_path, change, message):
  """And leave nothing that would pass for a data set."""
  kept = shutil.copytree(root, tmp_path / "kept")
  change(root)
  with pytest.raises(errors.UserError, match=message) as caught:
    build(root, tmp_path / "out")
  assert "\n" not in str(caught.value)
  assert not list((tmp_path / "out").rglob("*tfrecord*"))
  assert read(build(kept, tmp_path / "out"), "val") == listed(
    kept, "cars", "val"
  )


def test_counts_are_compared_on_request(root, tmp_path):
  with pytest.raises(errors.UserError, match=r"cars train 14 \(6,346\)"):
    build(root, tmp_path / "out", data_check="uned")
  with pytest.raises(errors.UserError, match="data_check=uend is unknown"):
    build(root, tmp_path / "out", data_check="uend")
  build(root, tmp_path / "out")
  message = r"out/uned/cars.*cars test 8 \(8,131\) and 1 more"  # the classes
  with pytest.raises(errors.UserError, match=message):
    build(root, tmp_path / "out", data_check="uned")


def test_counts_of_uned_pass(root, tmp_path, monkeypatch):
  sizes = types.MappingProxyType({"train": 14, "val": 6, "test": 8})
  spec = dataclasses.replace(
    domains.UNED["cars"], num_classes=6, num_examples=sizes
  )
  monkeypatch.setattr(domains, "UNED", {"cars": spec})
  for _ in range(2):
    build(root, tmp_path / "out", data_check="uned")


@pytest.mark.parametrize("name", ["all", "test-2"])
def test_splits_have_names_that_tfds_can_read(tmp_path, name):
  data_files.add_split(tmp_path, "mine", name, 2)
  config = tfds.core.BuilderConfig(name="mine")
  with pytest.raises(errors.UserError, match=f"'{name}' can be no name"):
    build(tmp_path, tmp_path / "out", config=config)


def test_domains_without_lists_are_told(root, tmp_path):
  config = tfds.core.BuilderConfig(name="mine")
  with pytest.raises(errors.UserError, match=r"mine holds no <split>\.json"):
    build(root, tmp_path / "out", config=config)


def test_beam_gives_the_same(original, records, tmp_path):
  pytest.importorskip("apache_beam")
  built = build(original, tmp_path, config="met", beam=True)
  plainly = rereading(records, "met")
  for split in built.info.splits:
    assert read(built, split) == read(plainly, split)


def test_beam_that_is_missing_is_told(root, tmp_path, monkeypatch):
  monkeypatch.setattr(
    uned_dataset_builder.importlib.util, "find_spec", lambda name: None
  )
  with pytest.raises(errors.UserError, match="apache_beam is not installed"):
    build(root, tmp_path / "out", beam=True)


def test_command_line(original, root, tmp_path):
  cut_image(root)
  out = tmp_path / "out"
  base = ["udon_jax.data.uned", f"--manual_dir={original}", f"--data_dir={out}"]
  answers = command_lines.run_all(
    {
      "build": [*base, "--config=cars,met", "--file_format=array_record"],
      "again": [*base, "--config=cars", "--file_format=array_record"],
      "format": [*base, "--config=cars"],
      "full": [*base, "--data_dir=/dev/null", "--config=cars"],
      "image": [*base, f"--manual_dir={root}", f"--data_dir={tmp_path}"],
      "name": [*base, "--config=a/b"],
      "no beam": [*base, "--beam_pipeline_options=runner=DirectRunner"],
      "check": [*base, "--config=sop", "--data_check=uned"],
      "empty": [*base, f"--manual_dir={original}/images"],
      "folder": [*base, f"--manual_dir={out}/no"],
      "domain": [*base, "--config=mine"],
    }
  )
  built = answers["build"]
  assert built.code == 0, built.errors
  assert "met/1.0.0: train 20, val 3, small_index 9" in built.errors
  for answer in (built, answers["domain"]):  # TFDS warns of what it makes
    assert not re.search(r"^W\d{4} ", answer.errors, re.MULTILINE)
  assert answers["again"].code == 0
  for name, cause in {
    "check": "data_check=uned",
    "empty": "images/info_files holds no <domain>",
    "folder": "--manual_dir=",
    "domain": "info_files/mine holds no",
    "format": "cars/1.0.0 holds array_record",
    "full": "/dev/null",
    "image": "jpg is damaged",
    "name": "--config=a/b",
    "no beam": "apache_beam is not installed",
  }.items():
    if name == "no beam" and importlib.util.find_spec("apache_beam"):
      continue
    code, _, said = answers[name]
    assert code == 2 and "Traceback" not in said, said
    assert said.splitlines()[-1].startswith("error: ")
    assert cause in said.splitlines()[-1]
  source = rereading(out, "cars").as_data_source("val", decoders=SKIP)
  assert plain(source) == listed(original, "cars", "val")


@pytest.mark.parametrize(
  "config", ["cars", pytest.param('{"name": "mine"}', marks=pytest.mark.slow)]
)
def test_tfds_build(original, root, tmp_path, config):
  """As `tfds build` does; `tfds` itself cannot be imported without Beam."""
  script = """
    import argparse
    import sys
    from tensorflow_datasets.scripts.cli import build
    if hasattr(build, "Args"):
      import simple_parsing
      parser = simple_parsing.ArgumentParser()
      parser.add_arguments(build.Args, dest="args")
      parser.parse_args(sys.argv[2:]).args.execute()
    else:  # before 4.9.10
      parser = argparse.ArgumentParser()
      build.register_subparser(parser.add_subparsers())
      args = parser.parse_args()
      args.subparser_fn(args)
  """
  shutil.copytree(root / "info_files/cars", root / "info_files/mine")
  done = subprocess.run(
    [
      *(sys.executable, "-c", textwrap.dedent(script), "build"),
      *("udon_jax/data/uned", f"--config={config}", f"--manual_dir={root}"),
      *(f"--data_dir={tmp_path}/out", "--file_format=array_record"),
    ],
    cwd=ROOT,
    env={**os.environ, "PYTHONPATH": str(ROOT)},
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, done.stderr
  name = "cars" if config == "cars" else "mine"
  builder = rereading(tmp_path / "out", name)
  source = builder.as_data_source("test", decoders=SKIP)
  assert plain(source) == listed(original, "cars", "test")
  assert "ypsilantis2023uned" in builder.info.citation


def test_tags_are_known():
  metadata = uned_dataset_builder.Builder.get_metadata()
  assert "content.data-type.image" in metadata.tags
  assert set(metadata.tags) <= set(dataset_metadata.valid_tags())


def test_all_files_of_the_package_are_installed():
  """Those that are no modules, by `package_data`."""
  tree = ast.parse((ROOT / "setup.py").read_text())
  patterns = next(
    ast.literal_eval(node.value)
    for node in ast.walk(tree)
    if isinstance(node, ast.keyword) and node.arg == "package_data"
  )
  installed = {
    file
    for package, names in patterns.items()
    for name in names
    for file in glob.glob(str(ROOT / package.replace(".", "/") / name))
  }
  found = {
    str(file)
    for file in (ROOT / "udon_jax").rglob("*")
    if file.is_file() and file.suffix not in (".py", ".pyc")
  }
  assert found == installed


CARD = pathlib.Path(ROOT / "docs/uned.md").read_text()


def rows(heading):
  """Returns the cells of a table of the card, without its head."""
  part = CARD.split(f"\n## {heading}\n")[1].split("\n## ")[0]
  lines = [line for line in part.splitlines() if line.startswith("|")]
  return [[c.strip() for c in line.strip("|").split("|")] for line in lines[2:]]


def test_card_has_the_table():
  def number(cell):
    return int(cell.replace(",", "")) if cell != "-" else None

  found = {row[0]: [number(c) for c in row[1:]] for row in rows("Images")}
  total = found.pop("all")
  splits = ("train", "val", "small_index", "test", "index")
  assert found == {
    name: [spec.num_classes, *(spec.num_examples.get(s) for s in splits)]
    for name, spec in domains.UNED.items()
  }
  columns = zip(*found.values(), strict=True)
  assert total == [sum(x or 0 for x in column) for column in columns]


def test_card_has_the_protocols():
  found = {row[0]: row[1:] for row in rows("Protocols")}
  assert found == {
    name: [spec.val.query, spec.val.index, spec.test.query, spec.test.index]
    for name, spec in domains.UNED.items()
  }


def test_card_names_sources_as_the_builder_does():
  instructions = " ".join(
    uned_dataset_builder.Builder.MANUAL_DOWNLOAD_INSTRUCTIONS.split()
  )
  found = {row[0]: row[1] for row in rows("Domains")}
  assert list(found) == list(NAMES)
  for name, source in found.items():
    assert f"{source} ({name})" in instructions
