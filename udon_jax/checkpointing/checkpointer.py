"""Checkpoints: what is kept, how it is proved whole, and how it comes back.

Config and domain table travel with the weights: a checkpoint folder is all that
evaluation and export need. Checksums of its files travel as well, so that a
checkpoint that a disk has damaged is named and not used. What a state looks
like when it is saved is told in `saved_state`.
"""

import asyncio
from collections.abc import Iterator, Mapping
import contextlib
import dataclasses
import logging
from typing import Any

from etils import epath
import jax
from jax.sharding import Mesh
import orbax.checkpoint as ocp

from udon_jax import (
  disk,
  errors,
  processes,
  prototypes,
  train_state,
)
from udon_jax.checkpointing import checksums, damage, saved_state

logger = logging.getLogger(__name__)

FOLDER = "checkpoints"
_META, _METRICS = "meta", "metrics"
# Orbax gives a save up when it takes long by the clock on the wall, which may
# jump.
_PATIENCE_SECONDS = 10**9


@dataclasses.dataclass(frozen=True)
class Meta:
  """What a checkpoint tells of itself.

  Attributes:
    config: the resolved config of the run.
    domains: {"name", "num_classes", "num_examples", "fingerprint"} of every
      domain, in the order of their ids.
  """

  config: Mapping[str, Any]
  domains: tuple[Mapping[str, Any], ...]


class Checkpointer:
  """Saves and restores the checkpoints of a workdir."""

  def __init__(
    self,
    workdir: epath.PathLike,
    *,
    keep_latest: int,
    best: str,
    read_only: bool = False,
  ):
    """Opens the checkpoints of a workdir.

    Args:
      workdir: the run's folder.
      keep_latest: newest checkpoints kept.
      best: name of the metric whose highest value is kept as well.
      read_only: whether all is left as it is. Otherwise what a killed process
        left half-written is removed.

    Raises:
      DamagedError: the metrics of a checkpoint are damaged, and the folder is
        read only or has no other; otherwise that checkpoint is put aside.
    """
    self._workdir = epath.Path(workdir).resolve()
    self._folder = self._workdir / FOLDER
    damaged = damage.find_unreadable_metrics(self._folder, _METRICS, key=best)
    all_damaged = len(damaged) == len(damage.find_steps(self._folder))
    if damaged and (read_only or all_damaged):
      raise damaged[0][1]
    processes.wait_for_all("metrics")  # all have seen the same
    if processes.is_main():
      for step, error in damaged:
        logger.warning("%s", error)
        damage.put_aside(self._folder / str(step), self._workdir)
    processes.wait_for_all("checkpoints")
    self._manager = ocp.CheckpointManager(
      self._folder,
      options=_options(
        keep_latest,
        best,
        read_only=read_only,
        local="://" not in str(self._folder),
      ),
      item_names=(saved_state.PARAMS, saved_state.TRAINING, _META),
    )

  @property
  def steps(self) -> list[int]:
    """Steps of all checkpoints, in ascending order."""
    return sorted(self._manager.all_steps())

  @property
  def latest_step(self) -> int | None:
    """Step of the newest checkpoint."""
    return self._manager.latest_step()

  @property
  def best_step(self) -> int | None:
    """Step of the checkpoint with the best validation."""
    return self._manager.best_step()

  def save(
    self,
    step: int,
    state: train_state.TrainState,
    *,
    layout: prototypes.Layout,
    mesh: Mesh,
    meta: Meta,
    metrics: Mapping[str, float] | None,
  ) -> None:
    """Saves the state in the background.

    Args:
      step: number of the step.
      state: after that step.
      layout: of its class tables.
      mesh: the mesh on which it lies.
      meta: what travels with the weights.
      metrics: results of the step's validation; None if there was none.

    Raises:
      DiskFullError: there is no space for it, or was none for the last one.
    """
    saved = saved_state.from_state(state, layout=layout, mesh=mesh)
    self.wait()
    if processes.is_main():
      disk.check_space(
        self._workdir, sum(x.nbytes for x in jax.tree.leaves(saved))
      )
    with disk.full_disk_told(self._workdir):
      self._manager.save(
        step,
        args=ocp.args.Composite(
          **{name: ocp.args.StandardSave(part) for name, part in saved.items()},
          **{
            _META: ocp.args.JsonSave(
              {"config": dict(meta.config), "domains": list(meta.domains)}
            )
          },
        ),
        metrics=None if metrics is None else dict(metrics),
        force=True,
      )

  def restore(
    self,
    step: int,
    abstract: train_state.TrainState,
    *,
    layout: prototypes.Layout,
    mesh: Mesh,
  ) -> train_state.TrainState:
    """Returns the state of a checkpoint, laid out for this mesh.

    Args:
      step: number of the checkpoint.
      abstract: shapes and shardings of the state.
      layout: of its class tables on this mesh.
      mesh: the mesh, which need not be the one that saved.

    Raises:
      DamagedError: it cannot be read, or is not what was saved.
    """
    target = saved_state.abstract(abstract, layout=layout, mesh=mesh)
    if not self._tells_updates(step):
      target = saved_state.without_updates(target)
    saved = self._restore_arrays(step, target)
    return saved_state.to_state(saved, layout=layout, mesh=mesh)

  def _tells_updates(self, step: int) -> bool:
    """Whether a checkpoint tells which updates its prototypes had."""
    with self._verified(step, saved_state.TRAINING):
      told = ocp.StandardCheckpointHandler().metadata(
        self._folder / str(step) / saved_state.TRAINING
      )
      return saved_state.UPDATED in told["prototypes"]

  def restore_params(self, step: int, abstract: Any) -> Any:
    """Returns the module's parameters alone; raises a DamagedError."""
    target = {saved_state.PARAMS: abstract}
    return self._restore_arrays(step, target)[saved_state.PARAMS]

  def _restore_arrays(self, step, target):
    """Returns some parts of a checkpoint."""
    with self._verified(step, *target):
      restored = self._manager.restore(
        step,
        args=ocp.args.Composite(
          **{
            name: ocp.args.StandardRestore(part)
            for name, part in target.items()
          }
        ),
      )
      return {name: restored[name] for name in target}

  def restore_meta(self, step: int) -> Meta:
    """Returns what the checkpoint tells of itself; raises a DamagedError."""
    with self._verified(step, _META):
      told = self._manager.restore(
        step, args=ocp.args.Composite(**{_META: ocp.args.JsonRestore()})
      )[_META]
      return Meta(config=told["config"], domains=tuple(told["domains"]))

  def put_aside(self, step: int) -> None:
    """Moves a damaged checkpoint to where nothing looks for one."""
    processes.wait_for_all("damage")  # no other still reads it
    if processes.is_main():
      damage.put_aside(self._folder / str(step), self._workdir)
    processes.wait_for_all("put aside")
    self._manager.reload()

  @contextlib.contextmanager
  def _verified(self, step: int, *parts: str) -> Iterator[None]:
    """Raises a DamagedError where the parts to be read are not as written."""
    folder = self._folder / str(step)
    others = [s for s in self.steps if s != step]

    def find_damage() -> str:
      try:
        with damage.named(folder, others=others):
          for part in parts:
            checksums.verify(folder / part)
      except damage.DamagedError as error:
        return str(error)
      return ""

    if found := processes.decided_by_main(find_damage):
      raise damage.DamagedError(found)
    with damage.named(folder, others=others):
      yield

  def check_step(self, step: int | None, workdir: epath.PathLike) -> int:
    """Returns the step to read: the best one, else the newest, if None.

    Raises:
      UserError: there is no checkpoint of that step.
    """
    if step is None:
      return self.best_step if self.best_step is not None else self.steps[-1]
    if step not in self.steps:
      raise errors.UserError(
        f"{workdir} has no checkpoint of step {step}; it has {self.steps}"
      )
    return step

  def wait(self) -> None:
    """Waits until everything saved is on disk; raises a DiskFullError."""
    with disk.full_disk_told(self._workdir):
      self._manager.wait_until_finished()

  def close(self) -> None:
    """Waits, and lets the folder go; raises a DiskFullError."""
    with disk.full_disk_told(self._workdir):
      self._manager.close()


