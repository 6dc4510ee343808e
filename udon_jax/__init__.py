"""Training of universal image embeddings by online distillation (UDON)."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
  from udon_jax import embedder

__version__ = "0.1.0"


def load(workdir: Any, **options: Any) -> "embedder.Embedder":
  """Returns the model of a run, to embed images with; see `embedder.load`."""
  from udon_jax import embedder  # noqa: PLC0415 (imports JAX and TensorFlow)

  return embedder.load(workdir, **options)
