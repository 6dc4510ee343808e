"""Trains: `python -m udon_jax.main --config=configs/X.py --workdir=DIR`.

Run again, the same command continues the run. At the end the best checkpoint
is tested, and the table printed.
"""

from collections.abc import Sequence

from absl import flags
import jax
from ml_collections import config_flags

from udon_jax import checks, cli, errors, trained, trainer

_CONFIG = config_flags.DEFINE_config_file(
  "config", None, "A file of configs/, with an argument after a colon if any."
)
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run.")
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
    print(config)  # noqa: T201 (what was asked for)
    return
  if _WORKDIR.value is None:
    raise errors.UserError(
      "--workdir is missing; for example --workdir=runs/quickstart"
    )
  checks.check(config)
  from udon_jax.data import dataset

  sources, tasks = dataset.load(
    config.data_dir,
    domains=config.domains,
    batch_size=config.batch_size,
    eval_batch_size=config.eval.batch_size,
    seed=config.seed,
    resize_size=config.data.resize_size,
    crop_size=config.data.crop_size,
    num_threads=trained.num_threads(config),
    prefetch=config.data.prefetch,
    process_index=jax.process_index(),
    process_count=jax.process_count(),
  )
  trainer.train(config, _WORKDIR.value, sources=sources, tasks=tasks)


if __name__ == "__main__":
  cli.run(main)
