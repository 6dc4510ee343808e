"""The class prototypes as separate tables, with autodiff and dense AdamW."""

import jax
import jax.numpy as jnp
import optax

from udon_jax import losses


def unit(x):
  return x / jnp.linalg.norm(x, axis=-1, keepdims=True)


def loss(tables, batch, name, terms):
  """Weighted mean of the three terms over classes, logits materialised."""
  student_cosines = batch.student @ unit(tables["student"][name]).T
  teacher_cosines = batch.teacher @ unit(tables["teacher"][name]).T
  num_classes = student_cosines.shape[1]
  targets = jax.nn.one_hot(batch.labels, num_classes)

  def classification(cosines):
    target = cosines
    if terms.classifier == "cosface":
      target = cosines - terms.margin
    if terms.classifier == "arcface":
      target = jnp.cos(jnp.arccos(cosines) + terms.margin)
    logits = terms.scale * jnp.where(targets > 0, target, cosines)
    smooth = optax.smooth_labels(targets, terms.label_smoothing)
    return optax.softmax_cross_entropy(logits, smooth).mean()

  p = jax.nn.softmax(
    jax.lax.stop_gradient(teacher_cosines) / terms.teacher_temperature
  )
  log_q = jax.nn.log_softmax(student_cosines / terms.student_temperature)
  found = {
    "teacher_classification": classification(teacher_cosines),
    "student_classification": classification(student_cosines),
    "logit_distillation": optax.losses.kl_divergence(log_q, p).mean(),
  }
  total = sum(terms.weights[k] for k in losses.TERMS)
  return sum(terms.weights[k] * v for k, v in found.items()) / total, found


class Oracle:
  """Trains the tables of all domains with dense AdamW."""

  def __init__(self, tables, hyper):
    adamw = optax.adamw(
      # Its count is from 0.
      lambda count: hyper.adamw.schedule(count + 1),
      b1=hyper.adamw.b1,
      b2=hyper.adamw.b2,
      eps=hyper.adamw.eps,
      weight_decay=hyper.adamw.weight_decay,
    )
    self.tables, self._state = tables, adamw.init(tables)

    def step(tables, state, batch, name):
      def whole(tables, student, teacher):
        given = batch._replace(student=student, teacher=teacher)
        return loss(tables, given, name, hyper.terms)

      (_, terms), grads = jax.value_and_grad(
        whole, argnums=(0, 1, 2), has_aux=True
      )(tables, batch.student, batch.teacher)
      updates, state = adamw.update(grads[0], state, tables)
      return optax.apply_updates(tables, updates), state, terms, grads[1:]

    self._step = jax.jit(step, static_argnums=3)

  def step(self, batch, name):
    """Returns the terms and the gradients of student and teacher."""
    self.tables, self._state, terms, grads = self._step(
      self.tables, self._state, batch, name
    )
    return terms, *grads
