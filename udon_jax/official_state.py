"""The state of a run from a checkpoint of the official code, and back.

Weights alone for a new run (config.pretrained=official:DIR), or everything for
one that goes on (config.resume_from=DIR). Domains are matched by their names.
"""

from collections.abc import Mapping
import logging
from typing import Any

from etils import epath
from flax import traverse_util
import jax
import numpy as np

from udon_jax import build, errors, partitioning, train_state, train_step
from udon_jax import run as runs
from udon_jax.checkpointing import saved_state
from udon_jax.pretrained import official, weights

logger = logging.getLogger(__name__)

KIND = "official"
_MOMENTS = ("mu", "nu")
_ROLES = ("student", "teacher")
_PROJECTIONS = {role: f"{role}_projection" for role in _ROLES}
State = train_state.TrainState


def is_pretrained(spec: str | None) -> bool:
  """Whether config.pretrained names a run of the official code."""
  return spec is not None and spec.startswith(f"{KIND}:")


def load_heads(run: runs.Run, state: State) -> State:
  """Returns a new state with the projections and prototypes of a run.

  The backbone is loaded as that of any other file. What the run does not have,
  or has for another number of classes, stays new.

  Args:
    run: its config.pretrained is "official:DIR".
    state: before the first step.

  Raises:
    UserError: the projections have other widths.
  """
  path = run.config.pretrained.partition(":")[2]
  found = official.open_checkpoint(
    epath.Path(path).expanduser(), number=None, key="config.pretrained"
  )
  ours = run.layout.names
  shared = [name for name in ours if name in found.domains]
  numbers = [found.domains.index(name) for name in shared]
  params, read, new = dict(state.params), [], []
  part = _PROJECTIONS["student"]
  if found.student is None:
    new.append("student")
  else:
    read.append("student")
    params[part] = official.load_projection(
      found, params[part], part=part, domains=()
    )
  part = _PROJECTIONS["teacher"]
  if found.udon and shared:
    params[part] = _put_teachers(
      params[part],
      lambda like: official.load_projection(
        found, like, part=part, domains=numbers
      ),
      rows=[ours.index(name) for name in shared],
    )
  state, prototypes = _put_prototypes(run, state.replace(params=params), found)
  got: dict[tuple[str, ...], list[str]] = {}
  lacks: dict[tuple[str, ...], list[str]] = {}
  for name in ours:
    has = {f"{r} prototypes": (r, name) in prototypes for r in _ROLES}
    has["teacher"] = found.udon and name in shared
    for names, wanted in ((got, True), (lacks, False)):
      parts = tuple(sorted(part for part in has if has[part] == wanted))
      names.setdefault(parts, []).append(name)
  logger.info(
    "%s: besides the backbone: %s; new: %s",
    found.file.path,
    "; ".join(read + _list_parts(got)) or "nothing",
    "; ".join(new + _list_parts(lacks)) or "nothing",
  )
  return state


def _list_parts(names: Mapping[tuple[str, ...], list[str]]) -> list[str]:
  """Returns "cars, met (teacher)", ...; domains of the same parts together."""
  return [
    f"{', '.join(domains)} ({', '.join(parts)})"
    for parts, domains in names.items()
    if parts
  ]


def _put_teachers(stacked: Any, load: Any, *, rows: list[int]) -> Any:
  """Returns stacked projections, some of whose rows are loaded.

  Args:
    stacked: on the devices.
    load: returns host arrays like the tree of shapes that it is given.
    rows: which rows are loaded.
  """
  wanted = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct((len(rows), *x.shape[1:]), x.dtype), stacked
  )
  index = np.asarray(rows)
  return jax.tree.map(
    lambda old, new: jax.jit(
      lambda x, y: x.at[index].set(y), out_shardings=old.sharding
    )(old, new),
    stacked,
    load(wanted),
  )


def _put_prototypes(
  run: runs.Run, state: State, found: official.Checkpoint
) -> tuple[State, set[tuple[str, str]]]:
  """Returns a state with the prototypes of a run, and (role, domain) of these.

  Their moments stay as they are.
  """
  saved = saved_state.from_state(state, layout=run.layout, mesh=run.mesh)
  tables = saved[saved_state.TRAINING]["prototypes"]
  read = set()
  for role, shapes in official.prototype_shapes(found).items():
    for name, (classes, dim) in shapes.items():
      old = tables[role].get(name)
      if old is None or old.shape != (classes, 3, dim):
        continue
      rows = official.load_prototypes(found, role=role, domain=name)
      zeros = np.zeros_like(rows)
      tables[role][name] = jax.device_put(
        np.stack([rows, zeros, zeros], axis=1), old.sharding
      )
      read.add((role, name))
  return (
    saved_state.to_state(saved, layout=run.layout, mesh=run.mesh),
    read,
  )


