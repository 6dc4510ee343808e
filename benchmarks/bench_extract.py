"""Extraction from files against the forward pass alone.

  python -m benchmarks.bench_extract --write

Both use one model with random weights, in turn and in one process. "forward"
embeds batches that lie in memory and fetches the results. "extract" is all of
`udon_jax.extract` but the start: it searches the folder, reads and decodes,
embeds, and writes the output. JPEGs are drawn with grain, so that they take as
much decoding as photographs, and lie in the page cache. "decode" reads and
decodes alone. Speeds are medians over the rounds; ratios are medians over the
rounds' own ratios, whose order of variants alternates.
"""

import argparse
import logging
import os
import pathlib
import statistics
import tempfile
import time

import jax
import numpy as np

from benchmarks import common, images
from configs import quickstart, uned_vits16
from udon_jax import build, embedder, trained
from udon_jax.data import files, folders
from udon_jax.extraction import job

# config, images, (width, height)
CASES = {
  "vit_s16 at 224": (uned_vits16, 256, (256, 256)),
  "quickstart's vit_xs16 at 64": (quickstart, 2048, (96, 96)),
  "quickstart's vit_xs16 at 64, larger files": (quickstart, 2048, (256, 256)),
}


def main() -> None:
  """Runs all cases, prints and writes their table."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--repeats", type=int, default=5)
  parser.add_argument("--batch_size", type=int, default=16)
  parser.add_argument("--write", action="store_true", help="keep the results")
  args = parser.parse_args()
  head = common.header("jax", "jaxlib", "numpy", "tensorflow_cpu", "pillow")
  logging.getLogger("udon_jax").setLevel(logging.WARNING)
  rows = []
  for name in CASES:
    with tempfile.TemporaryDirectory() as folder:
      rows += run(name, args=args, folder=pathlib.Path(folder))
    print(common.markdown(rows), flush=True)
  if args.write:
    name = f"extract_{jax.default_backend()}{os.cpu_count()}"
    print("added to", common.write(name, head, rows))


def run(name: str, *, args: argparse.Namespace, folder: pathlib.Path):
  """Returns the rows of one case."""
  module, count, size = CASES[name]
  model = make_model(module.get_config(), args.batch_size)
  draw(folder / "images", count=count, size=size)
  batches = read(model, folders.find(folder / "images"))

  def forward():
    for _ in model.stream(batches):
      pass

  def extract():
    found = folders.find(folder / "images")
    job.extract(model, found, output=folder / "x.npz")

  def decode():
    read(model, folders.find(folder / "images"))

  times = measure(
    {"forward": forward, "extract": extract, "decode": decode},
    repeats=args.repeats,
  )
  rows = []
  for variant, seconds in times.items():
    ratios = np.array(times["forward"]) / np.array(seconds)
    rows.append(
      {
        "case": name,
        "files": f"{size[0]}x{size[1]}",
        "variant": variant,
        "images_per_s": count / statistics.median(seconds),
        "speed_vs_forward": float(np.median(ratios)),
        "lowest": float(ratios.min()),
        "highest": float(ratios.max()),
      }
    )
  return rows


def measure(variants, *, repeats: int) -> dict[str, list[float]]:
  """Returns the seconds of every round, after one that is not counted."""
  times: dict[str, list[float]] = {name: [] for name in variants}
  for repeat in range(repeats + 1):
    # A load that grows or falls slows neither variant more.
    order = list(variants) if repeat % 2 else list(reversed(variants))
    for name in order:
      start = time.perf_counter()
      variants[name]()
      if repeat:
        times[name].append(time.perf_counter() - start)
  return times


def make_model(config, batch_size: int) -> embedder.Embedder:
  """Returns a model with random weights."""
  mesh = build.eval_mesh(config)
  module = build.model(config, len(config.domains))
  size = config.data.crop_size
  params = jax.jit(module.init, static_argnames="train")(
    jax.random.key(0),
    np.zeros((1, size, size, 3), np.uint8),
    np.int32(0),
    train=False,
  )["params"]
  whole = trained.Trained(config, 0, mesh, module, params)
  return embedder.Embedder(
    step=0,
    embedding="student",
    domain=None,
    crop_size=size,
    round_pixels=config.data.round_pixels,
    exif=True,
    batch_size=batch_size,
    num_threads=os.cpu_count() or 1,
    _trained=whole,
    _scorer=whole.evaluator(),
  )


def draw(folder: pathlib.Path, *, count: int, size: tuple[int, int]) -> None:
  """Writes JPEGs."""
  folder.mkdir()
  rng = np.random.default_rng(0)
  photos = [images.photo(rng, size) for _ in range(32)]
  for i in range(count):
    (folder / f"{i:05}.jpg").write_bytes(photos[i % len(photos)])


def read(model: embedder.Embedder, found: folders.Found) -> list[files.Batch]:
  """Returns the images as the model sees them."""
  return list(
    files.read_folder(
      found.folder,
      found.paths,
      start=0,
      crop_size=model.crop_size,
      round_pixels=model.round_pixels,
      exif=model.exif,
      batch_size=model.batch_size,
      num_threads=model.num_threads,
    )
  )


if __name__ == "__main__":
  main()
