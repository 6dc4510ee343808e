"""Loss terms against their definition in numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.oracles import losses as oracle
from udon_jax import errors, losses

B = 8


@pytest.mark.parametrize("num_blocks", [1, 2, 4, 8])
def test_relation_distillation(num_blocks):
  rng = np.random.default_rng(1)
  teacher = oracle.unit(rng.normal(size=(B, 5)))
  student = oracle.unit(rng.normal(size=(B, 3)))
  np.testing.assert_allclose(
    losses.relation_distillation(
      jnp.asarray(teacher), jnp.asarray(student), num_blocks=num_blocks
    ),
    oracle.relation_distillation(teacher, student, num_blocks=num_blocks),
    rtol=1e-5,
    atol=1e-12,
  )


def test_no_gradient_reaches_the_teacher():
  rng = np.random.default_rng(0)
  x = jnp.asarray(oracle.unit(rng.normal(size=(B, 6))))
  grad = jax.grad(
    lambda t: losses.relation_distillation(t, x[::-1], num_blocks=1)
  )(x)
  np.testing.assert_array_equal(grad, 0.0)


def test_arcface_gradient_is_finite_at_the_ends():
  cosines = jnp.asarray([[1.0, 0.0], [-1.0, 0.0]])
  targets = np.asarray([[True, False], [True, False]])
  grad = jax.grad(
    lambda x: losses.add_margin(
      x, targets, classifier="arcface", margin=0.5
    ).sum()
  )(cosines)
  assert np.isfinite(grad).all()


def test_weighted_mean():
  weights = dict(zip(losses.TERMS, (1.0, 2.0, 0.0, 1.0), strict=True))
  terms = {name: jnp.float32(i) for i, name in enumerate(losses.TERMS)}
  np.testing.assert_allclose(losses.weighted_mean(terms, weights), 5 / 4)


def test_unknown_margin_is_named():
  with pytest.raises(errors.UserError, match=r"config.loss.classifier='x'"):
    losses.check_classifier("x")


def test_blocks_must_divide_the_batch():
  x = jnp.ones((6, 2))
  with pytest.raises(errors.UserError, match="relation_blocks=4"):
    losses.relation_distillation(x, x, num_blocks=4)
