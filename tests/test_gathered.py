"""Parameters that are cut are gathered a layer at a time, and nothing else."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import fakes
from udon_jax import build, partitioning
from udon_jax import run as runs
from udon_jax.planning import programs

BATCH, TOKENS, WIDTH, HIDDEN, DEPTH = 512, 5, 32, 64, 2


def config_of(data, fsdp, **changes):
  return fakes.changed(
    batch_size=BATCH, mesh__data=data, mesh__fsdp=fsdp, **changes
  )


@pytest.mark.parametrize(
  "name, mesh",
  [
    ("vit_mu8", (2, 4)),
    pytest.param("dinov2reg_mu8", (1, 8), marks=pytest.mark.slow),
  ],
)
def test_gradients_are_those_of_whole_parameters(name, mesh):
  config = fakes.changed(
    model__name=name,
    model__teacher_hidden=(32,),
    mesh__data=mesh[0],
    mesh__fsdp=mesh[1],
  )
  device_mesh = build.mesh(config)
  whole = build.model(config, 3)
  gathered = build.model(config, 3, cut_on=device_mesh)
  images = jnp.asarray(
    np.random.default_rng(0).integers(0, 256, (16, 16, 16, 3)), jnp.uint8
  )
  params = whole.init(jax.random.key(0), images, jnp.int32(1), train=False)[
    "params"
  ]

  def loss(model, params, images):
    out = model.apply({"params": params}, images, jnp.int32(1), train=False)
    return jnp.sum(out.student[:, 0]) + jnp.sum(out.teacher[:, 1] ** 2)

  expected = jax.jit(jax.grad(lambda p, x: loss(whole, p, x)))(params, images)
  places = jax.tree.map(
    lambda x: x.sharding, build.abstract_params(config, whole, device_mesh)
  )
  grads = jax.jit(
    jax.grad(lambda p, x: loss(gathered, p, x)), out_shardings=places
  )(jax.device_put(params, places), partitioning.put_batch(images, device_mesh))
  for (path, x), y in zip(
    jax.tree_util.tree_leaves_with_path(expected),
    jax.tree.leaves(grads),
    strict=True,
  ):
    np.testing.assert_allclose(
      x, y, rtol=2e-4, atol=2e-5, err_msg=jax.tree_util.keystr(path)
    )


@pytest.mark.parametrize(
  "dtype, frozen",
  [
    ("float32", False),
    pytest.param("float32", True, marks=pytest.mark.slow),
    pytest.param("bfloat16", False, marks=pytest.mark.slow),
  ],
)
def test_only_a_layer_and_embeddings_travel(dtype, frozen):
  run = runs.set_up(
    config_of(1, 8, model__dtype=dtype), fakes.sources(fakes.config())
  )
  found = programs.compile_step(run, frozen=frozen).exchanges
  kernel = 4 * WIDTH * HIDDEN  # of the MLP, the largest of a layer
  embeddings = 4 * BATCH * 16  # of the teacher
  activations = 2 * BATCH * TOKENS * WIDTH  # at least, of all images
  gathers = [x for x in found if x.op == "all-gather"]
  assert max(x.bytes for x in gathers) <= max(kernel, embeddings) < activations
  # What is summed are gradients, and what is known of every image.
  params = jax.tree.leaves(run.abstract_state.params)
  module = sum(4 * math.prod(x.shape) for x in params)
  assert max(x.bytes for x in found) <= module < activations
  if dtype == "float32":  # the compiler for CPUs widens others as it likes
    # Every layer's two, in each pass: none is kept for the second.
    passes = 1 if frozen else 2
    count = sum(x.count for x in gathers if x.bytes == kernel)
    assert count == 2 * DEPTH * passes


def test_the_more_devices_cut_the_module_the_less_each_holds():
  def held(data, fsdp):
    config = config_of(data, fsdp, model__name="vit_b8")
    state = runs.set_up(config, fakes.sources(config)).abstract_state
    return partitioning.bytes_per_device((state.params, state.opt_state))

  whole = held(8, 1)
  assert held(2, 4) < whole / 4 * 1.01
  assert held(1, 8) < whole / 8 * 1.02
