"""How a run is watched: what it writes, how fast it is, at which rates."""

from collections.abc import Sequence
import logging

from etils import epath
import jax
import jax.numpy as jnp

from udon_jax import chips, partitioning, train_step
from udon_jax import run as runs
from udon_jax.logs import overview, progress, wandb_sink, writers

logger = logging.getLogger(__name__)


def open_writer(
  run: runs.Run, workdir: epath.PathLike, *, is_main: bool, step: int
) -> writers.Writer:
  """Opens everything that metrics go to, and writes the table of parameters.

  Args:
    run: the run.
    workdir: its folder.
    is_main: whether this process writes.
    step: the run continues after it.
  """
  others: list[writers.OpenSink] = []
  config = run.config.wandb
  if config.project is not None:
    others.append(
      lambda folder, _: wandb_sink.WandbSink(
        folder,
        project=config.project,
        name=config.name,
        mode=config.mode,
        config=run.meta.config,
      )
    )
  writer = writers.Writer(workdir, is_main=is_main, step=step, others=others)
  if is_main:
    overview.write_parameters(workdir, run.abstract_state, run.layout)
  return writer


def start_clock(run: runs.Run) -> progress.Clock:
  """Tells what steps cost, and returns a clock that knows it."""
  work = run.count_work()
  logger.info("%s", overview.format_work(work))
  devices = run.mesh.devices.flat
  return progress.Clock(
    batch_size=run.config.batch_size,
    step_flops=lambda step: work.of_step(frozen=run.is_frozen(step)),
    num_devices=run.mesh.size,
    peak_flops=chips.peak_flops(devices[0].device_kind),
  )


def learning_rates(
  run: runs.Run, steps: Sequence[int]
) -> dict[int, dict[str, float]]:
  """Returns what is written of the rates that steps use, by step.

  One look at the device serves all steps of a run.
  """
  at = jnp.asarray(steps, jnp.int32)
  rates = partitioning.fetch(
    {
      name: jnp.broadcast_to(jax.vmap(group.schedule)(at), at.shape)
      for name, group in run.optimizer.groups.items()
    }
  )
  lines = {
    step: {f"learning_rate/{name}": float(rates[name][i]) for name in rates}
    for i, step in enumerate(steps)
  }
  for step in steps:
    if step <= run.frozen_steps:
      lines[step][f"learning_rate/{train_step.BACKBONE}"] = 0.0
  return lines
