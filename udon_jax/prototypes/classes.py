"""The loss terms over classes, a block of classes at a time.

Classification, of teacher and student: softmax cross-entropy of the scaled
cosines with margin. Logit distillation: KL divergence of the student's softmax
over the cosines from the teacher's, each over its temperature; no gradient
flows into the teacher. All are means over the batch, in nats.

A first pass over the blocks gathers of every image what its losses need of all
classes: softmax normalizers, the target's logit, sums. With these, a second
look at a block gives the gradients of its cosines. Nothing of the size of
[images, classes] is ever held.

Sources: UDON (NeurIPS 2024), sec. 3; official implementation: loss_utils.py;
the running maximum of arXiv 1805.02867.
Shape legend: b batch, r rows (classes) of a block.
"""

from collections.abc import Mapping
import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from udon_jax import losses, partitioning

# Below every logit, and finite: differences of two of it are numbers.
_LOWEST = -1e30
_AXES = partitioning.AXES


@dataclasses.dataclass(frozen=True)
class Terms:
  """What the loss terms over classes are.

  Attributes:
    classifier: see `losses.add_margin`.
    margin: likewise.
    scale: factor on the cosines before the classification's softmax.
    label_smoothing: share of the target's mass spread evenly over all classes.
    teacher_temperature: divides the teacher's cosines before the softmax from
      which the student's may not diverge.
    student_temperature: likewise, of the student.
    weights: of all of `losses.TERMS`.
  """

  classifier: str
  margin: float
  scale: float
  label_smoothing: float
  teacher_temperature: float
  student_temperature: float
  weights: Mapping[str, float]

  def logits(self, cosines, targets):
    """Returns the logits of a classification."""
    return self.scale * losses.add_margin(
      cosines, targets, classifier=self.classifier, margin=self.margin
    )


class Block(NamedTuple):
  """The cosines of a batch with the classes of a block, on this device."""

  student: Float[Array, "b r"]
  teacher: Float[Array, "b r"]
  targets: Bool[Array, "b r"]  # True at the class of each image
  valid: Bool[Array, "1 r"]  # True where there is a class at all


class Softmax(NamedTuple):
  """The greatest logit, and the sum of exp(logit - greatest)."""

  highest: Float[Array, "b"]
  total: Float[Array, "b"]

  def log(self) -> Float[Array, "b"]:
    """Returns the logarithm of the normalizer."""
    return self.highest + jnp.log(self.total)


class Sums(NamedTuple):
  """What an image's losses need of all classes.

  Attributes:
    student: of the student's classification.
    teacher: of the teacher's.
    soft_student: of the student's cosines over its temperature.
    soft_teacher: of the teacher's.
    difference: sum of exp(teacher - highest) * (teacher - student), of these.
    student_target: the target's logit in the student's classification.
    teacher_target: in the teacher's.
    student_logits: sum of all logits; 0 without label smoothing.
    teacher_logits: likewise.
  """

  student: Softmax
  teacher: Softmax
  soft_student: Softmax
  soft_teacher: Softmax
  difference: Float[Array, "b"]
  student_target: Float[Array, "b"]
  teacher_target: Float[Array, "b"]
  student_logits: Float[Array, "b"]
  teacher_logits: Float[Array, "b"]


def empty_sums(like: Float[Array, "b"]) -> Sums:
  """Returns the sums over no class at all.

  Args:
    like: zeros of their type, which differ between the devices.
  """
  softmax = Softmax(like + _LOWEST, like)
  return Sums(softmax, softmax, softmax, softmax, like, like, like, like, like)


def add_block(terms: Terms, sums: Sums, block: Block) -> Sums:
  """Adds the classes of a block."""
  student = terms.logits(block.student, block.targets)
  teacher = terms.logits(block.teacher, block.targets)
  soft_student = block.student / terms.student_temperature
  soft_teacher = block.teacher / terms.teacher_temperature

  def total(x, where):
    return jnp.sum(jnp.where(where, x, 0.0), axis=-1)

  softer, weights, kept = _extend(sums.soft_teacher, soft_teacher, block.valid)
  student_sums, _, _ = _extend(sums.student, student, block.valid)
  teacher_sums, _, _ = _extend(sums.teacher, teacher, block.valid)
  soft_sums, _, _ = _extend(sums.soft_student, soft_student, block.valid)
  difference = jnp.sum(weights * (soft_teacher - soft_student), axis=-1)
  smoothed = block.valid & bool(terms.label_smoothing)
  return Sums(
    student=student_sums,
    teacher=teacher_sums,
    soft_student=soft_sums,
    soft_teacher=softer,
    difference=sums.difference * kept + difference,
    student_target=sums.student_target + total(student, block.targets),
    teacher_target=sums.teacher_target + total(teacher, block.targets),
    student_logits=sums.student_logits + total(student, smoothed),
    teacher_logits=sums.teacher_logits + total(teacher, smoothed),
  )


