"""One training step, for every domain, as one compiled program.

Forward to the embeddings, loss over classes, relation loss, backward, AdamW on
the module, update of the prototypes. A step whose loss or gradient is not
finite leaves everything as it was.

Shape legend: b batch, k parts of a batch, n domains.
"""

from collections.abc import Callable, Mapping
import dataclasses
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from udon_jax import (
  losses,
  optim,
  prototypes,
  sampling,
  structs,
  train_state,
)

TrainState: TypeAlias = train_state.TrainState
StepFn: TypeAlias = Callable[[TrainState, structs.Batch], TrainState]

BACKBONE, HEADS = "backbone", "heads"
# Stochastic depth draws from other keys than the sampler of the same seed.
_KEY_TAG = 0xD20


@dataclasses.dataclass(frozen=True)
class StepConfig:
  """The static parts of a step.

  Attributes:
    seed: of the run.
    loss_weights: weight of every term of `losses.TERMS`.
    relation_blocks: see `losses.relation_distillation`.
    grad_accum_steps: parts in which a batch is embedded.
    policy: which domain is next; it notes every step's loss.
  """

  seed: int
  loss_weights: Mapping[str, float]
  relation_blocks: int
  grad_accum_steps: int
  policy: sampling.Policy


def make_train_step(
  model: Any,
  optimizer: optim.AdamW,
  *,
  prototype_step: prototypes.Step,
  config: StepConfig,
  frozen: bool,
) -> StepFn:
  """Returns the step function, to be jitted with the state donated.

  Args:
    model: a `udon.Udon`.
    optimizer: of the module.
    prototype_step: the part of the class prototypes.
    config: the static parts.
    frozen: whether the backbone stays as it is; its gradient is not computed.
  """

  def embed(params, images, domain, key):
    outputs = model.apply(
      {"params": params},
      images,
      domain,
      train=True,
      freeze_backbone=frozen,
      rngs={"dropout": key},
    )
    return outputs.teacher, outputs.student

  def step_fn(state: TrainState, batch: structs.Batch) -> TrainState:
    step = state.step + 1
    key = jax.random.fold_in(jax.random.key(config.seed), _KEY_TAG)
    key = jax.random.fold_in(key, step)
    (teacher, student), backward = _embed_in_parts(
      embed, state.params, batch, key=key, num_parts=config.grad_accum_steps
    )
    embedded = prototypes.Batch(
      student, teacher, batch.labels, batch.domain, step
    )
    scores, tables = prototype_step.score(state.prototypes, embedded)
    relation, relation_grads = _relation(teacher, student, config=config)
    (grads,) = backward(
      (
        scores.teacher_grad + relation_grads[0],
        scores.student_grad + relation_grads[1],
      )
    )
    params, opt_state, grad_norm = optimizer.update(
      grads,
      state.opt_state,
      state.params,
      step=step,
      frozen=(BACKBONE,) if frozen else (),
    )
    terms = {**scores.terms, "relation_distillation": relation}
    loss = losses.weighted_mean(terms, config.loss_weights)
    good = jnp.isfinite(loss + grad_norm) & (state.failed_step == 0)
    new = state.replace(
      step=step,
      params=params,
      opt_state=opt_state,
      prototypes=prototype_step.update(tables, embedded, scores.sums, good),
      sampler=config.policy.record(
        state.sampler, batch.domain, scores.sampler_loss, step=step
      ),
      meters=_add(
        state.meters,
        batch.domain,
        {"loss": loss, **terms, "grad_norm": grad_norm},
      ),
      data_position=state.data_position.at[batch.domain].add(1),
    )
    return _keep_if(good, new, state, domain=batch.domain)

  return step_fn


def _embed_in_parts(embed, params, batch, *, key, num_parts):
  """Embeds a batch, in parts that need less memory.

  With several parts, the forward pass keeps the embeddings alone, and the
  backward pass embeds each part again: the gradient is that of the whole batch.

  Returns:
    The embeddings, and a function from their gradients to the parameters'.
  """
  if num_parts == 1:
    return jax.vjp(lambda p: embed(p, batch.images, batch.domain, key), params)

  def split(x):  # every device keeps its rows: part i takes every k-th of them
    parts = x.reshape(x.shape[0] // num_parts, num_parts, *x.shape[1:])
    return jnp.moveaxis(parts, 1, 0)

  def join(x):
    return jnp.moveaxis(x, 0, 1).reshape(-1, *x.shape[2:])

  def embed_part(params, images, i):
    return embed(params, images, batch.domain, jax.random.fold_in(key, i))

  images, index = split(batch.images), jnp.arange(num_parts)
  embeddings = jax.lax.map(
    lambda part: embed_part(params, *part), (images, index)
  )

  def backward(grads):
    def add_part(total, part):
      image, i, *grad = part
      _, vjp = jax.vjp(lambda p: embed_part(p, image, i), params)
      return jax.tree.map(jnp.add, total, vjp(tuple(grad))[0]), None

    zeros = jax.tree.map(jnp.zeros_like, params)
    parts = (images, index, *(split(g) for g in grads))
    return (jax.lax.scan(add_part, zeros, parts)[0],)

  return jax.tree.map(join, embeddings), backward


def _relation(teacher, student, *, config):
  """Returns the relation loss, and its share of the embeddings' gradients."""

  def weighted(teacher, student):
    loss = losses.relation_distillation(
      teacher, student, num_blocks=config.relation_blocks
    )
    terms = {"relation_distillation": loss}
    return losses.weighted_mean(terms, config.loss_weights), loss

  grads, loss = jax.grad(weighted, argnums=(0, 1), has_aux=True)(
    teacher, student
  )
  return loss, grads


def _add(
  meters: train_state.Meters,
  domain: Int[Array, ""],
  values: Mapping[str, Float[Array, ""]],
) -> train_state.Meters:
  """Adds one step's values to its domain's sums."""
  sums = {k: v.at[domain].add(values[k]) for k, v in meters.sums.items()}
  return meters.replace(sums=sums, counts=meters.counts.at[domain].add(1))


def _keep_if(good, new, old, *, domain):
  """Returns the new state, or the old one if the step does not count.

  Prototypes are as they should be already: a choice would copy their tables.
  """
  first = (old.failed_step == 0) & ~good
  kept = jax.tree.map(
    lambda a, b: jnp.where(good, a, b),
    new.replace(prototypes=None),
    old.replace(prototypes=None),
  )
  return kept.replace(
    prototypes=new.prototypes,
    failed_step=jnp.where(first, new.step, old.failed_step),
    failed_domain=jnp.where(first, domain, old.failed_domain),
  )
