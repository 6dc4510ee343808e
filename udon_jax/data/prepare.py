"""Makes records from info files and images.

  python -m udon_jax.data.prepare --data_dir=DIR [--domains=cars,sop]

Reads DIR/info_files/<domain>/<split>.json and DIR/images/, writes
DIR/tfds/<domain>/<split>/ in the layout of the official converter, with
sidecars of offsets. A split is put in place when it is complete, so the
command can be interrupted and run again; splits that are done are left alone.
Image files are stored unchanged.
"""

from collections.abc import Sequence
import os

from absl import flags

from udon_jax import cli
from udon_jax.data import layout, preparation

_DATA_DIR = flags.DEFINE_string(
  "data_dir", None, "Folder with images/ and info_files/."
)
_INFO_FILES = flags.DEFINE_string(
  "info_files", None, "Folder of the info files, if not in --data_dir."
)
_DOMAINS = flags.DEFINE_list(
  "domains", None, "Domains to prepare; all in info_files/ by default."
)
_NUM_SHARDS = flags.DEFINE_integer(
  "num_shards",
  None,
  "Files of a training split; one for each 10,000 images by default.",
  lower_bound=1,
)
_NUM_WORKERS = flags.DEFINE_integer(
  "num_workers",
  None,
  "Threads that read and check images; one for each CPU by default.",
  lower_bound=1,
)
_SEED = flags.DEFINE_integer(
  "seed", 0, "Seed of the order of training images in files.", lower_bound=0
)


def main(argv: Sequence[str]) -> None:
  """Runs the command line."""
  del argv
  place = layout.find(
    _DATA_DIR.value, info_files=_INFO_FILES.value, key="--data_dir"
  )
  preparation.prepare(
    place,
    domain_names=_DOMAINS.value,
    num_shards=_NUM_SHARDS.value,
    num_workers=_NUM_WORKERS.value or os.cpu_count() or 1,
    seed=_SEED.value,
  )


if __name__ == "__main__":
  cli.run(main)
