"""Writes a run's report: `python -m udon_jax.report --workdir=DIR`.

`python -m udon_jax.report --compare DIR DIR ...` puts runs side by side, those
that differ in the seed alone as one group with its mean and spread.
"""

from collections.abc import Sequence
import logging

from absl import flags
from etils import epath

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
  file = _compare(argv[1:]) if _COMPARE.value else _report(argv[1:])
  logger.info("written: %s", file)


def _compare(folders: Sequence[str]) -> epath.Path:
  """Compares the runs of some folders."""
  for flag in (_WORKDIR, _DATA):
    if flag.value is not None:
      raise errors.UserError(
        f"--{flag.name} does not go with --compare; name all folders after it: "
        "--compare DIR DIR ..."
      )
  return report.write_comparison(folders, output=_OUTPUT.value)


def _report(arguments: Sequence[str]) -> epath.Path:
  """Reports one run."""
  if arguments:
    raise errors.UserError(
      f"unexpected argument {arguments[0]!r}; folders follow --compare"
    )
  if _WORKDIR.value is None:
    raise errors.UserError(
      "--workdir is missing; give the folder of a run, or --compare DIR DIR"
    )
  return report.write(
    _WORKDIR.value, output=_OUTPUT.value, data_dir=_DATA.value
  )


if __name__ == "__main__":
  cli.run(main, takes_arguments=True)
