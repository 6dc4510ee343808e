"""Checksums that tell whether saved values came back as they were.

The checksum of an array is a function of its dtype's bits and their positions,
added modulo 2^32: it is the same on every mesh, is computed where the array
lies, and a single flipped bit always changes it, as the mixing is a bijection
of words. It is the first half of MurmurHash3's finaliser (Appleby, 2011).
"""

from collections.abc import Mapping
import json
from typing import Any
import zlib

import jax
from jax import lax
import jax.numpy as jnp
from jaxtyping import Array, UInt32
import numpy as np

from udon_jax import partitioning

_GOLDEN = np.uint32(0x9E3779B9)  # spreads neighbouring positions


def of_arrays(tree: Any) -> dict[str, int]:
  """Returns the checksum of every array of a tree, by its path.

  The same values give the same checksums whatever their sharding.
  """
  paths, leaves = zip(*jax.tree_util.tree_leaves_with_path(tree), strict=True)
  names = [jax.tree_util.keystr(p, simple=True, separator="/") for p in paths]
  values = partitioning.fetch(_of_leaves(leaves))
  return {name: int(x) for name, x in zip(names, values, strict=True)}


def of_json(value: Mapping[str, Any]) -> int:
  """Returns the checksum of plain values, whatever the order of their keys."""
  return zlib.crc32(json.dumps(value, sort_keys=True).encode())


@jax.jit
def _of_leaves(leaves):
  return [_of_array(x) for x in leaves]


def _of_array(x: Array) -> UInt32[Array, ""]:
  words = _words(x)
  place = jnp.zeros(words.shape, jnp.uint32)
  stride = 1
  for axis in reversed(range(words.ndim)):
    steps = lax.broadcasted_iota(jnp.uint32, words.shape, axis)
    place += steps * np.uint32(stride % 2**32)
    stride *= words.shape[axis]
  mixed = words + (place + 1) * _GOLDEN
  mixed = (mixed ^ mixed >> 16) * np.uint32(0x85EBCA6B)
  mixed ^= mixed >> 13
  if mixed.ndim > 1:  # in two stages, of which the first uses all cores
    mixed = lax.optimization_barrier(jnp.sum(mixed, axis=-1, dtype=jnp.uint32))
  return jnp.sum(mixed, dtype=jnp.uint32)


def _words(x: Array) -> UInt32[Array, "..."]:
  """Returns the bits of an array as words of 32 bits."""
  if x.dtype == jnp.bool_:
    return x.astype(jnp.uint32)
  width = x.dtype.itemsize
  if width < 4:
    return lax.bitcast_convert_type(x, f"uint{8 * width}").astype(jnp.uint32)
  return lax.bitcast_convert_type(x, jnp.uint32)
