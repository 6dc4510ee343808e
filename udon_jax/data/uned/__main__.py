"""Command line: builds domains of UnED for TensorFlow Datasets.

  python -m udon_jax.data.uned --manual_dir=DIR --data_dir=OUT [--config=cars]

Does what `tfds build udon_jax/data/uned` does, needs neither Apache Beam nor
the other packages that `tfds` asks for, and says in one line what is wrong. A
domain that was built before is left alone.
"""

from collections.abc import Sequence
import logging
import re
import traceback

from absl import flags
import tensorflow as tf
import tensorflow_datasets as tfds

from udon_jax import cli, domains, errors
from udon_jax.data import counts, layout
from udon_jax.data.uned import uned_dataset_builder

_LOGGER = logging.getLogger("udon_jax.data.uned")
_NAME = re.compile(r"[\w-]+")
_FORMATS = ("tfrecord", "array_record")

_MANUAL_DIR = flags.DEFINE_string(
  "manual_dir", None, "Folder with images/ and info_files/.", required=True
)
_DATA_DIR = flags.DEFINE_string(
  "data_dir",
  None,
  "Folder to write uned/ in.",
  required=True,
)
_CONFIG = flags.DEFINE_list(
  "config", None, "Domains to build; all in info_files/ by default."
)
_FILE_FORMAT = flags.DEFINE_enum(
  "file_format", "tfrecord", _FORMATS, "Format of the records."
)
_DATA_CHECK = flags.DEFINE_enum(
  "data_check", None, counts.CHECKS, "Makes other counts than UnED's an error."
)
_BEAM_OPTIONS = flags.DEFINE_list(
  "beam_pipeline_options",
  [],
  "Builds through Apache Beam, with these options: runner=..., ...",
)


def main(argv: Sequence[str]) -> None:
  """Builds every domain that is asked for."""
  del argv
  place = layout.find(_MANUAL_DIR.value, key="--manual_dir")
  download_config = tfds.download.DownloadConfig(
    manual_dir=place.root, beam_options=_pipeline_options()
  )
  names = _CONFIG.value or _find_domains(place)
  builders = [_find_builder(name) for name in names]
  for builder in builders:
    try:
      builder.download_and_prepare(download_config=download_config)
    except Exception as error:
      _close_bars(error)
      reason = _why_unwritable(error)
      if reason is None:
        raise
      raise errors.UserError(
        f"{builder.data_path} cannot be written ({reason}); make room and a"
        " folder there that you may write to, and run the same command again"
      ) from error
    found = ", ".join(
      f"{split} {images.num_examples:,}"
      for split, images in builder.info.splits.items()
    )
    _LOGGER.info("%s: %s", builder.data_path, found)


def _find_domains(place: layout.Layout) -> Sequence[str]:
  """Returns the names of all domains that have info files."""
  root = place.info_files
  found = []
  if root.is_dir():
    found = sorted(path.name for path in root.iterdir() if path.is_dir())
  if not found:
    raise errors.UserError(
      f"{root} holds no <domain>/<split>.json; copy the info files of the data"
      " set there, or write your own"
    )
  return found


def _close_bars(error: BaseException | None) -> None:
  """Ends the progress bars of what failed, which would go over its message."""
  while error is not None:
    traceback.clear_frames(error.__traceback__)
    error = error.__cause__


def _why_unwritable(error: BaseException | None) -> str | None:
  """Returns what a file system said, from under what was made of it."""
  while error is not None and not isinstance(error, errors.UserError):
    if isinstance(error, OSError):
      return error.strerror or str(error)
    if isinstance(error, tf.errors.OpError):
      return error.message
    if "No space left" in str(error):  # ArrayRecord's own errors have no type
      return "No space left on device"
    error = error.__cause__
  return None


def _find_builder(name: str) -> tfds.core.DatasetBuilder:
  """Returns the builder of a domain.

  Raises:
    UserError: it has no name for a folder, or was built in another format.
  """
  if not _NAME.fullmatch(name):
    raise errors.UserError(
      f"--config={name}: a domain's name has letters, digits, _ and - alone"
    )
  known = name in domains.UNED
  config = name if known else tfds.core.BuilderConfig(name=name)
  found = uned_dataset_builder.Builder(config=config, data_dir=_DATA_DIR.value)
  if found.is_prepared():
    there = found.info.file_format.value
    if there != _FILE_FORMAT.value:
      raise errors.UserError(
        f"{found.data_path} holds {there} already; delete it, choose another"
        f" --data_dir, or pass --file_format={there}"
      )
  return uned_dataset_builder.Builder(
    config=config,
    data_dir=_DATA_DIR.value,
    file_format=_FILE_FORMAT.value,
    data_check=_DATA_CHECK.value,
  )


def _pipeline_options():
  """Returns options of Apache Beam, where there are any."""
  if not _BEAM_OPTIONS.value:
    return None
  try:
    from apache_beam.options import pipeline_options  # noqa: PLC0415 (optional)
  except ImportError:
    raise errors.UserError(
      "--beam_pipeline_options: apache_beam is not installed; install the extra"
      " `beam`, or leave the flag out"
    ) from None
  return pipeline_options.PipelineOptions(
    flags=[f"--{option}" for option in _BEAM_OPTIONS.value]
  )


if __name__ == "__main__":
  cli.run(main)
