"""The form in which a state is saved; it does not depend on the mesh.

Class tables stand by domain, with the padding of the devices cut off, so that
any mesh restores any other's. The module's parameters stand alone, so that who
only embeds reads nothing else.
"""

import dataclasses
import functools
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np

from udon_jax import partitioning, prototypes, train_state

PARAMS, TRAINING = "params", "training"
# Beside the class tables by role: up to which update each domain has come.
UPDATED = "updated"


def from_state(
  state: train_state.TrainState, *, layout: prototypes.Layout, mesh: Mesh
) -> dict[str, Any]:
  """Returns {"params": the module's parameters, "training": all the rest}.

  Args:
    state: on this mesh.
    layout: of its class tables.
    mesh: the mesh.
  """
  fields = _fields(state)
  tables = fields["prototypes"]
  fields["prototypes"] = {
    **_unpack(tables, layout=layout, mesh=mesh),
    UPDATED: tables.updated,
  }
  return _in_parts(fields)


def abstract(
  state: train_state.TrainState, *, layout: prototypes.Layout, mesh: Mesh
) -> dict[str, Any]:
  """Returns shapes and places of what `from_state` returns.

  Args:
    state: shapes and shardings of the state.
    layout: of its class tables.
    mesh: the mesh, which need not be the one that saved.
  """
  fields = _fields(state)
  shapes = jax.eval_shape(
    lambda x: prototypes.unpack(x, layout), fields["prototypes"]
  )
  fields["prototypes"] = {
    **jax.tree.map(
      lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
      shapes,
      _class_shardings(shapes, mesh),
    ),
    UPDATED: fields["prototypes"].updated,
  }
  return _in_parts(fields)


def without_updates(saved: dict[str, Any]) -> dict[str, Any]:
  """Returns the form of a time in which all prototypes were always updated."""
  training = dict(saved[TRAINING])
  tables = training["prototypes"]
  training["prototypes"] = {k: v for k, v in tables.items() if k != UPDATED}
  return {**saved, TRAINING: training}


def to_state(
  saved: dict[str, Any], *, layout: prototypes.Layout, mesh: Mesh
) -> train_state.TrainState:
  """Returns the state on this mesh of what lies as `abstract` says."""
  fields = {PARAMS: saved[PARAMS], **saved[TRAINING]}
  tables, step = fields["prototypes"], fields["step"]
  updated = tables.get(UPDATED)
  if updated is None:
    updated = np.full(len(layout.names), step, np.int32)
  fields["prototypes"] = jax.jit(
    lambda x, n: prototypes.pack(x, n, layout),
    out_shardings=prototypes.shardings(mesh),
  )(tables, updated)
  return train_state.TrainState(**fields)


def _fields(state: train_state.TrainState) -> dict[str, Any]:
  return {f.name: getattr(state, f.name) for f in dataclasses.fields(state)}


def _in_parts(fields: dict[str, Any]) -> dict[str, Any]:
  return {PARAMS: fields.pop(PARAMS), TRAINING: fields}


@functools.partial(jax.jit, static_argnames=("layout", "mesh"))
def _unpack(tables, *, layout, mesh):
  by_domain = prototypes.unpack(tables, layout)
  return jax.lax.with_sharding_constraint(
    by_domain, _class_shardings(by_domain, mesh)
  )


def _class_shardings(shapes, mesh):
  """Cuts saved classes along the embedding, which devices mostly divide."""

  def sharding(x):
    fits = x.shape[-1] % mesh.size == 0
    return NamedSharding(
      mesh, P(None, None, partitioning.AXES if fits else None)
    )

  return jax.tree.map(sharding, shapes)
