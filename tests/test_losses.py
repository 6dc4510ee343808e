"""Loss terms against their definition in numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.oracles import losses as oracle
from udon_jax import errors, losses

B, C, D = 8, 13, 6


@pytest.fixture(scope="module")
def data():
  rng = np.random.default_rng(0)
  embeddings = oracle.unit(rng.normal(size=(B, D)))
  classes = oracle.unit(rng.normal(size=(C, D)))
  return embeddings @ classes.T, rng.integers(0, C, B)


def one_hot(labels):
  return np.arange(C)[None] == labels[:, None]


@pytest.mark.parametrize(
  "classifier, margin", [("normface", 0.0), ("cosface", 0.35), ("arcface", 0.5)]
)
@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_classification(data, classifier, margin, label_smoothing):
  cosines, labels = data
  targets = one_hot(labels)
  ours = losses.cross_entropy(
    16.0
    * losses.add_margin(
      jnp.asarray(cosines), targets, classifier=classifier, margin=margin
    ),
    targets,
    valid=np.ones((1, C), bool),
    num_classes=C,
    label_smoothing=label_smoothing,
  )
  logits = oracle.margin_logits(
    cosines, labels, classifier=classifier, margin=margin, scale=16.0
  )
  expected = oracle.cross_entropy(
    logits, labels, label_smoothing=label_smoothing
  )
  np.testing.assert_allclose(ours, expected, rtol=1e-5)


@pytest.mark.parametrize(
  "temperatures", [(0.1, 0.1), (0.05, 0.2), (0.01, 0.01)]
)
def test_logit_distillation(data, temperatures):
  teacher, _ = data
  student = np.roll(teacher, 1, axis=0)
  keys = ("teacher_temperature", "student_temperature")
  given = dict(zip(keys, temperatures, strict=True))
  ours = losses.logit_distillation(
    jnp.asarray(teacher),
    jnp.asarray(student),
    valid=np.ones((1, C), bool),
    **given,
  )
  expected = oracle.logit_distillation(teacher, student, **given)
  np.testing.assert_allclose(ours, expected, rtol=1e-5)


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


def test_padding_changes_nothing(data):
  cosines, labels = data
  padded = np.pad(cosines, ((0, 0), (0, 5)), constant_values=0.9)
  valid = np.arange(C + 5)[None] < C
  targets = np.pad(one_hot(labels), ((0, 0), (0, 5)))

  def loss(x, targets, valid):
    classes = losses.cross_entropy(
      16.0 * x, targets, valid=valid, num_classes=C, label_smoothing=0.1
    )
    return classes + losses.logit_distillation(
      x, x[::-1], valid=valid, teacher_temperature=0.1, student_temperature=0.1
    )

  value, grad = jax.value_and_grad(loss)(jnp.asarray(padded), targets, valid)
  plain, plain_grad = jax.value_and_grad(loss)(
    jnp.asarray(cosines), one_hot(labels), np.ones((1, C), bool)
  )
  np.testing.assert_allclose(value, plain, rtol=1e-6)
  np.testing.assert_allclose(grad[:, :C], plain_grad, atol=1e-6)
  np.testing.assert_array_equal(grad[:, C:], 0.0)


def test_no_gradient_reaches_the_teacher(data):
  cosines, _ = data
  x = jnp.asarray(cosines)
  grad = jax.grad(
    lambda t: (
      losses.logit_distillation(
        t,
        x[::-1],
        valid=np.ones((1, C), bool),
        teacher_temperature=0.1,
        student_temperature=0.1,
      )
      + losses.relation_distillation(t, x, num_blocks=1)
    )
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
