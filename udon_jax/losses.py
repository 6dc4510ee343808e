"""The loss terms of UDON and their mean; relations between images, margins.

The terms over classes are computed a block of classes at a time: see
`prototypes.classes`.

Sources: UDON (NeurIPS 2024), sec. 3; official implementation: loss_utils.py.
Shape legend: b batch, c classes, s student dim, t teacher dim.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from udon_jax import errors

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
