"""Softmax attention, by the kernel that fits the device.

Shape legend: b batch, n tokens, h heads, d dim of a head.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from udon_jax import errors

# Of jax.nn.dot_product_attention: XLA's own, on any device; cuDNN's, that
# never writes the matrix of weights down.
KERNELS = ("xla", "cudnn")
_KEY = "config.model.attention"
_CUDNN_DTYPES = (jnp.bfloat16, jnp.float16)
_CUDNN_MAX_DIM = 128
_CUDNN_CAPABILITY = 8.0


def find_capability() -> float:
  """Returns the compute capability of this process's GPU; 0 if it has none."""
  device = jax.local_devices()[0]
  if "cuda" not in device.client.platform_version:
    return 0.0
  return float(device.compute_capability)


def choose(
  kernel: str | None, *, dtype: Any, head_dim: int, capability: float
) -> str:
  """Returns the kernel to use.

  Args:
    kernel: that is asked for; None takes cuDNN's where it can be used.
    dtype: of the computation.
    head_dim: dimensions of a head.
    capability: of an NVIDIA GPU, such as 9.0; 0 if there is none.

  Raises:
    UserError: the kernel that is asked for cannot be used.
  """
  fits = {
    f"needs an NVIDIA GPU of compute capability {_CUDNN_CAPABILITY}": (
      capability >= _CUDNN_CAPABILITY
    ),
    "needs config.model.dtype=bfloat16": jnp.dtype(dtype) in _CUDNN_DTYPES,
    f"needs heads of a multiple of 8 up to {_CUDNN_MAX_DIM} dimensions": (
      head_dim % 8 == 0 and head_dim <= _CUDNN_MAX_DIM
    ),
  }
  lacking = [need for need, met in fits.items() if not met]
  if kernel == "cudnn" and lacking:
    raise errors.UserError(
      f"{_KEY}=cudnn {', '.join(lacking)}; set it to xla, or to None for what "
      "fits"
    )
  return kernel or ("xla" if lacking else "cudnn")


def make(kernel: Any) -> Callable[..., Float[Array, "b n h d"]]:
  """Returns the attention of flax.linen's modules, by a kernel."""

  def attend(query, key, value, **_):
    return jax.nn.dot_product_attention(
      query, key, value, implementation=kernel
    )

  return attend
