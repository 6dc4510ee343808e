"""A new run that starts from the weights of another one of ours.

config.pretrained="udon:WORKDIR": backbone, student and, for the domains that
both have, teachers and prototypes. Other domains start anew, so that domains
can be added to what is trained, or left out. Step, moments, sampler and data
start from the beginning; config.resume_from goes on with them instead.
"""

import contextlib
import logging
import os
from typing import Any

import jax
import numpy as np

from udon_jax import (
  build,
  checkpointing,
  domains,
  structs,
  train_state,
  workdirs,
)
from udon_jax import run as runs
from udon_jax.checkpointing import saved_state
from udon_jax.pretrained import kinds

logger = logging.getLogger(__name__)

_TEACHERS = "teacher_projection"
_ROLES = ("student", "teacher")
State = train_state.TrainState


def is_pretrained(spec: str | None) -> bool:
  """Whether config.pretrained names a run of ours."""
  return spec is not None and spec.startswith(f"{kinds.OF_RUNS}:")


def load(run: runs.Run, state: State) -> State:
  """Returns a new state with the weights of the best checkpoint of a run.

  Args:
    run: its config.pretrained is "udon:WORKDIR".
    state: before the first step.

  Raises:
    UserError: the folder holds no checkpoint, or one of another model.
    DamagedError: the checkpoint is damaged.
  """
  workdir = os.path.expanduser(run.config.pretrained.partition(":")[2])
  with contextlib.closing(
    checkpointing.open_existing(workdir, best=runs.BEST_METRIC)
  ) as checkpointer:
    step = checkpointer.check_step(None, workdir)
    meta = checkpointer.restore_meta(step)
    workdirs.check_same_model(
      run.config.pretrained,
      saved=meta.config,
      given=run.meta.config,
      key="config.pretrained",
    )
    old = _old_run(run, meta)
    found = checkpointer.restore(
      step, old.abstract_state, layout=old.layout, mesh=run.mesh
    )
  found = found.replace(
    prototypes=jax.jit(old.prototype_step.bring_up_to_date, donate_argnums=0)(
      found.prototypes, found.step
    )
  )
  shared = [name for name in run.layout.names if name in old.layout.names]
  params = {
    **found.params,
    _TEACHERS: _put_rows(
      state.params[_TEACHERS],
      found.params[_TEACHERS],
      to=[run.layout.names.index(name) for name in shared],
      of=[old.layout.names.index(name) for name in shared],
    ),
  }
  moved = _moved(run.meta, meta)
  # Nothing tells the classes of other data; those of UnED are the benchmark's.
  foreign = moved - domains.UNED.keys()
  state, kept = _put_prototypes(
    run, state.replace(params=params), old, found, foreign=foreign
  )
  _tell(
    run,
    f"step {step} of {workdir}",
    shared=shared,
    kept=kept,
    moved=moved,
  )
  return state


def _old_run(run: runs.Run, meta: checkpointing.Meta) -> runs.Run:
  """Returns the run of a checkpoint, on the devices of this one."""
  config = build.from_json(meta.config)
  with config.unlocked():
    for key in ("mesh", "batch_size", "grad_accum_steps", "eval"):
      config[key] = run.config[key]  # what the devices must divide
    config.loss.relation_blocks = run.config.loss.relation_blocks
    config.wandb.project = config.model.attention = None
    config.profile_steps = ()
  sources = [structs.ToldSource(**domain) for domain in meta.domains]
  return runs.set_up(config, sources, told=False)


def _put_rows(stacked: Any, found: Any, *, to: list[int], of: list[int]) -> Any:
  """Returns stacked parameters of domains, some of which come from others."""
  if not to:
    return stacked
  return jax.tree.map(
    lambda new, old: jax.jit(
      lambda x, y: x.at[np.asarray(to)].set(y[np.asarray(of)]),
      out_shardings=new.sharding,
    )(new, old),
    stacked,
    found,
  )


def _put_prototypes(
  run: runs.Run, state: State, old: runs.Run, found: State, *, foreign: set[str]
) -> tuple[State, set[str]]:
  """Returns a state with the prototypes of domains of as many classes.

  Those of foreign domains stay new. Moments start anew, as all do.

  Returns:
    The state, and the domains that were kept.
  """
  saved = saved_state.from_state(state, layout=run.layout, mesh=run.mesh)
  theirs = saved_state.from_state(found, layout=old.layout, mesh=run.mesh)
  tables = saved[saved_state.TRAINING]["prototypes"]
  others = theirs[saved_state.TRAINING]["prototypes"]
  kept = set()
  for role in _ROLES:
    for name, new in tables[role].items():
      rows = others[role].get(name)
      if rows is None or rows.shape != new.shape or name in foreign:
        continue
      tables[role][name] = jax.jit(
        lambda x: x.at[:, 1:].set(0.0), out_shardings=new.sharding
      )(rows)
      kept.add(name)
  return saved_state.to_state(saved, layout=run.layout, mesh=run.mesh), kept


def _moved(new: checkpointing.Meta, old: checkpointing.Meta) -> set[str]:
  """Returns the domains whose training data is other data."""
  prints = {each["name"]: each["fingerprint"] for each in old.domains}
  return {
    each["name"]
    for each in new.domains
    if prints.get(each["name"]) != each["fingerprint"]
  }


def _tell(
  run: runs.Run,
  origin: str,
  *,
  shared: list[str],
  kept: set[str],
  moved: set[str],
) -> None:
  """Says what was read, and what starts anew."""
  names = run.layout.names
  parts = {
    "": [name for name in names if name in kept and name not in moved],
    " (other data of as many classes, taken to be the same)": [
      name for name in names if name in kept and name in moved
    ],
    " (other classes or data: prototypes are new)": [
      name for name in shared if name not in kept
    ],
    " (new)": [name for name in names if name not in shared],
  }
  logger.info(
    "starting from the weights of %s; domains: %s",
    origin,
    "; ".join(
      f"{', '.join(found)}{what}" for what, found in parts.items() if found
    ),
  )
