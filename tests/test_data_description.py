"""`data.describe` tells, in numbers and pictures, what training sees."""

import collections
import json
import subprocess
import sys

import numpy as np
from PIL import Image
import pytest

from tests import data_files
from udon_jax.data import (
  dataset,
  layout,
  notes,
  order,
  places,
)
from udon_jax.data.description import sheets, speed, statistics


@pytest.fixture(scope="module")
def root(tmp_path_factory):
  root = tmp_path_factory.mktemp("data")
  for split, count in (("train", 23), ("val", 5), ("test", 7)):
    data_files.add_split(root, "cars", split, count)
  entries = json.loads((root / "info_files/cars/train.json").read_text())
  for entry in entries[:14]:  # a long tail
    entry["class_id"] = 1
  data_files.write_info(root, "cars", "train", entries)
  data_files.prepare(root)
  return root


@pytest.fixture(scope="module")
def source(root):
  (source,), _ = dataset.load(
    root,
    domains=("cars",),
    batch_size=4,
    eval_batch_size=4,
    seed=3,
    options=data_files.OPTIONS,
  )
  return source


@pytest.mark.parametrize("seed", range(5))
def test_class_numbers_are_those_of_a_plain_count(seed):
  rng = np.random.default_rng(seed)
  labels = np.sort(rng.integers(-1, 30, (200, 3)) ** 2 // 30, axis=1)
  counts = collections.Counter(
    label for row in labels.tolist() for label in row if label >= 0
  )
  found = statistics.class_counts(labels)
  assert found.tolist() == sorted(counts.values())
  largest = sorted(counts.values())[::-1][: -(-len(counts) // 10)]
  assert statistics.head_share(found) == pytest.approx(
    sum(largest) / sum(counts.values())
  )


def test_numbers_of_a_domain(root):
  (place,) = places.find(root, domains=("cars",), own={}, info_files=None)
  train, val, test = statistics.of_domain(place)
  assert [each.name for each in (train, val, test)] == ["train", "val", "test"]
  assert (train.images, train.classes, train.per_class) == (23, 3, (3, 3, 17))
  assert train.few == pytest.approx(2 / 3)
  assert train.head == pytest.approx(17 / 23)
  assert train.store == "original"
  widths = [int(size.split("x")[0]) for size in train.sizes]
  assert widths[0] <= widths[1] <= widths[2] <= 36
  text = statistics.to_text(place, [train, val, test])
  assert text.startswith("cars: val searches itself; test searches itself")
  assert "3 - 3 - 17" in text


def test_a_sheet_shows_what_training_sees(source):
  """Rows beneath the first are those of the stream, at the epoch's place."""
  n, size = source.num_examples, source.options.crop_size
  batches = source.open(0)
  seen = np.concatenate([next(batches).images for _ in range(3 * n // 4 + 1)])
  for epoch in range(3):
    positions = np.arange(epoch * n, min((epoch + 1) * n, len(seen)))
    _, numbers = order.records_at(positions, n, seed=3, domain="cars")
    for position, number in zip(positions[:4], numbers[:4], strict=True):
      np.testing.assert_array_equal(
        source.augmented(int(number), epoch=epoch), seen[position]
      )
  sheet = np.asarray(sheets.draw(source, names=["a", "b", "c"]))
  rng = np.random.default_rng(0)
  chosen = np.sort(rng.choice(n, 8, replace=False))
  for column, record in enumerate(chosen.tolist()):
    left = 4 + column * (size + 4)
    for epoch in range(3):
      top = 16 + 4 + (epoch + 1) * (size + 4)
      np.testing.assert_array_equal(
        sheet[top : top + size, left : left + size],
        source.augmented(record, epoch=epoch),
      )


def test_speed_is_measured(source):
  found = speed.measure(source, seconds=0.2)
  assert found.first > 0
  assert 0 < found.images_per_second < np.inf
  assert found.images_per_core > 0


def test_class_names_are_those_of_the_source(root):
  assert notes.class_names(layout.find(root), "cars") is None


def test_the_command_line(root, tmp_path):
  command = [sys.executable, "-m", "udon_jax.data.describe"]
  config = [
    "--config=configs/quickstart.py",
    f"--config.data_dir={root}",
    "--config.domains=('cars',)",
  ]
  done = subprocess.run(
    [
      *command,
      *config,
      f"--sheets={tmp_path / 'sheets'}",
      "--benchmark",
      "--seconds=0.1",
    ],
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, done.stderr
  assert "all: 1 domains, 23 training images, 3 classes" in done.stdout
  assert "images/s/core" in done.stdout
  with Image.open(tmp_path / "sheets/cars.png") as sheet:
    assert sheet.format == "PNG" and sheet.width > 8 * 64
  done = subprocess.run(command, capture_output=True, text=True, check=False)
  assert done.returncode == 2
  assert done.stderr.splitlines()[-1].startswith("error: --config is missing")


@pytest.mark.parametrize(
  ("name", "title"),
  [("Öl 1", "Öl 1"), ("鞋子", "class 1"), ("обувь", "class 1")],
)
def test_a_class_that_the_font_lacks_is_shown_by_number(name, title):
  assert sheets._title(1, ["x", name]) == title
  assert sheets._title(2, ["x", name]) == "class 2"
  assert sheets._title(1, None) == "class 1"
