"""Makes records from info files and images.

  python -m udon_jax.data.prepare --data_dir=DIR [--domains=cars,sop]
  python -m udon_jax.data.prepare --config=configs/X.py [--config.key=value]

Reads DIR/info_files/<domain>/<split>.json and DIR/images/, writes
DIR/tfds/<domain>/<split>/ in the layout of the official converter, with
sidecars of offsets. Domains that the config describes (`config.own`) get their
info files first. A split is put in place when it is complete; killed, the same
command goes on after the last 10,000 images, and splits that are done are left
alone. Image files are stored unchanged, or resized once: `--store`.
"""

from collections.abc import Mapping, Sequence
import dataclasses

from absl import flags
from etils import epath
import ml_collections
from ml_collections import config_flags

from udon_jax import (
  build,
  checks,
  cli,
  cpus,
  errors,
  own_domains,
  reporting,
  semantics,
  trained,
)
from udon_jax.data import jobs, layout, preparation

_DATA_DIR = flags.DEFINE_string(
  "data_dir", None, "Folder with images/ and info_files/."
)
_CONFIG = config_flags.DEFINE_config_file(
  "config", None, "A config, which says where the data is and which domains."
)
_OUTPUT = flags.DEFINE_string(
  "output", None, "Folder of the records, if not tfds/ of the data directory."
)
_STORE = flags.DEFINE_string(
  "store",
  None,
  "How records hold images: original (the default), jpeg256, webp256, raw256.",
)
_EXIF = flags.DEFINE_bool(
  "exif",
  None,
  "Whether images that are resized are turned as their EXIF orientation tells;"
  " by default as the config does, or as they were before, or yes.",
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
  config = _read_config()
  options = jobs.Options(
    num_shards=_NUM_SHARDS.value,
    num_workers=_NUM_WORKERS.value or cpus.count(),
    seed=_SEED.value,
    store=_STORE.value,
    exif=_honours_exif(config),
  )
  own = trained.own(config) if config else {}
  names = _DOMAINS.value or (config and tuple(config.domains))
  preparation.prepare(
    _find_place(config, own), domain_names=names, own=own, options=options
  )


def _read_config() -> ml_collections.ConfigDict | None:
  """Returns the config, checked; None if none is given."""
  if _CONFIG.value is None:
    return None
  for name, value in (
    ("data_dir", _DATA_DIR.value),
    ("info_files", _INFO_FILES.value),
  ):
    if value is not None:
      raise errors.UserError(
        f"--{name}={value} is what --config tells; leave one of the two out"
        f" (--config.data_dir, --config.info_files_dir)"
      )
  config = build.with_own_file(_CONFIG.value)
  checks.check(config)
  return config


def _honours_exif(config: ml_collections.ConfigDict | None) -> bool | None:
  if _EXIF.value is not None or config is None:
    return _EXIF.value
  return semantics.honours_exif(config)


def _find_place(
  config: ml_collections.ConfigDict | None,
  own: Mapping[str, own_domains.OwnDomain],
) -> layout.Layout:
  """Returns where the data lies, or will lie, if it is made of own domains."""
  data_dir = config.data_dir if config else _DATA_DIR.value
  info_files = config.info_files_dir if config else _INFO_FILES.value
  if own and data_dir:
    reporting.make_folder(
      epath.Path(data_dir).expanduser(), key="config.data_dir"
    )
  place = layout.find(
    data_dir,
    info_files=info_files,
    key="config.data_dir" if config else "--data_dir",
    info_files_key="config.info_files_dir" if config else "--info_files",
  )
  if _OUTPUT.value is None:
    return place
  output = epath.Path(_OUTPUT.value).expanduser()
  return dataclasses.replace(place, tfds=output)


if __name__ == "__main__":
  cli.run(main)
