"""Small sources of domains of one's own: folders, tables, built data sets."""

import csv
import json
import pathlib

import numpy as np
import pyarrow as pa
from pyarrow import parquet
import tensorflow_datasets as tfds

from tests import data_files
from udon_jax import own_domains
from udon_jax.data import importing, layout, places


def describe(name="shoes", **described):
  """Returns a description, checked."""
  return own_domains.parse(name, described, key=f"config.own.{name}")


def add_images(folder, paths):
  """Writes an image for each path below a folder; returns the folder."""
  for number, path in enumerate(paths):
    file = pathlib.Path(folder) / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(data_files.encode(number, size=(12, 10)))
  return pathlib.Path(folder)


def by_class(counts):
  """Returns paths <class>/<number>.jpg, as many of each class as is said."""
  return [f"{name}/{i}.jpg" for name, n in counts.items() for i in range(n)]


def write_table(file, rows):
  """Writes rows, mappings of the same keys, in the form of the suffix."""
  file.parent.mkdir(parents=True, exist_ok=True)
  columns = list(dict.fromkeys(key for row in rows for key in row))
  if file.suffix == ".jsonl":
    file.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
  elif file.suffix == ".parquet":
    parquet.write_table(pa.Table.from_pylist(rows), file)
  else:
    with file.open("w", newline="") as opened:
      writer = csv.DictWriter(
        opened, columns, delimiter="\t" if file.suffix == ".tsv" else ","
      )
      writer.writeheader()
      for row in rows:
        writer.writerow(
          {
            key: json.dumps(value) if isinstance(value, list) else value
            for key, value in row.items()
          }
        )
  return file


def build_tfds(folder, splits, *, features=None, name="tiny", version="1.0.0"):
  """Builds a data set of {split: examples}; returns where it lies."""
  features = features or tfds.features.FeaturesDict(
    {
      "image": tfds.features.Image(),
      "label": tfds.features.ClassLabel(names=["cat", "dog", "猫"]),
    }
  )
  return tfds.dataset_builders.store_as_tfds_dataset(
    name=name,
    version=version,
    data_dir=folder,
    features=features,
    split_datasets={
      split: _generate(examples, features) for split, examples in splits.items()
    },
    disable_shuffling=True,
  ).data_path


def _generate(examples, features):
  """Returns examples as store_as_tfds_dataset takes them."""
  return [
    {key: value for key, value in example.items() if key in features}
    for example in examples
  ]


def pixels(number):
  return np.asarray(data_files.pixels(number, size=(12, 10)))


def lists(place, name):
  """Returns {split: entries} of a domain."""
  return {
    file.stem: json.loads(file.read_text()) for file in place.lists(name)
  }


def import_lists(root, **described):
  """Imports a description into a data directory; returns its lists."""
  pathlib.Path(root).mkdir(parents=True, exist_ok=True)
  own = describe(**described)
  place = importing.import_lists(own, places.of_lists(layout.find(root)))
  return lists(place, own.name)
