"""The class prototypes as separate tables, with autodiff and optax's AdamW."""

import jax
import jax.numpy as jnp
import optax

from udon_jax import losses


def unit(x):
  return x / jnp.linalg.norm(x, axis=-1, keepdims=True)


def loss(tables, student, teacher, labels, name, hyper):
  """Weighted mean of the three terms over classes, logits materialised."""
  student_cosines = student @ unit(tables["student"][name]).T
  teacher_cosines = teacher @ unit(tables["teacher"][name]).T
  num_classes = student_cosines.shape[1]
  targets = jax.nn.one_hot(labels, num_classes)

  def classification(cosines):
    target = cosines
    if hyper.classifier == "cosface":
      target = cosines - hyper.margin
    if hyper.classifier == "arcface":
      target = jnp.cos(jnp.arccos(cosines) + hyper.margin)
    logits = hyper.scale * jnp.where(targets > 0, target, cosines)
    smooth = optax.smooth_labels(targets, hyper.label_smoothing)
    return optax.softmax_cross_entropy(logits, smooth).mean()

  p = jax.nn.softmax(
    jax.lax.stop_gradient(teacher_cosines) / hyper.teacher_temperature
  )
  log_q = jax.nn.log_softmax(student_cosines / hyper.student_temperature)
  terms = {
    "teacher_classification": classification(teacher_cosines),
    "student_classification": classification(student_cosines),
    "logit_distillation": optax.losses.kl_divergence(log_q, p).mean(),
  }
  total = sum(hyper.weights[k] for k in losses.TERMS)
  return sum(hyper.weights[k] * v for k, v in terms.items()) / total, terms


class Oracle:
  """Trains the tables of all domains with dense AdamW."""

  def __init__(self, tables, hyper, rate):
    adamw = optax.adamw(
      rate,
      b1=hyper.b1,
      b2=hyper.b2,
      eps=hyper.eps,
      weight_decay=hyper.weight_decay,
    )
    self.tables, self._state = tables, adamw.init(tables)
    gradient = jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True)

    def step(tables, state, student, teacher, labels, name):
      (_, terms), grads = gradient(
        tables, student, teacher, labels, name, hyper
      )
      updates, state = adamw.update(grads[0], state, tables)
      return optax.apply_updates(tables, updates), state, terms, grads[1:]

    self._step = jax.jit(step, static_argnums=5)

  def step(self, student, teacher, labels, name):
    """Returns the terms and the gradients of student and teacher."""
    self.tables, self._state, terms, grads = self._step(
      self.tables, self._state, student, teacher, labels, name
    )
    return terms, *grads
