"""Trains: `python -m udon_jax.main --config=configs/X.py --workdir=DIR`.

Run again, the same command continues the run. At the end the best checkpoint
is tested, the table printed, and report.html written.
"""

from collections.abc import Sequence
import logging
import os

from absl import flags
from etils import epath
import jax
from ml_collections import config_flags

from udon_jax import (
  build,
  checks,
  cli,
  compiled,
  errors,
  processes,
  report,
  trained,
  trainer,
)

logger = logging.getLogger("udon_jax.main")  # also when run by `-m`

_CONFIG = config_flags.DEFINE_config_file(
  "config", None, "A file of configs/, with an argument after a colon if any."
)
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run.")
_JOIN = processes.define_flags()
_PRINT_CONFIG = flags.DEFINE_bool(
  "print_config", False, "Prints the resolved config and ends."
)


def main(_: Sequence[str]) -> None:
  """Trains as the flags say."""
  config = _CONFIG.value
  if config is None:
    raise errors.UserError(
      "--config is missing; for example --config=configs/quickstart.py"
    )
  if _PRINT_CONFIG.value:
    print(build.with_own_file(config))  # noqa: T201 (what was asked for)
    return
  if _WORKDIR.value is None:
    raise errors.UserError(
      "--workdir is missing; for example --workdir=runs/quickstart"
    )
  workdir = os.path.expanduser(_WORKDIR.value)
  config = build.with_own_file(config)
  checks.check(config)
  processes.join(_JOIN())
  compiled.keep(jax.default_backend())
  from udon_jax.data import decoders

  # All processes must read the same pixels, and config.json tells which.
  config.data.decoder = decoders.choose(
    config.data.decoder, key="config.data.decoder"
  )
  with processes.main_first("data"):
    sources, tasks = trained.load_data(config)
  trainer.train(config, workdir, sources=sources, tasks=tasks)
  if processes.is_main():
    _report(workdir)
  processes.wait_for_all("end")


def _report(workdir: epath.PathLike) -> None:
  """Writes the report; whatever goes wrong, the training is done."""
  if missing := report.missing_libraries():
    logger.info(
      "%s is left out: %s not installed; %s, then "
      "`python -m udon_jax.report --workdir=%s`",
      report.REPORT_FILE,
      " and ".join(missing),
      report.INSTALL,
      workdir,
    )
    return
  try:
    logger.info("written: %s", report.write(workdir))
  except errors.UserError as error:
    logger.warning("%s could not be written: %s", report.REPORT_FILE, error)
  except Exception:
    logger.warning(
      "%s could not be written; please report this bug",
      report.REPORT_FILE,
      exc_info=True,
    )


if __name__ == "__main__":
  cli.run(main, leave=processes.leave)
