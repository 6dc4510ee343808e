"""Checkpoints: what is kept, in what form, and how it comes back.

The form does not depend on the mesh (class tables by domain, padding cut off),
so any mesh restores any other's. Config and domain table travel with the
weights: a checkpoint folder is all that evaluation and export need.
"""

from collections.abc import Mapping
import contextlib
import dataclasses
import functools
import logging
from typing import Any

from etils import epath
import jax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
import orbax.checkpoint as ocp

from udon_jax import errors, partitioning, prototypes, train_state

logger = logging.getLogger(__name__)

FOLDER = "checkpoints"
# A checkpoint's parts. The module's parameters stand alone, so that who only
# embeds reads nothing else.
_PARAMS, _TRAINING, _META = "params", "training", "meta"


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

  def __init__(self, workdir: epath.PathLike, *, keep_latest: int, best: str):
    """Opens the checkpoints of a workdir.

    Args:
      workdir: the run's folder.
      keep_latest: newest checkpoints kept.
      best: name of the metric whose highest value is kept as well.
    """
    policies = ocp.checkpoint_managers

    def value(metrics):
      return metrics[best]

    self._manager = ocp.CheckpointManager(
      epath.Path(workdir).resolve() / FOLDER,
      options=ocp.CheckpointManagerOptions(
        best_fn=value,
        best_mode="max",
        preservation_policy=policies.AnyPreservationPolicy(
          [
            policies.LatestN(keep_latest),
            policies.BestN(
              get_metric_fn=value,
              n=1,
              keep_checkpoints_without_metrics=False,
            ),
          ]
        ),
      ),
      item_names=(_PARAMS, _TRAINING, _META),
    )

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
    """
    saved = _to_saved(state, layout=layout, mesh=mesh)
    self._manager.save(
      step,
      args=ocp.args.Composite(
        **{
          _PARAMS: ocp.args.StandardSave(saved.pop(_PARAMS)),
          _TRAINING: ocp.args.StandardSave(saved),
          _META: ocp.args.JsonSave(
            {"config": dict(meta.config), "domains": list(meta.domains)}
          ),
        }
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
    """
    target = _abstract_saved(abstract, layout=layout, mesh=mesh)
    restored = self._manager.restore(
      step,
      args=ocp.args.Composite(
        **{
          _PARAMS: ocp.args.StandardRestore(target.pop(_PARAMS)),
          _TRAINING: ocp.args.StandardRestore(target),
        }
      ),
    )
    fields = {_PARAMS: restored[_PARAMS], **restored[_TRAINING]}
    fields["prototypes"] = jax.jit(
      lambda x: prototypes.pack(x, layout),
      out_shardings=prototypes.tables_sharding(mesh),
    )(fields["prototypes"])
    return train_state.TrainState(**fields)

  def restore_params(self, step: int, abstract: Any) -> Any:
    """Returns the module's parameters alone."""
    restored = self._manager.restore(
      step,
      args=ocp.args.Composite(**{_PARAMS: ocp.args.StandardRestore(abstract)}),
    )
    return restored[_PARAMS]

  def restore_meta(self, step: int) -> Meta:
    """Returns what the checkpoint tells of itself."""
    meta = self._manager.restore(
      step, args=ocp.args.Composite(**{_META: ocp.args.JsonRestore()})
    )[_META]
    return Meta(config=meta["config"], domains=tuple(meta["domains"]))

  def check_step(self, step: int | None, workdir: epath.PathLike) -> int:
    """Returns the step to read: the best one, else the newest, if None.

    Raises:
      UserError: there is no checkpoint of that step.
    """
    steps = sorted(self._manager.all_steps())
    if step is None:
      return self.best_step if self.best_step is not None else steps[-1]
    if step not in steps:
      raise errors.UserError(
        f"{workdir} has no checkpoint of step {step}; it has {steps}"
      )
    return step

  def wait(self) -> None:
    """Waits until everything saved is on disk."""
    self._manager.wait_until_finished()

  def close(self) -> None:
    """Waits, and lets the folder go."""
    self._manager.close()


def _fields(state: train_state.TrainState) -> dict[str, Any]:
  return {f.name: getattr(state, f.name) for f in dataclasses.fields(state)}


def _to_saved(state, *, layout, mesh):
  """Returns the state as a dict, its class tables by domain."""
  fields = _fields(state)
  tables = fields["prototypes"]
  fields["prototypes"] = _unpack(tables, layout=layout, mesh=mesh)
  return fields


@functools.partial(jax.jit, static_argnames=("layout", "mesh"))
def _unpack(tables, *, layout, mesh):
  by_domain = prototypes.unpack(tables, layout)
  return jax.lax.with_sharding_constraint(
    by_domain, _class_shardings(by_domain, mesh)
  )


def _abstract_saved(abstract, *, layout, mesh):
  """Returns shapes and shardings of what `_to_saved` makes."""
  fields = _fields(abstract)
  shapes = jax.eval_shape(
    lambda x: prototypes.unpack(x, layout), fields["prototypes"]
  )
  fields["prototypes"] = jax.tree.map(
    lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
    shapes,
    _class_shardings(shapes, mesh),
  )
  return fields


def _class_shardings(shapes, mesh):
  """Cuts saved classes along the embedding, which devices mostly divide."""

  def sharding(x):
    fits = x.shape[-1] % mesh.size == 0
    return NamedSharding(
      mesh, P(None, None, partitioning.AXES if fits else None)
    )

  return jax.tree.map(sharding, shapes)


def restore_from(
  workdir: epath.PathLike,
  abstract: train_state.TrainState,
  *,
  layout: prototypes.Layout,
  mesh: Mesh,
  best: str,
) -> train_state.TrainState:
  """Returns the newest state of another run.

  Raises:
    UserError: the folder holds no checkpoint, or one of other domains.
  """
  with contextlib.closing(open_existing(workdir, best=best)) as checkpointer:
    step = checkpointer.latest_step
    assert step is not None  # or it would not have opened
    found = [
      (d["name"], d["num_classes"])
      for d in checkpointer.restore_meta(step).domains
    ]
    wanted = list(zip(layout.names, layout.num_classes, strict=True))
    if found != wanted:
      raise errors.UserError(
        f"config.resume_from={workdir} was trained on (domain, classes) "
        f"{found}, this run has {wanted}; use the same data and config.domains"
      )
    logger.info("starting from step %d of %s", step, workdir)
    return checkpointer.restore(step, abstract, layout=layout, mesh=mesh)


def open_existing(workdir: epath.PathLike, *, best: str) -> Checkpointer:
  """Opens the checkpoints of a run that must exist.

  Raises:
    UserError: the folder holds no checkpoint.
  """
  if (epath.Path(workdir) / FOLDER).is_dir():
    checkpointer = Checkpointer(workdir, keep_latest=1, best=best)
    if checkpointer.latest_step is not None:
      return checkpointer
    checkpointer.close()
  raise errors.UserError(
    f"{workdir} holds no checkpoint; give the workdir of a run that saved one"
  )
