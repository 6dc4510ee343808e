"""The drawn data set: structure, determinism, resumption, and no shortcuts."""

import collections
import hashlib
import json
import shutil
import subprocess
import sys

import numpy as np
from PIL import Image
import pytest

from udon_jax import domains, errors
from udon_jax.data import synthetic
from udon_jax.data.synthetic import generation, photo


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
  """A set of size smoke, drawn by two processes."""
  folder = tmp_path_factory.mktemp("smoke")
  synthetic.generate(folder, size="smoke", seed=3, num_workers=2)
  return folder


def read_split(folder, domain, split):
  return json.loads((folder / f"info_files/{domain}/{split}.json").read_text())


def class_ids(entries):
  return {c for e in entries for c in np.atleast_1d(e["class_id"]).tolist()}


def digests(folder):
  return {
    str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
    for path in sorted(folder.rglob("*"))
    if path.is_file()
  }


def test_files_depend_on_seed_and_size_only(smoke, tmp_path):
  again, other = tmp_path / "again", tmp_path / "other"
  synthetic.generate(again, size="smoke", seed=3, num_workers=1)
  synthetic.generate(other, size="smoke", seed=4, num_workers=1)
  expected = digests(smoke)
  assert digests(again) == expected
  images = [name for name in expected if name.startswith("images/")]
  changed = digests(other)
  assert all(changed[name] != expected[name] for name in images)


@pytest.mark.parametrize("size", synthetic.SIZES)
def test_domains_and_splits_are_those_of_uned(size):
  plan = synthetic.plan(size)
  assert tuple(plan) == domains.UNED_NAMES
  for name, splits in plan.items():
    assert set(splits) == set(domains.get_domain(name).splits)


@pytest.mark.parametrize("size", ["smoke", "small"])
@pytest.mark.parametrize("name", domains.UNED_NAMES)
def test_labels_follow_uned(name, size):
  splits = {
    split: [{"path": i.path, "class_id": list(i.class_ids)} for i in images]
    for split, images in synthetic.plan(size)[name].items()
  }
  ids = {split: class_ids(entries) for split, entries in splits.items()}
  assert ids["train"] == set(range(len(ids["train"])))
  if name == "met":
    assert ids["val"] | ids["test"] <= ids["train"]
    assert splits["index"] == splits["train"]
    assert ids["val"] <= ids["small_index"] < ids["train"]
    paths = {e["path"] for e in splits["index"]}
    assert {e["path"] for e in splits["small_index"]} < paths
    assert all(len(e["class_id"]) == 1 for e in splits["train"])
    for split in ("val", "test"):
      assert {len(e["class_id"]) for e in splits[split]} == {1, 2}
  else:
    assert not ids["train"] & ids["val"]
    assert not ids["train"] & ids["test"]
    assert not ids["val"] & ids["test"]
    assert ids["val"] | ids["test"] == set(
      range(max(ids["train"]) + 1, max(ids["test"]) + 1)
    )
  if "index" in splits:
    assert ids["test"] <= ids["index"]
  for split in ("val", "test"):
    if domains.get_domain(name).protocol(split).index == split:
      sizes = collections.Counter(e["class_id"][0] for e in splits[split])
      assert min(sizes.values()) >= 2
  every = [e["path"] for s in ("train", "val", "test") for e in splits[s]]
  if name != "met":
    every += [e["path"] for e in splits.get("index", [])]
  assert len(set(every)) == len(every)


@pytest.mark.parametrize("name", ["met", "gldv2"])
def test_most_classes_have_few_images(name):
  images = synthetic.plan("small")[name]["train"]
  sizes = np.array(
    list(collections.Counter(i.class_ids[0] for i in images).values())
  )
  assert np.mean(sizes <= 3) > 0.5
  assert max(sizes) >= 10


def test_sizes_of_domains_and_of_sets_are_ordered():
  totals = [
    sum(len(s["train"]) for s in synthetic.plan(size).values())
    for size in synthetic.SIZES
  ]
  assert totals == sorted(totals)
  classes = {
    name: len({i.class_ids for i in splits["train"]})
    for name, splits in synthetic.plan("small").items()
  }
  assert max(classes, key=classes.get) == "met"
  assert min(classes, key=classes.get) == "cars"


