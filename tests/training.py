"""Runs steps of the tiny config without files."""

import jax
import jax.numpy as jnp
import numpy as np

from tests import fakes
from udon_jax import partitioning, prototypes, structs
from udon_jax import run as runs


def set_up(config, *, num_devices=None, monkeypatch=None):
  """Returns a run on the first devices."""
  if num_devices is not None:
    devices = jax.devices()[:num_devices]
    monkeypatch.setattr(jax, "devices", lambda: devices)
  return runs.set_up(config, fakes.sources(config))


def take_steps(run, state, domains, *, step_fn=None):
  """Takes a step for each domain id; returns the state and the losses."""
  iters = [s.open(0) for s in fakes.sources(run.config)]
  losses = []
  for domain in domains:
    host = next(iters[domain])
    images, labels = partitioning.put_batch(
      (host.images, host.labels), run.mesh
    )
    before = state.meters.sums["loss"]
    before = float(np.sum(jax.device_get(before)))
    batch = structs.Batch(
      images, labels, partitioning.put_replicated(np.int32(domain), run.mesh)
    )
    state = (step_fn or run.train_step)(state, batch)
    total = float(np.sum(jax.device_get(state.meters.sums["loss"])))
    losses.append(total - before)
  return state, np.asarray(losses)


def lower(run, step_fn=None):
  """Returns a step of a run, lowered for its devices."""
  size, batch = run.config.data.crop_size, run.config.batch_size
  rows = partitioning.batch_sharding(run.mesh)
  whole = partitioning.replicated(run.mesh)

  def shape(dims, dtype, sharding):
    return jax.ShapeDtypeStruct(dims, dtype, sharding=sharding)

  return (step_fn or run.train_step).lower(
    run.abstract_state,
    structs.Batch(
      shape((batch, size, size, 3), jnp.uint8, rows),
      shape((batch,), jnp.int32, rows),
      shape((), jnp.int32, whole),
    ),
  )


def up_to_date(run, state):
  """Returns the prototypes with all domains as of the state's step."""
  return jax.jit(run.prototype_step.bring_up_to_date)(
    state.prototypes, state.step
  )


def with_fitting_prototypes(run, state):
  """Returns a state whose tables are up to date, and empty between domains."""
  return state.replace(
    prototypes=jax.jit(
      lambda x: prototypes.pack(
        prototypes.unpack(x, run.layout),
        jnp.broadcast_to(state.step, x.updated.shape),
        run.layout,
      ),
      out_shardings=prototypes.shardings(run.mesh),
    )(state.prototypes)
  )


def copy(state):
  """Returns a state that a donated one leaves alone."""
  return jax.tree.map(lambda x: x.copy(), state)
