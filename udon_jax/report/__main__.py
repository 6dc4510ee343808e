"""Writes a run's report: `python -m udon_jax.report --workdir=DIR`.

`python -m udon_jax.report --compare DIR DIR ...` puts runs side by side, those
that differ in the seed alone as one group with its mean and spread.
"""

from collections.abc import Sequence
import logging

from absl import flags

from udon_jax import cli, errors, report

logger = logging.getLogger("udon_jax.report")

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run.")
_COMPARE = flags.DEFINE_bool(
  "compare", False, "Compares runs, whose folders follow: DIR DIR ..."
)
_OUTPUT = flags.DEFINE_string(
  "output",
  None,
  "File to write; <workdir>/report.html by default, of a comparison "
  "compare.html.",
)
_DATA = flags.DEFINE_string(
  "data", None, "The data directory of the run, if it was moved."
)


def main(argv: Sequence[str]) -> None:
  """Reports as the flags say."""
  folders = argv[1:]
  if _WORKDIR.value is None:
    raise errors.UserError(
      "--workdir is missing; give the folder of a run, or --compare DIR DIR"
    )
  file = report.write(
    _WORKDIR.value, output=_OUTPUT.value, data_dir=_DATA.value
  )
  logger.info("written: %s", file)


if __name__ == "__main__":
  cli.run(main)
