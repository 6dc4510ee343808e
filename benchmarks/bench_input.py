"""Images per second and core of the input pipeline.

  python benchmarks/bench_input.py [--repeats=5] [--output=FILE.jsonl]

Compares, interleaved in one process and on the same records, the order of the
official implementation (sequential reads, float32 normalised on the host,
shuffle buffers of decoded images) with ours (records at keyed offsets, uint8).
Measures CPU time of the whole process, so that a busy machine blurs ratios
little. Every measurement begins and ends with all buffers full and all threads
at rest: it holds the work of its own batches and of nothing else.
"""

import argparse
import io
import json
import os
import pathlib
import platform
import statistics
import subprocess
import tempfile
import time

import numpy as np
from PIL import Image
import tensorflow as tf

from udon_jax.data import examples, pipeline, records, stream

BATCH = 64
THREADS = 2


def photo(rng, size):
  """A JPEG of about the size of a photograph's: shapes, slopes and grain."""
  coarse = rng.integers(0, 256, (12, 16, 3)).astype(np.uint8)
  image = Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)
  grain = rng.normal(0, 9, (size[1], size[0], 1))
  pixels = np.clip(np.asarray(image) + grain, 0, 255).astype(np.uint8)
  buffer = io.BytesIO()
  Image.fromarray(pixels).save(buffer, "JPEG", quality=90)
  return buffer.getvalue()


def write_records(folder, *, num_images, size):
  """Writes four shards; returns them and the mean size of an image."""
  rng = np.random.default_rng(0)
  images = [photo(rng, size) for _ in range(64)]
  files = [folder / f"{i}.tfrecord" for i in range(4)]
  for number, file in enumerate(files):
    with tf.io.TFRecordWriter(str(file)) as writer:
      for i in range(number, num_images, len(files)):
        data = examples.serialize(
          image_bytes=images[i % 64], class_ids=[i % 10], key=str(i)
        )
        writer.write(data)
  return files, sum(map(len, images)) / len(images)


def official(files):
  """The official order; its 16 shuffled batches are cut to 2 for start-up."""
  features = examples.IMAGE_FEATURE | examples.LABEL_FEATURE

  def process(record):
    parsed = tf.io.parse_single_example(record, features)
    image = tf.io.decode_jpeg(parsed["image_bytes"], channels=3)
    image = tf.image.resize(image, [256, 256])
    image = tf.image.random_crop(image, [224, 224, 3])
    image = tf.image.random_flip_left_right(image)
    return (image / 255.0 - 0.5) / 0.5, parsed["class_id"]

  data = tf.data.Dataset.from_tensor_slices([str(file) for file in files])
  data = data.shuffle(1000).interleave(
    tf.data.TFRecordDataset, cycle_length=4, num_parallel_calls=THREADS
  )
  data = data.map(process, num_parallel_calls=THREADS).repeat()
  data = data.shuffle(256).batch(BATCH, drop_remainder=True).shuffle(2)
  options = tf.data.Options()
  options.threading.private_threadpool_size = THREADS
  options.threading.max_intra_op_parallelism = 1
  options.deterministic = False
  return data.prefetch(2).with_options(options).as_numpy_iterator()


def ours(files):
  """Our training stream."""
  source = pipeline.TrainSource(
    "bench",
    num_classes=10,
    fingerprint="",
    files=records.RecordFiles(files),
    batch_size=BATCH,
    seed=0,
    options=stream.Options(
      resize_size=256, crop_size=224, round_pixels=True, num_threads=THREADS
    ),
  )
  return source.open(0)


def settle():
  """Waits until the threads of all pipelines have filled their buffers."""
  quiet = 0
  while quiet < 4:
    before = time.process_time()
    time.sleep(0.05)
    quiet = quiet + 1 if time.process_time() - before < 1e-3 else 0


def measure(iterator, num_batches):
  """Returns the CPU time of an image, in ms."""
  before = time.process_time()
  for _ in range(num_batches):
    next(iterator)
  settle()
  return (time.process_time() - before) * 1000 / (num_batches * BATCH)


def run(size, *, repeats, num_batches, folder):
  """Yields one result for each pipeline at one size of images."""
  files, mean_bytes = write_records(folder, num_images=2048, size=size)
  iterators = {"official order": official(files), "ours": ours(files)}
  times: dict[str, list[float]] = {name: [] for name in iterators}
  for iterator in iterators.values():
    measure(iterator, 4)  # past the buffers' first filling
  for _ in range(repeats):
    for name, iterator in iterators.items():
      times[name].append(measure(iterator, num_batches))
  for name, values in times.items():
    cpu = statistics.median(values)
    yield {
      "pipeline": name,
      "image": f"{size[0]}x{size[1]}",
      "jpeg_bytes": round(mean_bytes),
      "cpu_ms_per_image": round(cpu, 3),
      "images_per_s_per_core": round(1000 / cpu),
      "cpu_ms_all": [round(value, 3) for value in values],
    }


def environment():
  """What the figures were taken on."""
  commit = subprocess.run(
    ["git", "rev-parse", "--short", "HEAD"],
    capture_output=True,
    text=True,
    check=False,
  ).stdout.strip()
  return {
    "commit": commit,
    "python": platform.python_version(),
    "tensorflow": tf.__version__,
    "cpus": os.cpu_count(),
    "load": os.getloadavg(),
    "machine": platform.processor() or platform.machine(),
  }


def main():
  """Prints one JSON object a line: the environment, then the results."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--repeats", type=int, default=5)
  parser.add_argument("--num_batches", type=int, default=6)
  parser.add_argument("--output", type=pathlib.Path)
  args = parser.parse_args()
  lines = [environment()]
  for size in ((500, 375), (256, 256)):
    with tempfile.TemporaryDirectory() as folder:
      lines += run(
        size,
        repeats=args.repeats,
        num_batches=args.num_batches,
        folder=pathlib.Path(folder),
      )
  text = "".join(json.dumps(line) + "\n" for line in lines)
  print(text, end="")
  if args.output:
    args.output.write_text(text)


if __name__ == "__main__":
  main()
