"""Hashes of 16 bytes in arrays: what is equal to what, among millions.

A dictionary of a million strings takes hundreds of megabytes, an array of
their hashes 16. That any two of 10 million differing things have the same hash
has a chance of 1e-25.

Shape legend: n, m things; w a hash as two words.
"""

from collections.abc import Iterable
import hashlib

from jaxtyping import Int, UInt64
import numpy as np

SIZE = 16
# Odd, so that the numbers of occurrences stay apart when multiplied.
_STEP = np.uint64(0x9E3779B97F4A7C15)


def of_bytes(data: bytes) -> bytes:
  """Returns the hash of some bytes."""
  return hashlib.blake2b(data, digest_size=SIZE).digest()


def pack(hashes: Iterable[bytes]) -> UInt64[np.ndarray, "n w"]:
  """Returns hashes as an array."""
  return np.frombuffer(b"".join(hashes), np.uint64).reshape(-1, 2)


def number(hashes: UInt64[np.ndarray, "n w"]) -> UInt64[np.ndarray, "n w"]:
  """Returns hashes that also tell the how-manieth of its kind each is.

  So the k-th of equal things is matched with the k-th, not all with the first.
  """
  order, firsts = _runs(hashes)
  starts = np.flatnonzero(firsts)
  lengths = np.diff(np.append(starts, len(hashes)))
  occurrences = np.arange(len(hashes)) - np.repeat(starts, lengths)
  numbered = hashes.copy()
  numbered[order, 1] += occurrences.astype(np.uint64) * _STEP
  return numbered


def repeats(
  hashes: UInt64[np.ndarray, "n w"],
) -> tuple[Int[np.ndarray, "m"], Int[np.ndarray, "m"]]:
  """Returns the rows whose hash stood before, and where it stood first.

  Rows are in ascending order.
  """
  order, firsts = _runs(hashes)
  first_rows = order[firsts][np.cumsum(firsts) - 1]
  rows, first_rows = order[~firsts], first_rows[~firsts]
  ascending = np.argsort(rows)
  return rows[ascending], first_rows[ascending]


def match(
  wanted: UInt64[np.ndarray, "n w"], offered: UInt64[np.ndarray, "m w"]
) -> Int[np.ndarray, "n"]:
  """Returns for each hash its lowest row among those offered, -1 if none."""
  order, firsts = _runs(np.concatenate([offered, wanted]))
  found = np.empty(len(order), np.int64)
  found[order] = order[firsts][np.cumsum(firsts) - 1]
  found = found[len(offered) :]
  return np.where(found < len(offered), found, -1)


def _runs(hashes: UInt64[np.ndarray, "n w"]):
  """Returns rows sorted by hash, then by row; and where a hash is a new one."""
  order = np.lexsort((hashes[:, 1], hashes[:, 0]))
  arranged = hashes[order]
  firsts = np.ones(len(order), bool)
  firsts[1:] = (arranged[1:] != arranged[:-1]).any(1)
  return order, firsts
