"""The model that ships: shared ViT, teacher projections, universal student.

Nothing in it depends on a number of classes.

Source: UDON (NeurIPS 2024), sec. 3.1-3.2; official implementation:
udon_vit_with_embedding.py. Shape legend: b batch, h height, w width.
"""

from collections.abc import Sequence
from typing import cast

from flax import linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, Real

from udon_jax import structs
from udon_jax.models import gathered, heads, vit


class Udon(nn.Module):
  """Embeds images of one domain by backbone, teacher and student.

  The projections of all teachers are one stacked parameter, indexed by the
  traced id of the domain: adding a domain compiles nothing new.

  Attributes:
    backbone: the shared ViT.
    num_domains: number of teachers; a model without has no such embedding.
    teacher_dim: width of the teachers' embeddings.
    teacher_hidden: widths of hidden layers of the teachers' projections.
    student_dim: width of the universal embedding; 0 for a model without.
    student_hidden: likewise, of the student's projection.
    pixel_mean: mean of every channel, of values in 0..1.
    pixel_std: likewise, their standard deviation.
  """

  backbone: vit.ViT
  num_domains: int
  teacher_dim: int
  teacher_hidden: Sequence[int]
  student_dim: int
  student_hidden: Sequence[int]
  pixel_mean: Sequence[float]
  pixel_std: Sequence[float]

  @nn.compact
  def __call__(
    self,
    images: Real[Array, "b h w 3"],
    domain: Int[Array, ""],
    *,
    train: bool,
    freeze_backbone: bool = False,
  ) -> structs.UdonOutputs:
    """Embeds a batch.

    Args:
      images: pixels in 0..255, of any type.
      domain: id of the domain whose teacher is asked.
      train: whether branches of the ViT are dropped.
      freeze_backbone: no gradient reaches the backbone, none is computed.
    """
    mean, std = jnp.asarray(self.pixel_mean), jnp.asarray(self.pixel_std)
    pixels = (images.astype(jnp.float32) / 255.0 - mean) / std
    features = heads.normalize(self.backbone(pixels, train=train))
    if freeze_backbone:
      features = jax.lax.stop_gradient(features)
    return structs.UdonOutputs(
      backbone=features,
      teacher=self._teach(features, domain) if self.num_domains else None,
      student=self._student(features) if self.student_dim else None,
    )

  @property
  def embeddings(self) -> tuple[str, ...]:
    """Names of the embeddings that this model has."""
    has = {"student": self.student_dim, "teacher": self.num_domains}
    return (*(name for name, size in has.items() if size), "backbone")

  def _student(self, features):
    projection = gathered.whole(
      heads.Projection,
      self.backbone.mesh,
      prefix="student_projection",
      dtype=jnp.float32,
    )
    student = projection(
      self.student_hidden, self.student_dim, name="student_projection"
    )
    return heads.normalize(student(features))

  def _teach(self, features, domain):
    teacher = heads.Projection(
      self.teacher_hidden, self.teacher_dim, parent=None
    )
    stacked = self.param("teacher_projection", self._init_teachers, features)
    own = gathered.gather(
      jax.tree.map(lambda x: x[domain], stacked),
      self.backbone.mesh,
      prefix="teacher_projection",
      dtype=jnp.float32,
    )
    return heads.normalize(
      cast(Array, teacher.apply({"params": own}, features))
    )

  def _init_teachers(self, key, features):
    """Returns the parameters of all teachers, stacked [domains, ...]."""
    teacher = heads.Projection(
      self.teacher_hidden, self.teacher_dim, parent=None
    )
    keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(
      jnp.arange(self.num_domains)
    )
    return jax.vmap(lambda k: teacher.init(k, features)["params"])(keys)