def test_info_files_say_what_the_plan_says(smoke):
  for name, splits in synthetic.plan("smoke").items():
    for split, images in splits.items():
      entries = read_split(smoke, name, split)
      assert [e["path"] for e in entries] == [i.path for i in images]
      for entry, image in zip(entries, images, strict=True):
        assert np.atleast_1d(entry["class_id"]).tolist() == list(
          image.class_ids
        )
        assert entry["path"].startswith(f"{name}/")


def test_images_are_jpegs_of_all_formats(smoke):
  shapes = set()
  for path in (smoke / "images").rglob("*.[jJ]*"):
    with Image.open(path) as image:
      image.load()
      assert image.format == "JPEG"
      assert image.mode in ("RGB", "L")
      assert min(image.size) >= 120
      assert max(image.size) <= 640
      shapes.add(np.sign(image.width - image.height))
  assert shapes == {-1, 0, 1}


def test_some_images_are_grey_and_some_large():
  rng = np.random.default_rng(0)
  image = synthetic.render_image("rp2k", 0, 0)
  modes = collections.Counter(
    Image.open(photo.io.BytesIO(photo.encode(image, rng))).mode
    for _ in range(400)
  )
  assert 0 < modes["L"] < 20
  sides = [
    max(photo._size(rng, (0.4, 0.3, 0.3), wide=False)) for _ in range(500)
  ]
  assert 480 < max(sides) <= 640
  assert np.median(sides) < 260


def test_some_paths_have_spaces_and_other_alphabets():
  paths = [i.path for i in synthetic.plan("smoke")["rp2k"]["train"]]
  assert any(" " in path for path in paths)
  assert any(not path.isascii() for path in paths)


def test_a_complete_set_is_left_alone(smoke, monkeypatch):
  monkeypatch.setattr(generation, "_render_all", None)
  summary = synthetic.generate(smoke, size="smoke", seed=3)
  marker = json.loads((smoke / generation.MARKER).read_text())
  assert summary == marker
  assert marker["domains"]["cars"]["train_classes"] == 6


def test_an_interrupted_run_is_finished(smoke, tmp_path):
  expected = digests(smoke)
  folder = tmp_path / "set"
  shutil.copytree(smoke, folder)
  (folder / generation.MARKER).unlink()
  shutil.rmtree(folder / "info_files")
  images = sorted((folder / "images").rglob("*.jpg"))
  for path in images[::5]:
    path.unlink()
  images[5].with_name(images[5].name + ".part").write_bytes(b"torn")
  images[5].unlink(missing_ok=True)
  synthetic.generate(folder, size="smoke", seed=3, num_workers=1)
  assert digests(folder) == expected


def test_an_interruption_leaves_no_marker(tmp_path, monkeypatch):
  def stop(*unused_args):
    raise KeyboardInterrupt

  monkeypatch.setattr(generation, "_render_chunk", stop)
  with pytest.raises(KeyboardInterrupt):
    synthetic.generate(tmp_path, size="smoke", seed=0, num_workers=1)
  assert not (tmp_path / generation.MARKER).exists()
  with pytest.raises(errors.UserError, match=r"seed 0.*not.*seed 1"):
    synthetic.generate(tmp_path, size="smoke", seed=1)


@pytest.mark.parametrize(
  ("settings", "message"),
  [
    ({"size": "huge"}, "--size=huge.*smoke, small"),
    ({"seed": -1}, "--seed=-1"),
    ({"num_workers": 0}, "--num_workers=0"),
  ],
)
def test_bad_settings_are_refused(tmp_path, settings, message):
  with pytest.raises(errors.UserError, match=message):
    synthetic.generate(tmp_path, **{"size": "smoke", "seed": 0, **settings})
  assert not list(tmp_path.iterdir())


