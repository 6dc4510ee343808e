"""Records as the official converter makes them: nothing beside them.

Training images are shuffled and each goes to a shard drawn for it, so that a
shard may stay empty; evaluation images lie in one file, in the order of the
info file. Source: the UnED repository, convert_to_tfrecord_from_file.py.
"""

import json
import pathlib
import random

import tensorflow as tf


def feature(**values):
  """Returns a map of features from bytes, integers or floats."""
  kinds = {
    bytes: lambda v: tf.train.Feature(bytes_list=tf.train.BytesList(value=v)),
    int: lambda v: tf.train.Feature(int64_list=tf.train.Int64List(value=v)),
    float: lambda v: tf.train.Feature(float_list=tf.train.FloatList(value=v)),
  }
  return {name: kinds[type(v[0])](v) for name, v in values.items()}


def example(image_bytes, class_id, key):
  """Returns a serialized record."""
  ids = class_id if isinstance(class_id, list) else [class_id]
  features = feature(
    image_bytes=[image_bytes], class_id=ids, key=[key.encode()]
  )
  return tf.train.Example(
    features=tf.train.Features(feature=features)
  ).SerializeToString()


def records(root, domain, split):
  """Returns the records of an info file, in its order."""
  root = pathlib.Path(root)
  file = root / "info_files" / domain / f"{split}.json"
  return [
    example(
      (root / "images" / entry["path"]).read_bytes(),
      entry["class_id"],
      entry["path"],
    )
    for entry in json.loads(file.read_text())
  ]


def place(root, domain, split):
  """Returns the file of a split, which shards add their numbers to."""
  return (
    pathlib.Path(root) / "tfds" / domain / split / f"{domain}.{split}.tfrecord"
  )


def write(file, contents):
  """Writes one file."""
  file.parent.mkdir(parents=True, exist_ok=True)
  with tf.io.TFRecordWriter(str(file)) as writer:
    for content in contents:
      writer.write(content)


def write_shards(file, contents, *, num_shards, seed=0):
  """Writes shuffled records, each into a random shard; returns the files."""
  drawn = random.Random(seed)
  contents = list(contents)
  drawn.shuffle(contents)
  parts = [[] for _ in range(num_shards)]
  for content in contents:
    parts[drawn.randint(0, num_shards - 1)].append(content)
  files = []
  for i, part in enumerate(parts):
    files.append(file.with_name(f"{file.name}-{i:05}-of-{num_shards:05}"))
    write(files[-1], part)
  return files


def convert(root, domain, *, splits, num_shards=4, seed=0):
  """Converts the splits of a domain."""
  for split in splits:
    file, contents = place(root, domain, split), records(root, domain, split)
    if split == "train":
      write_shards(file, contents, num_shards=num_shards, seed=seed)
    else:
      write(file, contents)


def read(root, domain, split):
  """Returns what the official code reads: all that begins with the name."""
  pattern = str(place(root, domain, split)) + "*"
  files = tf.data.Dataset.list_files(pattern, shuffle=False)
  return list(tf.data.TFRecordDataset(files).as_numpy_iterator())
