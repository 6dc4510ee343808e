"""A new run that starts from the weights of another one of ours.

config.pretrained="udon:WORKDIR": backbone, student and, for the domains that
both have, teachers and prototypes. Other domains start anew, so that domains
can be added to what is trained, or left out. Step, moments, sampler and data
start from the beginning; config.resume_from goes on with them instead.
"""

from collections.abc import Mapping
import contextlib
import logging
import os
from typing import Any

from etils import epath
import jax
import numpy as np

from udon_jax import (
  build,
  checkpointing,
  domains,
  reporting,
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
  named = _same_names(run, meta, workdir)
  state, kept = _put_prototypes(
    run, state.replace(params=params), old, found, foreign=foreign, named=named
  )
  _tell(
    run,
    f"step {step} of {workdir}",
    shared=shared,
    kept=kept,
    assumed=(moved & kept) - named.keys(),
    named={name: len(to) for name, (to, _) in named.items()},
  )
  return state


def _same_names(
  run: runs.Run, meta: checkpointing.Meta, workdir: epath.PathLike
) -> dict[str, tuple[list[int], list[int]]]:
  """Returns labels here and there of the classes with the same names.

  Domains whose classes have no names, here or there, are left out.
  """
  found = {}
  for domain in meta.domains:
    ours = run.class_names.get(domain["name"])
    theirs = reporting.read_class_names(workdir, domain["name"])
    if ours and theirs and len(theirs) == domain["num_classes"]:
      there = {name: label for label, name in enumerate(theirs)}
      to = [label for label, name in enumerate(ours) if name in there]
      of = [there[ours[label]] for label in to]
      found[domain["name"]] = to, of
  return found


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
  run: runs.Run,
  state: State,
  old: runs.Run,
  found: State,
  *,
  foreign: set[str],
  named: Mapping[str, tuple[list[int], list[int]]],
) -> tuple[State, set[str]]:
  """Returns a state with the prototypes of classes that both runs have.

  These are known by their names, or else by their labels, if there are as many;
  those of foreign domains stay new. Moments start anew, as all do.

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
      if rows is None:
        continue
      if name in named:
        to, of = named[name]
      elif rows.shape == new.shape and name not in foreign:
        to = of = list(range(len(new)))
      else:
        continue
      if to:
        tables[role][name] = _put_classes(new, rows, to=to, of=of)
        kept.add(name)
  return saved_state.to_state(saved, layout=run.layout, mesh=run.mesh), kept


def _put_classes(
  new: jax.Array, old: jax.Array, *, to: list[int], of: list[int]
) -> jax.Array:
  """Returns a class table some of whose prototypes come from another."""
  return jax.jit(
    lambda x, y, i, j: x.at[i].set(y[j].at[:, 1:].set(0.0)),
    out_shardings=new.sharding,
  )(new, old, np.array(to), np.array(of))


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
  assumed: set[str],
  named: Mapping[str, int],
) -> None:
  """Says what was read, and what starts anew."""
  groups: dict[str, list[str]] = {"": []}
  counts = run.layout.num_classes
  for name, count in zip(run.layout.names, counts, strict=True):
    if name not in shared:
      what = " (new)"
    elif name not in kept:
      what = " (other classes or data: prototypes are new)"
    elif name in assumed:
      what = " (other data of as many classes, taken to be the same)"
    elif named.get(name, count) < count:
      what = f" ({named[name]:,} of {count:,} classes, by their names)"
    else:
      what = ""
    groups.setdefault(what, []).append(name)
  logger.info(
    "starting from the weights of %s; domains: %s",
    origin,
    "; ".join(f"{', '.join(x)}{what}" for what, x in groups.items() if x),
  )