def restore(run: runs.Run, workdir: epath.PathLike) -> State:
  """Returns the state of the newest checkpoint of the official code.

  Weights, moments, counts and step are the checkpoint's. It tells nothing of
  the sampler and the data, which start as in a new run.

  Args:
    run: what is trained.
    workdir: the folder, for which `official.is_official` is true.

  Raises:
    UserError: it was trained on other domains or classes, its model is another
      one, or it has no state of the official optimizer.
  """
  key = "config.resume_from"
  found = official.open_checkpoint(workdir, number=None, key=key, newest=True)
  _check_same(run, found, workdir)
  moments = official.open_moments(found)
  if moments.heads_count != found.step:
    raise found.error(
      f"is of step {found.step}, but its optimizer made {moments.heads_count} "
      "updates: it is not of one run from its start; use config.pretrained="
      f"{KIND}:{workdir}"
    )
  state = run.init_state()
  numbers = [found.domains.index(name) for name in run.layout.names]
  params = official.load_module(found, state.params, domains=numbers)
  loaded = {
    name: traverse_util.flatten_dict(
      official.load_module(found, state.params, domains=numbers, params=source),
      sep="/",
    )
    for name, source in (("mu", moments.mu), ("nu", moments.nu))
  }
  counts = {
    train_step.BACKBONE: moments.backbone_count,
    train_step.HEADS: moments.heads_count,
  }
  opt_state = {
    group: jax.tree_util.tree_map_with_path(
      lambda path, leaf, count=counts[group]: _optimizer_leaf(
        partitioning.path_name(path), leaf, moments=loaded, count=count
      ),
      tree,
    )
    for group, tree in state.opt_state.items()
  }
  step = jax.device_put(np.asarray(found.step, np.int32), state.step.sharding)
  state = state.replace(params=params, opt_state=opt_state, step=step)
  state = _put_whole_prototypes(run, state, found, moments)
  logger.info(
    "starting from step %d of %s, with its moments; the sampler starts from "
    "its first weights and every domain's images from their first batch, as "
    "the official code saves neither",
    found.step,
    workdir,
  )
  return state


def _check_same(
  run: runs.Run, found: official.Checkpoint, workdir: epath.PathLike
) -> None:
  """Raises a UserError unless a run can go on from a checkpoint."""
  if not found.udon or found.joint:
    what = "has a joint classifier" if found.udon else "is of UnED, not UDON"
    raise found.error(
      f"{what}: no run here can go on from it; use its weights: "
      f"config.pretrained={KIND}:{workdir}"
    )
  shapes = official.prototype_shapes(found)
  theirs = {name: c for name, (c, _) in shapes["teacher"].items()}
  ours = dict(zip(run.layout.names, run.layout.num_classes, strict=True))
  if theirs != ours:
    raise errors.UserError(
      f"config.resume_from={workdir} was trained on (domain, classes) "
      f"{list(theirs.items())}, this run has {list(ours.items())}; use the "
      "same data and config.domains, in any order"
    )
  reader = official.backbone(found)
  weights.check_fits(reader, build.arch(run.config))
  size = run.config.data.crop_size
  if found.image_size != size:
    raise found.error(
      f"is of images of {found.image_size} pixels; set config.data.crop_size="
      f"{found.image_size} (it is {size})"
    )


def _optimizer_leaf(
  name: str, leaf: Any, *, moments: Mapping[str, Any], count: int
) -> Any:
  """Returns a moment or the count in the place of a leaf of our optimizer."""
  for moment in _MOMENTS:
    _, found, path = name.partition(f"/{moment}/")
    if found:
      return moments[moment][path]
  assert name.endswith("/count"), name
  return jax.device_put(np.asarray(count, leaf.dtype), leaf.sharding)


def _put_whole_prototypes(run, state, found, moments) -> State:
  """Returns a state with prototypes and their moments."""
  saved = saved_state.from_state(state, layout=run.layout, mesh=run.mesh)
  tables = saved[saved_state.TRAINING]["prototypes"]
  updated = tables[saved_state.UPDATED]
  tables[saved_state.UPDATED] = jax.device_put(
    np.full(updated.shape, found.step, updated.dtype), updated.sharding
  )
  for role in _ROLES:
    by_name = tables[role]
    for name, old in by_name.items():
      parts = [
        official.load_prototypes(found, role=role, domain=name, params=source)
        for source in (found.params, moments.mu, moments.nu)
      ]
      value = np.stack(parts, axis=1)
      if value.shape != old.shape:
        raise found.error(
          f"has {role} prototypes of {name} of {value.shape[-1]} dimensions, "
          f"the model {old.shape[-1]}"
        )
      by_name[name] = jax.device_put(value, old.sharding)
  return saved_state.to_state(saved, layout=run.layout, mesh=run.mesh)
