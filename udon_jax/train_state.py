"""Everything that a run must remember, as one tree.

Shape legend: n domains.
"""

from collections.abc import Mapping
from typing import Any

from flax import struct
import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from udon_jax import (
  losses,
  partitioning,
  prototypes,
  sampling,
)

METERS = ("loss", *losses.TERMS, "grad_norm")


class Meters(struct.PyTreeNode):
  """Sums of a log window, by domain."""

  sums: dict[str, Float[Array, "n"]]
  counts: Int[Array, "n"]


class TrainState(struct.PyTreeNode):
  """The state of a run after `step` steps."""

  step: Int[Array, ""]
  params: Mapping[str, Any]  # of the module
  opt_state: Mapping[str, Any]  # by group of parameters
  prototypes: prototypes.Prototypes
  sampler: sampling.SamplerState
  meters: Meters
  data_position: Int[Array, "n"]  # batches consumed, by domain
  # Number and domain of the first step that was not finite; 0 if none was.
  failed_step: Int[Array, ""]
  failed_domain: Int[Array, ""]


def init_meters(num_domains: int) -> Meters:
  """Returns empty meters."""
  return Meters(
    sums={name: jnp.zeros(num_domains, jnp.float32) for name in METERS},
    counts=jnp.zeros(num_domains, jnp.int32),
  )


def init(
  key: jax.Array,
  *,
  model: Any,
  optimizer: Any,
  layout: prototypes.Layout,
  sampler_weights: Any,
  image_size: int,
) -> TrainState:
  """Returns the state before the first step.

  Args:
    key: of the parameters.
    model: the module.
    optimizer: an `optim.AdamW`.
    layout: of the class tables.
    sampler_weights: weights of the first window.
    image_size: side of the images.
  """
  model_key, prototype_key = jax.random.split(key)
  images = jnp.zeros((1, image_size, image_size, 3), jnp.uint8)
  params = model.init(model_key, images, jnp.int32(0), train=False)["params"]
  num_domains = len(layout.names)
  return TrainState(
    step=jnp.zeros((), jnp.int32),
    params=params,
    opt_state=optimizer.init(params),
    prototypes=prototypes.init(
      prototype_key,
      layout,
      student_dim=model.student_dim,
      teacher_dim=model.teacher_dim,
    ),
    sampler=sampling.init(sampler_weights),
    meters=init_meters(num_domains),
    data_position=jnp.zeros(num_domains, jnp.int32),
    failed_step=jnp.zeros((), jnp.int32),
    failed_domain=jnp.zeros((), jnp.int32),
  )


def shardings(state: TrainState, mesh: Mesh) -> TrainState:
  """Returns where each array of an (abstract) state lies."""
  whole = partitioning.replicated(mesh)
  everywhere = jax.tree.map(lambda _: whole, state)
  return everywhere.replace(
    params=partitioning.tree_shardings({"module": state.params}, mesh)[
      "module"
    ],
    opt_state=partitioning.tree_shardings(state.opt_state, mesh),
    prototypes=prototypes.shardings(mesh),
  )
