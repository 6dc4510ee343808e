"""Training of universal image embeddings by online distillation (UDON)."""

import os
from typing import TYPE_CHECKING, Any

# Before JAX, which sets it to 1: TensorFlow would then show a traceback for
# every damaged image, which we name ourselves. Errors come as exceptions.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

if TYPE_CHECKING:
  from udon_jax import embedder

__version__ = "0.1.0"


def load(workdir: Any, **options: Any) -> "embedder.Embedder":
  """Returns the model of a run, to embed images with; see `embedder.load`."""
  from udon_jax import embedder  # noqa: PLC0415 (imports JAX and TensorFlow)

  return embedder.load(workdir, **options)