def _extend(
  softmax: Softmax, logits: Float[Array, "b r"], valid: Bool[Array, "1 r"]
) -> tuple[Softmax, Float[Array, "b r"], Float[Array, "b"]]:
  """Adds logits to a softmax.

  Returns:
    The softmax, exp(logit - highest) of the logits, and what sums over earlier
    logits are to be multiplied with.
  """
  logits = jnp.where(valid, logits, _LOWEST)
  highest = jnp.maximum(softmax.highest, jnp.max(logits, axis=-1))
  kept = jnp.exp(softmax.highest - highest)
  weights = jnp.where(valid, jnp.exp(logits - highest[:, None]), 0.0)
  total = softmax.total * kept + jnp.sum(weights, axis=-1)
  return Softmax(highest, total), weights, kept


def over_devices(sums: Sums) -> Sums:
  """Returns the sums over the classes of all devices."""
  softmaxes = (sums.student, sums.teacher, sums.soft_student, sums.soft_teacher)
  before = jnp.stack([s.highest for s in softmaxes])
  highest = jax.lax.pmax(before, _AXES)
  kept = jnp.exp(before - highest)
  totals = jnp.stack([s.total for s in softmaxes]) * kept
  others = (
    sums.difference * kept[-1],
    sums.student_target,
    sums.teacher_target,
    sums.student_logits,
    sums.teacher_logits,
  )
  everything = jax.lax.psum(jnp.concatenate([totals, jnp.stack(others)]), _AXES)
  found: Any = map(Softmax, highest, everything[:4])
  return Sums(*found, *everything[4:])


def loss_terms(
  terms: Terms, sums: Sums, *, num_classes: Int[Array, ""]
) -> tuple[dict[str, Float[Array, ""]], Float[Array, ""]]:
  """Returns the three terms over classes, and the loss that the sampler sees.

  The latter is the teacher's classification without label smoothing.
  """

  def classification(softmax, target, logits):
    if terms.label_smoothing:
      target = (1.0 - terms.label_smoothing) * target
      target += terms.label_smoothing * logits / num_classes
    return jnp.mean(softmax.log() - target)

  distillation = sums.difference / sums.soft_teacher.total
  distillation += sums.soft_student.log() - sums.soft_teacher.log()
  found = {
    "teacher_classification": classification(
      sums.teacher, sums.teacher_target, sums.teacher_logits
    ),
    "student_classification": classification(
      sums.student, sums.student_target, sums.student_logits
    ),
    "logit_distillation": jnp.mean(distillation),
  }
  return found, jnp.mean(sums.teacher.log() - sums.teacher_target)


def cosine_gradients(
  terms: Terms, sums: Sums, block: Block, *, num_classes: Int[Array, ""]
) -> tuple[Float[Array, "b r"], Float[Array, "b r"]]:
  """Returns the gradients of a block's cosines, (student's, teacher's).

  They are those of the terms' share of the loss, `losses.weighted_mean`.
  """
  weights = {
    name: terms.weights[name]
    / (sum(terms.weights[n] for n in losses.TERMS) * block.student.shape[0])
    for name in losses.TERMS
  }

  def softmax(logits, normalizer):
    return jnp.where(
      block.valid, jnp.exp(logits - normalizer.log()[:, None]), 0.0
    )

  def classification(cosines, normalizer, weight):
    logits, backward = jax.vjp(
      lambda x: terms.logits(x, block.targets), cosines
    )
    smooth = terms.label_smoothing
    target = (1.0 - smooth) * block.targets
    if smooth:
      target = target + smooth / num_classes * block.valid
    gradient = weight * (softmax(logits, normalizer) - target)
    return backward(gradient.astype(cosines.dtype))[0]

  student = classification(
    block.student, sums.student, weights["student_classification"]
  )
  teacher = classification(
    block.teacher, sums.teacher, weights["teacher_classification"]
  )
  wanted = softmax(block.teacher / terms.teacher_temperature, sums.soft_teacher)
  found = softmax(block.student / terms.student_temperature, sums.soft_student)
  factor = weights["logit_distillation"] / terms.student_temperature
  return student + factor * (found - wanted), teacher
