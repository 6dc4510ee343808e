"""Small sources of domains of one's own: folders, tables, built data sets."""

import csv
import io
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


FEATURES = tfds.features.FeaturesDict(
  {
    "image": tfds.features.Image(),
    "label": tfds.features.ClassLabel(names=["cat", "dog", "猫"]),
  }
)


def build_tfds(
  folder,
  splits,
  *,
  features=FEATURES,
  name="tiny",
  version="1.0.0",
  num_shards=1,
):
  """Writes a data set of {split: examples} as TensorFlow Datasets does.

  Returns where it lies.
  """
  place = pathlib.Path(folder) / name / version
  place.mkdir(parents=True)
  template = tfds.core.ShardedFileTemplate(
    data_dir=place, dataset_name=name, filetype_suffix="tfrecord"
  )
  infos = []
  for split, examples in splits.items():
    records = [
      features.serialize_example(features.encode_example(example))
      for example in examples
    ]
    shards = [
      x.tolist() for x in np.array_split(range(len(records)), num_shards)
    ]
    for number, shard in enumerate(shards):
      file = f"{name}-{split}.tfrecord-{number:05d}-of-{num_shards:05d}"
      data_files.write_records(place / file, [records[i] for i in shard])
    infos.append(
      tfds.core.SplitInfo(
        name=split,
        shard_lengths=[len(shard) for shard in shards],
        num_bytes=sum(map(len, records)),
        filename_template=template,
      )
    )
  tfds.folder_dataset.write_metadata(
    data_dir=place,
    features=features,
    split_infos=infos,
    filename_template=template,
    check_data=False,
  )
  return place


def example(number, label, **others):
  """Returns an example and its image's bytes."""
  data = data_files.encode(
    number, size=(12, 10), kind=others.pop("kind", "JPEG")
  )
  return {"image": io.BytesIO(data), "label": label, **others}


def lists(place, name):
  """Returns {split: entries} of a domain."""
  return {file.stem: json.loads(file.read_text()) for file in place.lists(name)}


def import_lists(root, **described):
  """Imports a description into a data directory; returns its lists."""
  own = describe(**described)
  return lists(importing.import_lists(own, data_dir(root)), own.name)


def data_dir(root):
  """Returns the layout of a data directory, which is made."""
  pathlib.Path(root).mkdir(parents=True, exist_ok=True)
  return places.of_lists(layout.find(root))
