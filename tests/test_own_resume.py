"""A run goes on exactly, whatever its data was made from and stored as."""

import itertools
import json

import pytest

from tests import data_files, fakes, own_data
from udon_jax import errors, trained, trainer
from udon_jax.data import decoders, pipeline

SPLITS = {"by": "image", "val": 0.25, "test": 0.25, "index": 0.5}
CLASSES = {f"{i}": 16 for i in range(3)}
# More batches than the first checkpoint holds, fewer than the second.
BEFORE_THE_END = 7


@pytest.fixture(scope="module")
def described(tmp_path_factory):
  """Descriptions of domains from a folder, a table and a built data set."""
  root = tmp_path_factory.mktemp("sources")
  paths = own_data.by_class(CLASSES)
  own_data.add_images(root / "photos", paths)
  own_data.write_table(
    root / "bags.csv",
    [{"path": path, "label": path.partition("/")[0]} for path in paths],
  )
  labels = [i % 3 for i in range(48)]
  own_data.build_tfds(
    root / "built",
    {"train": [own_data.example(i, label) for i, label in enumerate(labels)]},
  )
  sources = {
    "shoes": {"folder": str(root / "photos")},
    "bags": {"table": str(root / "bags.csv"), "images": str(root / "photos")},
    "gloves": {"tfds": "tiny", "tfds_dir": str(root / "built")},
  }
  return {name: each | {"splits": SPLITS} for name, each in sources.items()}


def make_config(root, own, decoder):
  config = fakes.changed(
    data_dir=str(root),
    domains=tuple(own),
    data__resize_size=64,
    data__crop_size=56,
    data__decoder=decoder,
  )
  with config.unlocked():
    config.own = own
  return config


def train(config, workdir):
  sources, tasks = trained.load_data(config)
  trainer.train(config, workdir, sources=sources, tasks=tasks)


def written(workdir):
  """Returns what a run wrote, but for what depends on the clock."""
  lines = (workdir / "metrics.jsonl").read_text().splitlines()
  metrics = [
    {key: value for key, value in json.loads(line).items() if "/" not in key}
    for line in lines
  ]
  return metrics, json.loads((workdir / "results.json").read_text())


@pytest.mark.slow
@pytest.mark.parametrize("decoder", [decoders.TENSORFLOW, decoders.OPENCV])
@pytest.mark.parametrize("store", ["original", "jpeg64", "webp64", "raw64"])
def test_interrupted_it_ends_as_if_it_had_not_been(
  described, tmp_path, monkeypatch, store, decoder
):
  config = make_config(tmp_path / "data", described, decoder)
  (tmp_path / "data").mkdir()
  data_files.prepare(
    tmp_path / "data",
    domain_names=tuple(described),
    own=trained.own(config),
    store=store,
  )
  train(config, tmp_path / "whole")
  taken = itertools.count()
  real = pipeline.TrainSource.open

  def breaking(self, start):
    for batch in real(self, start):
      if next(taken) == BEFORE_THE_END:
        raise errors.UserError("the disk vanished")
      yield batch

  with monkeypatch.context() as patch:
    patch.setattr(pipeline.TrainSource, "open", breaking)
    with pytest.raises(errors.UserError, match="vanished"):
      train(config, tmp_path / "parts")
  assert not (tmp_path / "parts" / "results.json").exists()
  train(config, tmp_path / "parts")
  assert written(tmp_path / "parts") == written(tmp_path / "whole")
