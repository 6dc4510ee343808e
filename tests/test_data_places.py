"""Where the data of each domain lies, and its protocols."""

import dataclasses
import functools
import logging
import shlex
import shutil
import subprocess
import sys

from etils import epath
import pytest

from tests import command_lines, data_files, own_data
from udon_jax import domains, errors, own_domains
from udon_jax.data import dataset, importing, layout, notes, places, verify
from udon_jax.data.verification import leaks

SPLITS = ("train", "val", "test")
BY_IMAGE = {"by": "image", "val": 0.3, "test": 0.3}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
  """A data directory of a domain of UnED, two with lists, and a described."""
  root = tmp_path_factory.mktemp("data")
  for split in SPLITS:
    data_files.add_split(root, "cars", split, 6)
    data_files.add_split(root, "mine", split, 6)
  data_files.add_split(root, "mine", "test_index", 5)
  source = own_data.add_images(
    root / "source", own_data.by_class({"a": 8, "b": 9, "c": 7})
  )
  own = own_data.describe(folder=str(source), splits=BY_IMAGE)
  data_files.prepare(
    root, domain_names=["cars", "mine", "shoes"], own={"shoes": own}
  )
  return root


def describe(root, **changes):
  given = {"folder": str(root / "source"), "splits": BY_IMAGE} | changes
  return {"shoes": own_data.describe(**given)}


def find(root, *names, own=None, **options):
  return places.find(
    root, domains=names, own=own or {}, info_files=None, **options
  )


def pairs(place):
  return [
    dataclasses.astuple(place.spec.protocol(split))
    for split in domains.EVAL_SPLITS
  ]


def test_domains_of_three_kinds_come_in_their_order(root):
  found = find(root, "mine", "shoes", "cars", own=describe(root))
  assert [place.name for place in found] == ["mine", "shoes", "cars"]
  mine, shoes, cars = found
  assert cars.spec == domains.UNED["cars"]
  assert pairs(mine) == [("val", "val"), ("test", "test_index")]
  assert pairs(shoes) == [("val", "train"), ("test", "train")]
  assert cars.layout.images == mine.layout.images == epath.Path(root / "images")
  assert shoes.layout.images == epath.Path(root / "source")
  assert {place.layout.tfds for place in found} == {epath.Path(root / "tfds")}


def test_a_described_domain_keeps_its_protocols_without_description(root):
  """As for evaluation of other models, which have no config."""
  (with_it,) = find(root, "shoes", own=describe(root))
  (without,) = find(root, "shoes")
  assert without.spec == with_it.spec
  assert without.layout == with_it.layout


def test_records_elsewhere_go_with_the_lists_that_are_named(root, tmp_path):
  """As `prepare --output` leaves them."""
  output = tmp_path / "elsewhere/records"
  shutil.copytree(root / "tfds", output)
  own = describe(root)
  for key in ("--info_files", "config.info_files_dir"):
    with pytest.raises(errors.UserError, match=f"lies elsewhere, by {key}$"):
      places.find(
        output,
        domains=["shoes"],
        own=own,
        info_files=None,
        info_files_key=key,
      )
  (found,) = places.find(
    output, domains=["shoes"], own=own, info_files=root / "info_files"
  )
  assert found.layout.tfds == epath.Path(output)
  assert found.layout.info_files == epath.Path(root / "info_files")
  assert found.layout.images == epath.Path(root / "source")


def test_another_source_is_told(root, caplog, monkeypatch):
  monkeypatch.setattr(logging.getLogger("udon_jax"), "propagate", True)
  find(root, "shoes", own=describe(root))
  find(root, "shoes", own=describe(root, folder=f"{root}/./source/"))
  assert not caplog.records
  find(root, "shoes", own=describe(root, folder=f"{root}/other"))
  assert f"config.own.shoes.folder is {root}/other, but its" in caplog.text
  assert f"made from {root}/source; unless" in caplog.text


def test_protocols_that_are_named_count(root):
  own = describe(root, test=["test", "test"])
  assert pairs(*find(root, "shoes", own=own)) == [
    ("val", "train"),
    ("test", "test"),
  ]


