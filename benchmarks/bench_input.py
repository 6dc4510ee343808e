"""Images per second and core of the input pipeline, and its memory.

  python -m benchmarks.bench_input [--repeats=5]

Compares, interleaved in one process and on the same images, the order of the
official implementation (sequential reads, float32 normalised on the host,
shuffle buffers of decoded images) with ours (records at keyed offsets, uint8),
from original JPEGs and from images that `prepare --store` resized before.
Measures CPU time of the whole process, so that a busy machine blurs ratios
little. Every measurement begins and ends with all buffers full and all threads
at rest: it holds the work of its own batches and of nothing else. Memory is
that of a process which reads eight domains and does nothing else.
"""

from collections.abc import Iterator, Sequence
import json
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any

from absl import flags
import tensorflow as tf

from benchmarks import common, images
from udon_jax import cli, domains
from udon_jax.data import (
  dataset,
  examples,
  layout,
  pipeline,
  splits,
  stream,
)

_HARDWARE = flags.DEFINE_string("hardware", "cpu2", "Named in the result file.")
_REPEATS = flags.DEFINE_integer("repeats", 5, "Rounds.", lower_bound=1)
_BATCHES = flags.DEFINE_integer("num_batches", 6, "Of a round.", lower_bound=1)
_MEMORY = flags.DEFINE_string(
  "memory", None, "Folder and decoder whose memory this process is to measure."
)

BATCH = 64
THREADS = 2
SIZES = ((500, 375), (1600, 1200))
_MEMORY_BATCH = 128
# (store, decoder)
WAYS = (
  ("original", "tensorflow"),
  ("original", "opencv"),
  ("jpeg256", "tensorflow"),
  ("jpeg256", "opencv"),
  ("webp256", "opencv"),
  ("raw256", "opencv"),
)


def sources(
  root: pathlib.Path, names: Sequence[str], *, decoder: str, batch_size: int
) -> list[pipeline.TrainSource]:
  """Returns training sources."""
  found, _ = dataset.load(
    root,
    domains=[domains.from_splits(name, ()) for name in names],
    batch_size=batch_size,
    eval_batch_size=4,
    seed=0,
    options=stream.Options(
      resize_size=256,
      crop_size=224,
      round_pixels=True,
      num_threads=THREADS,
      decoder=decoder,
    ),
  )
  return found


def official(files: Sequence[Any]) -> Iterator[Any]:
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


def settle() -> None:
  """Waits until the threads of all pipelines have filled their buffers."""
  quiet = 0
  while quiet < 4:
    before = time.process_time()
    time.sleep(0.05)
    quiet = quiet + 1 if time.process_time() - before < 1e-3 else 0


def measure(iterator: Iterator[Any], num_batches: int) -> float:
  """Returns the CPU time of an image, in ms."""
  before = time.process_time()
  for _ in range(num_batches):
    next(iterator)
  settle()
  return (time.process_time() - before) * 1000 / (num_batches * BATCH)


def run(size: tuple[int, int]) -> Iterator[dict[str, Any]]:
  """Yields one row for each way to read images of a size."""
  iterators: dict[tuple[str, str], Iterator[Any]] = {}
  stored: dict[str, float] = {}
  with tempfile.TemporaryDirectory() as folder:
    count = 1024 if size[0] < 1000 else 256
    for store in dict.fromkeys(store for store, _ in WAYS):
      root = pathlib.Path(folder) / store
      images.write_data(
        root, ["bench"], num_images=count, size=size, store=store
      )
      files = splits.open_records(layout.find(root), "bench", "train").files
      stored[store] = sum(file.stat().length for file in files) / count
      if store == "original":
        iterators["official order", ""] = official(files)
    for store, decoder in WAYS:
      root = pathlib.Path(folder) / store
      (source,) = sources(root, ["bench"], decoder=decoder, batch_size=BATCH)
      iterators[store, decoder] = source.open(0)
    times: dict[tuple[str, str], list[float]] = {x: [] for x in iterators}
    for iterator in iterators.values():
      measure(iterator, 4)  # past the buffers' first filling
    for _ in range(_REPEATS.value):
      for way, iterator in iterators.items():
        times[way].append(measure(iterator, _BATCHES.value))
    base = times["official order", ""]
    for (store, decoder), values in times.items():
      cpu = statistics.median(values)
      pairs = [a / b for a, b in zip(base, values, strict=True)]
      yield {
        "image": f"{size[0]}x{size[1]}",
        "from": store,
        "decoder": decoder or "tensorflow",
        "kb_a_record": stored.get(store, stored["original"]) / 1000,
        "cpu_ms_an_image": cpu,
        "images_per_s_per_core": 1000 / cpu,
        "speed_to_official": statistics.median(pairs),
      }
    del iterators


_NAMES = [f"domain{i}" for i in range(8)]


def tell_memory(root: str, decoder: str) -> None:
  """Prints what reading eight domains takes of this process, as JSON."""
  found = sources(
    pathlib.Path(root), _NAMES, decoder=decoder, batch_size=_MEMORY_BATCH
  )
  before = _peak_gb()
  streams = [source.open(0) for source in found]
  begin = time.perf_counter()
  next(streams[0])
  first = time.perf_counter() - begin
  for _ in range(8):
    for each in streams:
      next(each)
  peak = _peak_gb()
  row = {"process_gb": peak, "input_gb": peak - before, "first_batch_s": first}
  print(json.dumps(row))
  del streams


def _peak_gb() -> float:
  """Returns the most memory of this process; getrusage counts its parent's."""
  (line,) = re.findall(
    r"VmHWM:\s+(\d+) kB", pathlib.Path("/proc/self/status").read_text()
  )
  return int(line) / 2**20


def memory() -> Iterator[dict[str, Any]]:
  """Yields the memory of processes that read eight domains."""
  for store, decoder in (
    ("original", "tensorflow"),
    ("original", "opencv"),
    ("raw256", "opencv"),
  ):
    with tempfile.TemporaryDirectory() as folder:
      images.write_data(
        pathlib.Path(folder),
        _NAMES,
        num_images=256,
        size=(500, 375),
        store=store,
      )
      done = subprocess.run(
        [
          sys.executable,
          "-m",
          "benchmarks.bench_input",
          f"--memory={folder},{decoder}",
        ],
        capture_output=True,
        text=True,
        check=True,
      )
    yield {
      "domains": 8,
      "batch": _MEMORY_BATCH,
      "from": store,
      "decoder": decoder,
      **json.loads(done.stdout.splitlines()[-1]),
    }


def main(_: Sequence[str]) -> None:
  """Measures, prints and writes the tables."""
  if _MEMORY.value:
    tell_memory(*_MEMORY.value.split(","))
    return
  head = common.header("tensorflow-cpu", "simplejpeg", "opencv-python-headless")
  rows = [row for size in SIZES for row in run(size)]
  rows += memory()
  print(common.markdown(rows))
  print(f"written: {common.write(f'input_{_HARDWARE.value}', head, rows)}")


if __name__ == "__main__":
  cli.run(main)
