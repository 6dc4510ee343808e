"""Gigabytes a second at which record files are indexed on first use.

  python -m benchmarks.bench_offsets [--mib=1024] [--repeats=5] [--folder=DIR]

For records of several sizes, interleaved in one process on a file in the page
cache: TensorFlow's own pass over all records (`tf.data.TFRecordDataset`, which
copies and checks every byte), one read of each header and no more, our walk
over the framing (`offsets.rebuild`, which also writes the sidecar), the
sidecar that it leaves (`offsets.load`), and the keys of all records
(`keys.read_all`), which tell whether an evaluation split is in the order of
its info file.
"""

from collections.abc import Sequence
import tempfile

from absl import flags
from etils import epath
import numpy as np
import tensorflow as tf

from benchmarks import common
from udon_jax import cli
from udon_jax.data import examples, keys, offsets, records, storage

_MIB = flags.DEFINE_integer("mib", 1024, "Size of a file.", lower_bound=1)
_REPEATS = flags.DEFINE_integer("repeats", 5, "Rounds.", lower_bound=1)
_FOLDER = flags.DEFINE_string("folder", None, "For the file; the system's.")
_HARDWARE = flags.DEFINE_string("hardware", "cpu2", "Named in the result file.")

SIZES = (4_000, 30_000, 100_000)


def write_file(path, *, size, num_bytes):
  """Writes records of about one size; returns their number."""
  rng = np.random.default_rng(0)
  pool = rng.bytes(2 * size)
  count = num_bytes // size
  with tf.io.TFRecordWriter(str(path)) as writer:
    for i in range(count):
      length = int(size * rng.uniform(0.5, 1.5))
      data = examples.serialize(
        image_bytes=pool[:length], class_ids=[i % 100], key=f"bench/{i:08}.jpg"
      )
      writer.write(data)
  return count


def read_with_tensorflow(path):
  """Returns the number of records that TensorFlow reads.

  In batches: its function for every single record would cost more than they.
  """
  data = tf.data.TFRecordDataset(str(path), buffer_size=2**20).batch(256)
  return int(data.reduce(np.int64(0), lambda n, x: n + tf.size(x, tf.int64)))


def read_headers(path, starts):
  """Reads each header by itself, at places that are known already."""
  reader = storage.PieceReader([path])
  for start in starts[:-1].tolist():
    offsets.header_length(reader.read(0, start, offsets.HEADER_BYTES))
  reader.close()


def measure(folder, *, size, num_bytes, repeats):
  """Yields one result for each way to read records of one size."""
  path = epath.Path(folder) / f"{size}.tfrecord"
  count = write_file(path, size=size, num_bytes=num_bytes)
  total = path.stat().length
  starts = offsets.rebuild(path)
  assert len(starts) == count + 1 == read_with_tensorflow(path) + 1
  opened = records.RecordFiles([path])
  times = common.interleave(
    {
      "TFRecordDataset": lambda: read_with_tensorflow(path),
      "one read a header": lambda: read_headers(path, starts),
      "offsets.rebuild": lambda: offsets.rebuild(path),
      "offsets.load": lambda: offsets.load(path),
      "keys.read_all": lambda: keys.read_all(opened),
    },
    repeats=repeats,
  )
  base = times["TFRecordDataset"]["wall_s"]
  for name, found in times.items():
    yield {
      "record_bytes": size,
      "records": count,
      "way": name,
      "wall_s": found["wall_s"],
      "best_s": found["best_s"],
      "MB_per_s": round(total / found["wall_s"] / 1e6),
      "us_per_record": found["wall_s"] / count * 1e6,
      "speedup": base / found["wall_s"],
    }
  path.unlink()


def main(_: Sequence[str]) -> None:
  """Measures, prints and writes the report."""
  head = common.header("tensorflow-cpu", "numpy", "google-crc32c")
  rows: list[dict] = []
  with tempfile.TemporaryDirectory(dir=_FOLDER.value) as folder:
    for size in SIZES:
      rows += measure(
        folder,
        size=size,
        num_bytes=_MIB.value * 2**20,
        repeats=_REPEATS.value,
      )
  path = common.write(f"offsets_{_HARDWARE.value}", head, rows)
  print(common.markdown(rows))
  print(f"written to {path}")


if __name__ == "__main__":
  cli.run(main)
