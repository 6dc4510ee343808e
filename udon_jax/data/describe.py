"""Tells what a config will be trained on.

  python -m udon_jax.data.describe --config=configs/X.py [--config.key=value]

prints, for every domain, images and classes of its splits, how many images a
class has, and who searches whom. `--sheets=DIR` also draws a sheet of sample
images for each, whole and as training sees them (DIR/<domain>.png), and
`--benchmark` measures how fast its images can be read on this machine.
"""

from collections.abc import Sequence

from absl import flags
from etils import epath
import ml_collections
from ml_collections import config_flags

from udon_jax import build, checks, cli, errors, reporting, trained
from udon_jax.data import notes, pipeline, places
from udon_jax.data.description import sheets, speed, statistics

_CONFIG = config_flags.DEFINE_config_file(
  "config", None, "A file of configs/, with an argument after a colon if any."
)
_SHEETS = flags.DEFINE_string("sheets", None, "Folder of the sample sheets.")
_BENCHMARK = flags.DEFINE_bool(
  "benchmark", False, "Whether to measure how fast images can be read."
)
_SECONDS = flags.DEFINE_float(
  "seconds", 5.0, "Time to measure each domain for.", lower_bound=0.1
)


def main(_: Sequence[str]) -> None:
  """Runs the command line."""
  if _CONFIG.value is None:
    raise errors.UserError(
      "--config is missing; for example --config=configs/quickstart.py"
    )
  config = build.with_own_file(_CONFIG.value)
  checks.check(config)
  found = trained.find_places(config)
  for place in found:
    _say(statistics.to_text(place, statistics.of_domain(place)) + "\n")
  sources = trained.load_data(config)[0]
  _say(_summary(config, sources))
  if _SHEETS.value:
    _draw(epath.Path(_SHEETS.value).expanduser(), found, sources)
  if _BENCHMARK.value:
    _benchmark(config, sources)


def _summary(
  config: ml_collections.ConfigDict, sources: Sequence[pipeline.TrainSource]
) -> str:
  """Returns what all domains come to."""
  images = sum(source.num_examples for source in sources)
  classes = sum(source.num_classes for source in sources)
  epoch = max(1, images // config.batch_size)
  return (
    f"all: {len(sources)} domains, {images:,} training images, {classes:,}"
    f" classes; an epoch is {epoch:,} steps of {config.batch_size} images"
  )


def _draw(
  folder: epath.Path,
  found: Sequence[places.Place],
  sources: Sequence[pipeline.TrainSource],
) -> None:
  """Writes a sheet for each domain."""
  reporting.make_folder(folder, key="--sheets")
  for place, source in zip(found, sources, strict=True):
    file = folder / f"{place.name}.png"
    names = notes.class_names(place.layout, place.name)
    sheets.write(sheets.draw(source, names=names), file)
    _say(f"written: {file}")


def _benchmark(
  config: ml_collections.ConfigDict, sources: Sequence[pipeline.TrainSource]
) -> None:
  """Prints how fast images of each domain come."""
  options = sources[0].options
  _say(
    f"reading with {options.num_threads} threads, batches of"
    f" {config.batch_size}:"
  )
  for source in sources:
    result = speed.measure(source, seconds=_SECONDS.value)
    _say(
      f"{source.name:12} {result.images_per_second:8,.0f} images/s,"
      f" {result.images_per_core:6,.0f} images/s/core, first batch after"
      f" {result.first:.2f} s ({source.files.store.name})"
    )


def _say(text: str) -> None:
  print(text)  # noqa: T201 (what was asked for)


if __name__ == "__main__":
  cli.run(main)