class _Checksummed(ocp.path.atomicity.AtomicRenameTemporaryPath):
  """A part of a checkpoint, whose files get checksums before it is done."""

  async def finalize(self) -> None:
    """Renames the part in the background, after writing the checksums."""
    if self.get_final().parent.name != FOLDER:  # it is a part, not the whole
      await asyncio.to_thread(checksums.write, self.get())
    await super().finalize()


def _options(keep_latest, best, *, read_only, local):
  """Returns how Orbax keeps the newest and the best."""
  policies = ocp.checkpoint_managers

  def value(metrics):
    return metrics[best]

  kept = [
    policies.LatestN(keep_latest),
    policies.BestN(
      get_metric_fn=value, n=1, keep_checkpoints_without_metrics=False
    ),
  ]
  return ocp.CheckpointManagerOptions(
    best_fn=value,
    best_mode="max",
    preservation_policy=policies.AnyPreservationPolicy(kept),
    async_options=ocp.AsyncOptions(timeout_secs=_PATIENCE_SECONDS),
    cleanup_tmp_directories=not read_only,
    read_only=read_only,
    temporary_path_class=_Checksummed if local else None,
    save_interval_steps=0 if read_only else 1,
  )


def open_existing(workdir: epath.PathLike, *, best: str) -> Checkpointer:
  """Opens the checkpoints of a run that must exist, to read them.

  Raises:
    UserError: the folder holds no checkpoint.
  """
  if (epath.Path(workdir) / FOLDER).is_dir():
    checkpointer = Checkpointer(
      workdir, keep_latest=1, best=best, read_only=True
    )
    if checkpointer.latest_step is not None:
      return checkpointer
    checkpointer.close()
  raise errors.UserError(
    f"{workdir} holds no checkpoint; give the workdir of a run that saved one"
  )
