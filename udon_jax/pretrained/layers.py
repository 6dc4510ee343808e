"""Leaves of layers as PyTorch names and shapes them.

A layer is `<name>.weight` and `<name>.bias`; matrices map from their second
axis to their first, ours from the first to the second.
"""

from collections.abc import Mapping, Sequence
import re

import numpy as np

from udon_jax.pretrained import arrays, weights

ATTENTION = weights.BLOCK + "MultiHeadDotProductAttention_1/"
MLP = weights.BLOCK + "MlpBlock_3/"


def norm(path: str, name: str) -> dict[str, weights.Leaf]:
  """Returns the leaves of a LayerNorm."""
  return {
    f"{path}/scale": weights.same(f"{name}.weight"),
    f"{path}/bias": weights.same(f"{name}.bias"),
  }


def dense(path: str, name: str) -> dict[str, weights.Leaf]:
  """Returns the leaves of a dense layer."""
  return {
    f"{path}/kernel": weights.Leaf((f"{name}.weight",), np.transpose),
    f"{path}/bias": weights.same(f"{name}.bias"),
  }


def to_heads(path: str, name: str) -> dict[str, weights.Leaf]:
  """Returns the leaves of a dense layer to the heads of an attention."""
  return {
    f"{path}/kernel": weights.Leaf(
      (f"{name}.weight",), np.transpose, heads=True
    ),
    f"{path}/bias": weights.Leaf((f"{name}.bias",), np.asarray, heads=True),
  }


def from_heads(path: str, name: str) -> dict[str, weights.Leaf]:
  """Returns the leaves of a dense layer from the heads of an attention."""
  return {
    f"{path}/kernel": weights.Leaf(
      (f"{name}.weight",), np.transpose, heads=True
    ),
    f"{path}/bias": weights.same(f"{name}.bias"),
  }


def patches(path: str, name: str, *, bias: bool) -> dict[str, weights.Leaf]:
  """Returns the leaves of a convolution [out, in, height, width]."""
  kernel = weights.Leaf(
    (f"{name}.weight",), lambda x: np.transpose(x, (2, 3, 1, 0))
  )
  biases = {f"{path}/bias": weights.same(f"{name}.bias")} if bias else {}
  return {f"{path}/kernel": kernel, **biases}


def token(name: str) -> weights.Leaf:
  """Returns the leaf of a token [..., d]."""
  return weights.Leaf((name,), lambda x: x.reshape(1, 1, -1))


def positions(name: str) -> weights.Leaf:
  """Returns the leaf of positions [n, d] or [1, n, d]."""
  return weights.Leaf((name,), lambda x: x.reshape(1, *x.shape[-2:]))


def prefix_of(found: arrays.Arrays, name: str, *, known: Sequence[str]) -> str:
  """Returns what stands before all names of a file.

  Args:
    found: the file.
    name: of an array that every such file holds, without the prefix.
    known: prefixes, the usual one first.

  Raises:
    UserError: none of them is there.
  """
  for prefix in known:
    if prefix + name in found.shapes:
      return prefix
  found.shape(known[0] + name)
  raise AssertionError


def num_blocks(found: arrays.Arrays, pattern: str) -> int:
  """Returns how many blocks the names count; `pattern` has a number."""
  numbers = [
    int(match[1])
    for name in found.shapes
    if (match := re.match(pattern, name, re.ASCII))
  ]
  return max(numbers, default=-1) + 1


def behind(prefix: str, left: Mapping[str, str]) -> dict[str, str]:
  """Returns patterns of names with a prefix before them."""
  return {re.escape(prefix) + name: why for name, why in left.items()}
