"""The official formulation of a step, the baseline of benchmarks.

A program for every domain, layers written out, all logits at once, autodiff
through everything also while the backbone is frozen, and AdamW over the
classifiers of all domains in every step.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from tests.oracles import prototypes as oracle
from udon_jax import build, losses, prototypes
from udon_jax import run as runs


class Plain:
  """Steps of one domain, as the official code takes them."""

  def __init__(self, run: runs.Run, domain: int = 0):
    """Prepares the steps of a domain.

    Args:
      run: whose model, losses and rates these are; its layers are written out
        as its config.model.unroll says.
      domain: its number.
    """
    self._run, self._domain = run, domain
    config = run.config
    self._model = build.model(config, len(run.layout.names))
    adamw = config.optimizer
    self._optimizer = optax.adamw(
      adamw.learning_rate,
      b1=adamw.b1,
      b2=adamw.b2,
      eps=adamw.eps,
      weight_decay=adamw.weight_decay,
    )
    self.step = jax.jit(self._step, donate_argnums=0)

  def make(self) -> Any:
    """Returns parameters, tables of all domains, and their moments."""
    params = self._run.init_state().params
    hyper = self._run.prototype_step.hyper
    tables = {
      role: {
        name: 0.1 * jax.random.normal(jax.random.key(i), (classes, dim))
        for i, (name, classes) in enumerate(
          zip(self._run.layout.names, self._run.layout.num_classes, strict=True)
        )
      }
      for role, dim in (
        ("student", hyper.student_dim),
        ("teacher", hyper.teacher_dim),
      )
    }
    trained = (params, tables)
    return trained, self._optimizer.init(trained)

  def loss(self, trained: Any, batch: Any) -> Any:
    """Returns the loss of a batch."""
    params, tables = trained
    outputs: Any = self._model.apply(
      {"params": params}, batch.images, jnp.int32(self._domain), train=True
    )
    terms = self._run.prototype_step.hyper.terms
    embedded = prototypes.Batch(
      outputs.student, outputs.teacher, batch.labels, batch.domain, jnp.int32(1)
    )
    name = self._run.layout.names[self._domain]
    over_classes, _ = oracle.loss(tables, embedded, name, terms)
    relation = losses.relation_distillation(
      outputs.teacher, outputs.student, num_blocks=1
    )
    return over_classes + losses.weighted_mean(
      {"relation_distillation": relation}, terms.weights
    )

  def _step(self, state, batch):
    trained, moments = state
    loss, grads = jax.value_and_grad(self.loss)(trained, batch)
    updates, moments = self._optimizer.update(grads, moments, trained)
    return (optax.apply_updates(trained, updates), moments), loss