def test_a_directory_with_other_files_is_refused(tmp_path):
  (tmp_path / "thesis.tex").write_text("do not touch")
  with pytest.raises(errors.UserError, match="not empty"):
    synthetic.generate(tmp_path, size="smoke", seed=0)
  assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_file_as_output_is_refused(tmp_path):
  path = tmp_path / "file"
  path.write_text("")
  with pytest.raises(errors.UserError, match="cannot be written"):
    synthetic.generate(path, size="smoke", seed=0)


def test_command_line_refuses_another_set_in_one_line(smoke):
  command = (sys.executable, "-m", "udon_jax.data.synthetic")
  flags = (f"--output={smoke}", "--size=smoke", "--seed=8")
  done = subprocess.run(
    [*command, *flags], capture_output=True, text=True, check=False
  )
  assert done.returncode == 2
  assert done.stderr.startswith(f"error: --output={smoke}")
  assert done.stderr.count("\n") == 1


def test_command_line_skips_a_complete_set(smoke):
  command = (sys.executable, "-m", "udon_jax.data.synthetic")
  flags = (f"--output={smoke}", "--size=smoke", "--seed=3")
  done = subprocess.run(
    [*command, *flags], capture_output=True, text=True, check=False
  )
  assert done.returncode == 0, done.stderr
  assert "complete already" in done.stderr
  assert "complete" in done.stdout


def test_drawing_needs_no_tensorflow_and_no_jax():
  code = (
    "import sys; from udon_jax.data import synthetic;"
    "synthetic.render_image('met', 1, 2);"
    "sys.exit(any(m in sys.modules for m in ('tensorflow', 'jax')))"
  )
  assert (
    subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
  )


@pytest.mark.parametrize("name", domains.UNED_NAMES)
def test_classes_differ_and_pictures_of_a_class_vary(name):
  first = photo.GENERATORS[name].sample(np.random.default_rng(0))
  assert first == photo.GENERATORS[name].sample(np.random.default_rng(0))
  assert first != photo.GENERATORS[name].sample(np.random.default_rng(1))
  one = np.asarray(synthetic.render_image(name, 1, 1))
  assert np.array_equal(one, synthetic.render_image(name, 1, 1))
  two = np.asarray(synthetic.render_image(name, 1, 2))
  assert one.shape != two.shape or not np.array_equal(one, two)


def test_each_domain_has_a_generator_of_its_own():
  generators = [photo.GENERATORS[name] for name in domains.UNED_NAMES]
  assert len({g.__name__ for g in generators}) == 8
  kinds = {type(g.sample(np.random.default_rng(0))) for g in generators}
  assert len(kinds) == 8


def crop(image):
  """The middle of a picture, as evaluation crops it."""
  width, height = image.size
  side = min(image.size)
  left, top = (width - side) // 2, (height - side) // 2
  return image.crop((left, top, left + side, top + side))


def histogram(image):
  """Root of the 8 x 8 x 8 colour histogram."""
  bins = np.asarray(image).reshape(-1, 3).astype(int) // 32
  counts = np.bincount(bins @ (64, 8, 1), minlength=512)
  return np.sqrt(counts / counts.sum())


def pixels(image):
  """Grey 16 x 16 pixels without their mean."""
  grey = np.asarray(crop(image).convert("L").resize((16, 16)), float).ravel()
  grey -= grey.mean()
  return grey / np.linalg.norm(grey)


def recall_at_1(features, labels):
  scores = features @ features.T
  np.fill_diagonal(scores, -np.inf)
  return np.mean(labels[np.argmax(scores, axis=1)] == labels)


def test_colours_and_pixels_do_not_tell_the_class():
  labels = np.repeat(np.arange(30), 2)
  colour, grey = [], []
  for name in domains.UNED_NAMES:
    images = [
      synthetic.render_image(name, label, i) for i, label in enumerate(labels)
    ]
    colour.append(recall_at_1(np.stack([*map(histogram, images)]), labels))
    grey.append(recall_at_1(np.stack([*map(pixels, images)]), labels))
  assert np.mean(colour) < 0.1
  assert np.mean(grey) < 0.65
