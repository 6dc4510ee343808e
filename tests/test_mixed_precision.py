"""Computing in bfloat16: what is, what is not, and how far off it is."""

import re

import jax
from jax._src.cudnn import fused_attention_stablehlo as cudnn
import jax.numpy as jnp
import numpy as np
import pytest

from tests import fakes, training
from udon_jax import errors
from udon_jax.models import attention


def set_up(**changes):
  with pytest.MonkeyPatch.context() as patch:
    return training.set_up(
      fakes.changed(**changes), num_devices=1, monkeypatch=patch
    )


@pytest.fixture(scope="module")
def runs():
  return {
    dtype: set_up(model__dtype=dtype) for dtype in ("float32", "bfloat16")
  }


def forward(run, params, images):
  return run.evaluator.model.apply(
    {"params": params}, images, jnp.int32(1), train=False
  )


@pytest.fixture(scope="module")
def images():
  rng = np.random.default_rng(0)
  return rng.integers(0, 256, (8, fakes.SIZE, fakes.SIZE, 3)).astype(np.uint8)


def test_products_of_the_blocks_are_bfloat16(runs, images):
  run = runs["bfloat16"]
  params = run.abstract_state.params
  text = str(jax.make_jaxpr(lambda p: forward(run, p, images).backbone)(params))
  products = re.findall(r":(\w+)\[.*?\] = dot_general", text)
  assert products
  # Queries and keys are bfloat16, and what their softmax is taken of is not;
  # nor are the projections of teacher and student.
  assert set(products) == {"bf16", "f32"}
  assert products.count("f32") == 3
  assert re.search(r"f32\[.*\] = exp", text)
  assert not re.search(r"bf16\[.*\] = exp ", text)


def test_parameters_moments_and_embeddings_are_float32(runs, images):
  run = runs["bfloat16"]
  state = run.abstract_state
  kept = (state.params, state.opt_state, state.prototypes, state.meters)
  assert {x.dtype.name for x in jax.tree.leaves(kept)} <= {"float32", "int32"}
  outputs = jax.eval_shape(
    lambda p: forward(run, p, images), run.abstract_state.params
  )
  assert {x.dtype.name for x in jax.tree.leaves(outputs)} == {"float32"}


def test_embeddings_and_gradients_are_near(runs, images):
  params = runs["float32"].init_state().params

  def loss(params, run):
    outputs = forward(run, params, images)
    weights = jnp.linspace(-1.0, 1.0, outputs.student.size)
    return jnp.sum(outputs.student.ravel() * weights)

  found = {
    dtype: (
      jax.jit(lambda p, run=run: forward(run, p, images))(params),
      jax.jit(jax.grad(lambda p, run=run: loss(p, run)))(params),
    )
    for dtype, run in runs.items()
  }
  (exact, exact_grad), (near, near_grad) = found.values()
  for name in ("student", "teacher", "backbone"):
    np.testing.assert_allclose(
      getattr(near, name), getattr(exact, name), atol=0.03
    )
    lengths = np.linalg.norm(getattr(near, name), axis=-1)
    np.testing.assert_allclose(lengths, 1.0, atol=1e-5)
  a, b = (
    np.concatenate([np.ravel(x) for x in jax.tree.leaves(g)])
    for g in (exact_grad, near_grad)
  )
  assert a @ b / np.linalg.norm(a) / np.linalg.norm(b) > 0.99


@pytest.mark.slow
def test_training_follows_float32(runs):
  losses = {
    dtype: training.take_steps(run, run.init_state(), (0, 1, 2) * 10)[1]
    for dtype, run in runs.items()
  }
  np.testing.assert_allclose(
    losses["bfloat16"], losses["float32"], rtol=0.1, atol=0.05
  )


# The kernel of the attention.


@pytest.mark.parametrize(
  "kernel, dtype, head_dim, capability, expected",
  [
    (None, "float32", 64, 0.0, "xla"),
    (None, "bfloat16", 64, 0.0, "xla"),
    (None, "float32", 64, 9.0, "xla"),
    (None, "bfloat16", 64, 7.5, "xla"),
    (None, "bfloat16", 64, 9.0, "cudnn"),
    (None, "bfloat16", 60, 9.0, "xla"),
    ("xla", "bfloat16", 64, 9.0, "xla"),
    ("cudnn", "bfloat16", 64, 8.0, "cudnn"),
  ],
)
def test_kernels_fit(
  monkeypatch, kernel, dtype, head_dim, capability, expected
):
  monkeypatch.setattr(cudnn, "check_cudnn_version", lambda: 91000)
  monkeypatch.setattr(cudnn, "check_compute_capability", lambda _: True)
  assert expected == attention.choose(
    kernel, dtype=dtype, head_dim=head_dim, capability=capability
  )


def test_without_cudnn_there_is_another_kernel(monkeypatch):
  """On a GPU whose machine lacks the library."""
  given = {"dtype": "bfloat16", "head_dim": 64, "capability": 9.0}
  assert attention.choose(None, **given) == "xla"
  with pytest.raises(errors.UserError, match="cudnn is refused by JAX"):
    attention.choose("cudnn", **given)


def test_a_kernel_that_does_not_fit_is_named():
  with pytest.raises(
    errors.UserError, match=r"model.attention=cudnn needs an NVIDIA.*bfloat16"
  ):
    set_up(model__attention="cudnn")


def test_cudnn_is_called_on_gpus(monkeypatch):
  """Lowered for CUDA, where there is none: ViT-B/16's heads and 197 tokens."""
  monkeypatch.setattr(cudnn, "check_cudnn_version", lambda: 91000)
  monkeypatch.setattr(cudnn, "check_compute_capability", lambda _: True)
  shape = jax.ShapeDtypeStruct((2, 197, 12, 64), jnp.bfloat16)
  lowered = (
    jax.jit(attention.make("cudnn"))
    .trace(shape, shape, shape)
    .lower(lowering_platforms=("cuda",))
  )
  assert "cudnn$fmha" in lowered.as_text()
