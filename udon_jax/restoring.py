"""The whole state of a run's checkpoint, on the devices of this machine."""

from collections.abc import Mapping
import contextlib
import dataclasses
from typing import Any

from etils import epath
import jax
import ml_collections

from udon_jax import (
  build,
  checkpointing,
  checks,
  semantics,
  structs,
  train_state,
)
from udon_jax import run as runs


@dataclasses.dataclass(frozen=True)
class Saved:
  """A checkpoint of one of our runs.

  Attributes:
    config: of the run, as it was.
    domains: name, classes and images of every domain.
    step: of the checkpoint.
    run: the run, as its state lies on this machine; it trains nothing.
    state: after that step.
  """

  config: ml_collections.ConfigDict
  domains: tuple[Mapping[str, Any], ...]
  step: int
  run: runs.Run
  state: train_state.TrainState


def restore(workdir: epath.PathLike, *, step: int | None) -> Saved:
  """Returns the state of a checkpoint, moments and all.

  Args:
    workdir: the run's folder; nothing in it is changed.
    step: of the checkpoint; the best one if None.

  Raises:
    UserError: there is no such checkpoint, or it is damaged.
  """
  with contextlib.closing(
    checkpointing.open_existing(workdir, best=runs.BEST_METRIC)
  ) as checkpointer:
    step = checkpointer.check_step(step, workdir)
    meta = checkpointer.restore_meta(step)
    config = build.from_json(meta.config)
    checks.check(config)
    run = runs.set_up(
      _anywhere(config, meta), [structs.ToldSource(**d) for d in meta.domains]
    )
    state = checkpointer.restore(
      step, run.abstract_state, layout=run.layout, mesh=run.mesh
    )
  return Saved(config, meta.domains, step, run, state)


def _anywhere(
  config: ml_collections.ConfigDict, meta: checkpointing.Meta
) -> ml_collections.ConfigDict:
  """Returns a config whose state is the same, but that fits any devices."""
  total, _ = semantics.num_steps(
    config, [d["num_examples"] for d in meta.domains]
  )
  config = config.copy_and_resolve_references().unlock()
  config.num_train_steps, config.num_epochs = total, None
  config.frozen_steps = config.frozen_epochs = None
  config.mesh.data, config.mesh.fsdp = -1, 1
  config.grad_accum_steps = config.loss.relation_blocks = 1
  config.batch_size = config.eval.batch_size = jax.device_count()
  config.profile_steps = ()
  config.model.attention = None
  config.wandb.project = None
  return config.lock()