def test_records_may_lie_elsewhere(root, tmp_path):
  own = {"mine": own_data.describe("mine", records=str(root))}
  (found,) = find(tmp_path, "mine", own=own)
  assert found.layout.records("mine", "val") == epath.Path(
    root / "tfds" / "mine" / "val"
  )
  assert pairs(found) == [("val", "val"), ("test", "test_index")]
  assert find(None, "mine", own=own)[0].layout == found.layout
  assert find(tmp_path / "nowhere", "mine", own=own)[0].spec == found.spec


def test_records_keep_their_protocols_unless_they_are_named(root):
  """As lists that `prepare` made for another config tell them."""
  own = {"shoes": own_data.describe(records=str(root))}
  assert pairs(*find(None, "shoes", own=own)) == [
    ("val", "train"),
    ("test", "train"),
  ]
  own = {"shoes": own_data.describe(records=str(root), val=["val", "val"])}
  assert pairs(*find(None, "shoes", own=own)) == [
    ("val", "val"),
    ("test", "train"),
  ]


def test_records_that_moved_are_found_in_the_data_directory(root, tmp_path):
  """As for `evaluate --data`, of a run whose config names the old folder."""
  own = {"mine": own_data.describe("mine", records=str(tmp_path / "old"))}
  (found,) = find(root, "mine", own=own)
  assert found.layout.records("mine", "val") == epath.Path(
    root / "tfds" / "mine" / "val"
  )
  assert pairs(found) == [("val", "val"), ("test", "test_index")]
  (tmp_path / "new").mkdir()
  for place in (tmp_path / "new", None):
    with pytest.raises(errors.UserError, match=r"mine.records=.*old is no fol"):
      find(place, "mine", own=own)


@pytest.mark.parametrize("by", [own_domains.BY_CLASS, own_domains.BY_IMAGE])
def test_what_made_the_splits_is_kept_with_the_lists(root, tmp_path, by):
  assert notes.splits_by(root / "info_files", "shoes") == "image"
  assert notes.splits_by(root / "info_files", "cars") is None
  own = own_data.describe(
    folder=str(root / "source"), splits=BY_IMAGE | {"by": by}
  )
  data_files.prepare(tmp_path, domain_names=["shoes"], own={"shoes": own})
  assert notes.splits_by(tmp_path / "info_files", "shoes") == by
  # Lists alone are enough to know which classes may be shared.
  classes = verify._class_rule(
    verify._made(find(tmp_path, "shoes"), {}), own.spec(frozenset(SPLITS))
  )
  is_new = by == own_domains.BY_CLASS
  assert classes is (leaks.Classes.NEW if is_new else leaks.Classes.TRAINED)


@pytest.mark.parametrize("index", [0, 0.5])
def test_images_that_are_searched_are_not_made_small(root, tmp_path, index):
  """Training resizes to a square; what is searched keeps its aspect."""
  own = own_data.describe(
    folder=str(root / "source"), splits=BY_IMAGE | {"index": index}
  )
  prepare = functools.partial(
    data_files.prepare, tmp_path, domain_names=["shoes"], own={"shoes": own}
  )
  if index:
    prepare(store="jpeg64")
    assert (tmp_path / "tfds/shoes/val_index").exists()
    return
  with pytest.raises(errors.UserError, match=r"--store=jpeg64 .*shoes/train"):
    prepare(store="jpeg64")
  assert not (tmp_path / "tfds").exists()
  prepare(store="original")


def test_names_of_labels_are_those_that_the_lists_were_made_with(
  root, tmp_path
):
  shutil.copytree(root / "info_files", tmp_path / "info_files")
  place = layout.Layout(
    *map(epath.Path, (tmp_path, tmp_path / "tfds", tmp_path / "info_files"))
  )
  names = functools.partial(notes.names_of_labels, place, num_classes=3)
  assert names("shoes") == ("a", "b", "c")
  assert names("cars") is None
  assert notes.names_of_labels(place, "shoes", num_classes=4) is None
  file = place.info_file("shoes", "train")
  file.write_text(file.read_text().replace("\n]", "\n ]"))  # by hand
  assert names("shoes") is None


def test_commands_of_messages_can_be_pasted(tmp_path):
  root = tmp_path / "my data's"
  root.mkdir()
  place = layout.find(root, info_files=tmp_path)
  command = place.prepare("cars").strip("`")
  assert shlex.split(command)[3:] == [
    f"--data_dir={root}",
    f"--info_files={tmp_path}",
    "--domains=cars",
  ]
  with pytest.raises(errors.UserError) as caught:
    layout.find(tmp_path / "no where")
  assert f"--output='{tmp_path}/no where'`" in str(caught.value)


