"""How fast records are made, against decoding on one core.

  python -m benchmarks.bench_prepare

One core decodes, and for a store resizes and encodes, images that lie in
memory, one after the other, and writes nothing; so do all cores together, which
is what the machine has to give: processors of a cloud are often half a core.
Preparation reads files, checks them, and writes records with checksums.
"""

from collections.abc import Iterator, Sequence
from concurrent import futures
import pathlib
import shutil
import statistics
import tempfile
import time
from typing import Any

from absl import flags

from benchmarks import common, images
from udon_jax import cli, cpus
from udon_jax.data import formats, jobs, layout, preparation, stores, storing

_HARDWARE = flags.DEFINE_string("hardware", "cpu2", "Named in the result file.")
_REPEATS = flags.DEFINE_integer("repeats", 3, "Rounds.", lower_bound=1)
_IMAGES = flags.DEFINE_integer("num_images", 1500, "To prepare.", lower_bound=1)
STORES = ("original", "jpeg256", "webp256", "raw256")


def run(store: str) -> Iterator[dict[str, Any]]:
  """Yields the row of a store."""
  with tempfile.TemporaryDirectory() as folder:
    root = pathlib.Path(folder)
    images.write_data(
      root,
      ["bench"],
      num_images=_IMAGES.value,
      size=(500, 375),
      store=store,
    )
    photos = [
      (root / "images/bench" / f"train{i}.jpg").read_bytes() for i in range(32)
    ]
    how = stores.parse(store, exif=True, key="--store")

    def one(data):
      if how.format is None:
        formats.decode(data)
      else:
        storing.encode(data, how, split="train")

    cores = cpus.count()
    single, together, prepared = [], [], []
    one(photos[0])
    pool = futures.ThreadPoolExecutor(cores)
    for _ in range(_REPEATS.value):
      begin = time.perf_counter()
      for data in photos:
        one(data)
      single.append(len(photos) / (time.perf_counter() - begin))
      begin = time.perf_counter()
      list(pool.map(one, photos * 4))
      together.append(4 * len(photos) / (time.perf_counter() - begin))
      shutil.rmtree(root / "tfds")
      begin = time.perf_counter()
      preparation.prepare(
        layout.find(root),
        domain_names=["bench"],
        options=jobs.Options(
          num_shards=None, num_workers=cores, seed=0, store=store
        ),
      )
      count = _IMAGES.value + 8
      prepared.append(count / (time.perf_counter() - begin))
  yield {
    "store": store,
    "one_core_images_per_s": statistics.median(single),
    "all_cores_images_per_s": statistics.median(together),
    "prepare_images_per_s": statistics.median(prepared),
    "share_of_cores_times_one": statistics.median(
      p / (cores * s) for p, s in zip(prepared, single, strict=True)
    ),
    "share_of_all_cores": statistics.median(
      p / t for p, t in zip(prepared, together, strict=True)
    ),
  }


def main(_: Sequence[str]) -> None:
  """Measures, prints and writes the table."""
  head = common.header("tensorflow-cpu")
  rows = [row for store in STORES for row in run(store)]
  print(common.markdown(rows))
  print(f"written: {common.write(f'prepare_{_HARDWARE.value}', head, rows)}")


if __name__ == "__main__":
  cli.run(main)
