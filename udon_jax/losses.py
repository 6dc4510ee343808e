"""The loss terms of UDON: classification, logit and relation distillation.

The terms over classes take the axes over which the classes are spread, so that
one definition serves a whole [b, c] matrix and a shard of it in `shard_map`.

Sources: UDON (NeurIPS 2024), sec. 3; official implementation: loss_utils.py.
Shape legend: b batch, c classes (of this shard), d embedding dim.
"""

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from udon_jax import errors

Axes: TypeAlias = Sequence[str]

CLASSIFIERS = ("normface", "cosface", "arcface")
TERMS = (
  "teacher_classification",
  "student_classification",
  "logit_distillation",
  "relation_distillation",
)
# 1 - cos^2 is kept above this, where the slope of sin has no bound.
_MIN_SIN_SQUARED = 1e-12


def check_classifier(name: str) -> None:
  """Raises a UserError unless `name` is a margin that we know."""
  if name not in CLASSIFIERS:
    raise errors.UserError(
      f"config.loss.classifier={name!r} is unknown; known: "
      f"{', '.join(CLASSIFIERS)}"
    )


def add_margin(
  cosines: Float[Array, "b c"],
  targets: Bool[Array, "b c"],
  *,
  classifier: str,
  margin: float,
) -> Float[Array, "b c"]:
  """Makes the target class harder to reach by a margin.

  Args:
    cosines: similarities of embeddings and prototypes, in -1..1.
    targets: True at the class of each row.
    classifier: "normface" leaves the cosines as they are (arXiv 1704.06369);
      "cosface" subtracts the margin from the target's cosine (1801.09414);
      "arcface" adds it to the target's angle (1801.07698).
    margin: a cosine for CosFace, radians for ArcFace.

  Returns:
    The cosines with the margin applied, unscaled.
  """
  check_classifier(classifier)
  if classifier == "cosface":
    return cosines - margin * targets
  if classifier == "arcface":
    sines = jnp.sqrt(jnp.maximum(1.0 - cosines**2, _MIN_SIN_SQUARED))
    shifted = cosines * jnp.cos(margin) - sines * jnp.sin(margin)
    return jnp.where(targets, shifted, cosines)
  return cosines


def _sum_classes(
  x: Float[Array, "b c"], axes: Axes | None
) -> Float[Array, "b"]:
  """Sums over the classes of all shards."""
  total = jnp.sum(x, axis=-1)
  return jax.lax.psum(total, axes) if axes else total


def _log_softmax(
  x: Float[Array, "b c"], valid: Bool[Array, "#b c"], axes: Axes | None
) -> Float[Array, "b c"]:
  """Log-probabilities over the valid classes of all shards; -inf elsewhere."""
  x = jnp.where(valid, x, -jnp.inf)
  highest = jax.lax.stop_gradient(jnp.max(x, axis=-1))
  highest = jax.lax.pmax(highest, axes) if axes else highest
  x = x - highest[:, None]
  return x - jnp.log(_sum_classes(jnp.exp(x), axes))[:, None]


def cross_entropy(
  logits: Float[Array, "b c"],
  targets: Bool[Array, "b c"],
  *,
  valid: Bool[Array, "#b c"],
  num_classes: Int[Array, ""] | int,
  label_smoothing: float,
  axes: Axes | None = None,
) -> Float[Array, ""]:
  """Softmax cross-entropy, mean over the batch.

  Args:
    logits: scaled scores with margin.
    targets: True at the class of each row, in the shard that holds it.
    valid: True where there is a class at all.
    num_classes: how many classes are valid, over all shards.
    label_smoothing: share of the target's mass spread evenly over all classes.
    axes: mesh axes over which the classes are spread.
  """
  log_probs = _log_softmax(logits, valid, axes)
  target = _sum_classes(jnp.where(targets, log_probs, 0.0), axes)
  if label_smoothing:
    spread = _sum_classes(jnp.where(valid, log_probs, 0.0), axes) / num_classes
    target = (1.0 - label_smoothing) * target + label_smoothing * spread
  return -jnp.mean(target)


def logit_distillation(
  teacher: Float[Array, "b c"],
  student: Float[Array, "b c"],
  *,
  valid: Bool[Array, "#b c"],
  teacher_temperature: float,
  student_temperature: float,
  axes: Axes | None = None,
) -> Float[Array, ""]:
  """KL divergence of the student's class distribution from the teacher's.

  Args:
    teacher: cosines without margin or scale; no gradient flows into them.
    student: likewise, of the student.
    valid: True where there is a class at all.
    teacher_temperature: divides the teacher's cosines before the softmax.
    student_temperature: likewise.
    axes: mesh axes over which the classes are spread.

  Returns:
    Mean over the batch, in nats.
  """
  teacher = jax.lax.stop_gradient(teacher)
  log_p = _log_softmax(teacher / teacher_temperature, valid, axes)
  log_q = _log_softmax(student / student_temperature, valid, axes)
  difference = jnp.where(valid, log_p - log_q, 0.0)
  return jnp.mean(_sum_classes(jnp.exp(log_p) * difference, axes))


def relation_distillation(
  teacher: Float[Array, "b t"],
  student: Float[Array, "b s"],
  *,
  num_blocks: int,
) -> Float[Array, ""]:
  """Squared difference between the two batch similarity matrices.

  (n / 4B) * sum over n diagonal blocks of (S_ij - T_ij)^2. One block is the
  whole batch; the official code compares within each of its n devices.

  Args:
    teacher: embeddings of unit length; no gradient flows into them.
    student: likewise, of the student.
    num_blocks: n, a divisor of the batch size.
  """
  batch = teacher.shape[0]
  if batch % num_blocks:
    raise errors.UserError(
      f"config.loss.relation_blocks={num_blocks} does not divide "
      f"config.batch_size={batch}; choose a divisor"
    )

  def similarities(x):
    blocks = x.reshape(num_blocks, batch // num_blocks, -1)
    return jnp.einsum(
      "nid,njd->nij", blocks, blocks, precision=jax.lax.Precision.HIGHEST
    )

  target = similarities(jax.lax.stop_gradient(teacher))
  squares = jnp.sum((similarities(student) - target) ** 2)
  return num_blocks / (4.0 * batch) * squares


def weighted_mean(
  terms: Mapping[str, Float[Array, ""]], weights: Mapping[str, float]
) -> Float[Array, ""]:
  """Sum of weight * term over the sum of all four weights.

  Taken over part of the terms, it is that part's contribution to the loss.
  """
  total = sum(weights[name] for name in TERMS)
  weighted = sum(weights[name] * term for name, term in terms.items())
  return jnp.asarray(weighted) / total