def test_lists_of_uned_may_lie_elsewhere_and_own_ones_stay(root, tmp_path):
  data_files.write_info(tmp_path, "sop", "train", [])
  found = places.find(
    root,
    domains=("cars", "shoes", "sop"),
    own=describe(root),
    info_files=tmp_path / "info_files",
  )
  assert [place.layout.info_files for place in found] == [
    epath.Path(folder) / "info_files" for folder in (tmp_path, root, tmp_path)
  ]


@pytest.mark.parametrize(
  ("names", "changes", "words"),
  [
    ((), {}, "config.domains is empty"),
    (("cars", "mine", "cars"), {}, "names 'cars' twice"),
    (("shoes", "shoes"), {}, "names 'shoes' twice"),
    (("dogs",), {}, r"config.domains: 'dogs' is unknown; known domains: cars"),
    (("../info_files/mine",), {}, "is unknown"),
    (("",), {}, "'' is unknown"),
    (("shoes",), {"splits": BY_IMAGE | {"seed": 3}}, "config.own.shoes.splits"),
    (("shoes",), {"splits": None}, "config.own.shoes.splits is None"),
  ],
)
def test_mistakes_are_named(root, names, changes, words):
  with pytest.raises(errors.UserError, match=words):
    find(root, *names, own=describe(root, **changes))


def test_a_described_domain_is_prepared_first(root, tmp_path):
  with pytest.raises(errors.UserError, match=r"config.own.shoes was not prep"):
    find(tmp_path, "shoes", own=describe(root))
  own = {"bags": own_data.describe("bags", records=str(tmp_path))}
  with pytest.raises(errors.UserError, match=r"config.own.bags: .* no <split>"):
    find(root, "bags", own=own)
  own = {"bags": own_data.describe("bags", records=str(tmp_path / "x"))}
  with pytest.raises(
    errors.UserError, match=r"config.own.bags.records=.* no f"
  ):
    find(root, "bags", own=own)


def test_an_index_of_training_images_has_their_labels(root):
  """The records of a training split have an order of their own."""
  tasks = dataset.load_tasks(
    find(root, "shoes"), eval_batch_size=8, options=data_files.OPTIONS
  )
  (task,) = tasks["test"]()
  assert task.index.name == "train"
  place = own_data.data_dir(root)
  names = notes.class_names(place, "shoes")
  images = [x for batch in task.index.open() for x in batch.images[batch.mask]]
  assert len(images) == len(task.index.keys) == len(task.index.labels)
  for key, (label,), image in zip(
    task.index.keys, task.index.labels, images, strict=True
  ):
    assert key.startswith(f"{names[label]}/")
    data = (root / "source" / key).read_bytes()
    expected = data_files.eval_image(data, crop_size=16, round_pixels=True)
    assert abs(image.astype(int) - expected.numpy().astype(int)).max() <= 1


def test_notes_are_read_without_tensorflow(root):
  """`evaluate --descriptors` needs the protocols, and no TensorFlow."""
  program = f"""
import sys
for name in ("tensorflow", "tensorflow_datasets", "pyarrow"):
  sys.modules[name] = None
from etils import epath
from udon_jax.data import notes
spec = notes.spec_of(epath.Path({str(root / "info_files")!r}), "shoes", key="")
print(spec.test.index)
"""
  done = subprocess.run(
    [sys.executable, "-c", program],
    cwd=command_lines.ROOT,
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.stdout == "train\n", done.stderr


def test_preparing_again_does_nothing(root):
  before = data_files.snapshot(root)
  data_files.prepare(
    root, domain_names=["cars", "mine", "shoes"], own=describe(root)
  )
  data_files.prepare(root, domain_names=None, own=describe(root))
  data_files.prepare(root)  # all that have lists, wherever their images lie
  assert data_files.snapshot(root) == before


def test_names_of_lists_come_sorted(root):
  folder = epath.Path(root / "info_files")
  assert notes.names(folder) == ["cars", "mine", "shoes"]
  assert notes.names(folder / "nowhere") == []
  assert notes.splits_of(folder, "mine") == {*SPLITS, "test_index"}
  assert importing.import_lists(
    describe(root)["shoes"], own_data.data_dir(root)
  ) == notes.with_images(own_data.data_dir(root), "shoes")
