"""The order of training images and their augmentation, as pure functions.

An epoch visits every record of a domain once, in the order of a keyed
permutation: a Feistel network over the next power of two, walked until it
lands below n. Nothing is stored, so a stream resumes from its position alone.
Keys depend on the name of the domain and not on its place in the config:
another domain beside it changes nothing.

Source: Black and Rogaway, "Ciphers with arbitrary finite domains", sec. 4
(cycle walking).

Shape legend: b positions asked for.
"""

from collections.abc import Callable
import functools
import zlib

from jaxtyping import Bool, Int, UInt64
import numpy as np

_ROUNDS = 8
_ORDER, _AUGMENTATION = 0, 1  # what a key is for


def permute(
  indices: Int[np.ndarray, "b"],
  n: int,
  *,
  seed: int,
  epoch: int,
  domain: str,
) -> Int[np.ndarray, "b"]:
  """Returns the images of `indices` under a permutation of 0 .. n - 1.

  Args:
    indices: numbers in 0 .. n - 1, in any order, repeats allowed.
    n: number of records, at least 1.
    seed: seed of the run, not negative.
    epoch: number of the epoch, from 0; every epoch has its own permutation.
    domain: name of the domain.
  """
  values = np.asarray(indices, np.uint64)
  assert n >= 1 and (values < n).all(), "indices lie in 0 .. n - 1"
  bits = int(n - 1).bit_length()
  if bits == 0:
    return np.zeros(values.shape, np.int64)
  keys = _keys(_ORDER, seed, epoch, domain)
  values = _feistel(values, bits, keys)
  outside = values >= n
  while outside.any():
    values[outside] = _feistel(values[outside], bits, keys)
    outside = values >= n
  return values.astype(np.int64)


def records_at(
  positions: Int[np.ndarray, "b"], n: int, *, seed: int, domain: str
) -> tuple[Int[np.ndarray, "b"], Int[np.ndarray, "b"]]:
  """Returns (epochs, record numbers) at positions of the endless stream.

  The stream is the concatenation of all epochs; batch number s of size B
  holds positions s B .. (s + 1) B - 1, whether or not an epoch ends there.
  """
  epochs, indices = np.divmod(np.asarray(positions, np.int64), n)
  records = _per_epoch(
    epochs,
    indices,
    lambda i, epoch: permute(i, n, seed=seed, epoch=epoch, domain=domain),
  )
  return epochs, records.astype(np.int64)


def augmentations(
  epochs: Int[np.ndarray, "b"],
  records: Int[np.ndarray, "b"],
  *,
  seed: int,
  domain: str,
  room: int,
) -> tuple[Int[np.ndarray, "b 2"], Bool[np.ndarray, "b"]]:
  """Returns (crop offsets, flips), functions of (seed, epoch, record, domain).

  Args:
    epochs: epoch of every image.
    records: record number of every image.
    seed: seed of the run.
    domain: name of the domain.
    room: largest offset: size before the crop minus size after it, in pixels.

  Returns:
    Offsets (top, left), uniform in 0 .. room; flips, True for half of all.
  """

  def draw(numbers, epoch):
    keys = _keys(_AUGMENTATION, seed, epoch, domain)
    return _mix(_mix(numbers.astype(np.uint64), keys[0]), keys[1])

  draws = _per_epoch(np.asarray(epochs), np.asarray(records), draw)
  # Fixed-point scaling of 31 bits each: the bias is below room / 2^31.
  span = np.uint64(room + 1)
  low = draws & np.uint64(2**31 - 1)
  high = draws >> np.uint64(31) & np.uint64(2**31 - 1)
  offsets = np.stack([low * span, high * span], -1) >> np.uint64(31)
  return offsets.astype(np.int32), (draws >> np.uint64(63)).astype(bool)


def _per_epoch(
  epochs: np.ndarray,
  values: np.ndarray,
  fn: Callable[[np.ndarray, int], np.ndarray],
) -> UInt64[np.ndarray, "b"]:
  """Applies `fn(values, epoch)` to the values of each epoch."""
  results = np.empty(values.shape, np.uint64)
  for epoch in np.unique(epochs):
    chosen = epochs == epoch
    results[chosen] = fn(values[chosen], int(epoch))
  return results


@functools.lru_cache(maxsize=1024)
def _keys(purpose: int, seed: int, epoch: int, domain: str) -> tuple:
  """Returns the keys of all rounds."""
  entropy = [seed, epoch, zlib.crc32(domain.encode()), purpose]
  state = np.random.SeedSequence(entropy).generate_state(_ROUNDS, np.uint64)
  return tuple(state)


def _feistel(values: np.ndarray, bits: int, keys: tuple) -> np.ndarray:
  """Permutes numbers of `bits` bits; each round keys one half by the other."""
  low_bits = np.uint64((bits + 1) // 2)
  low_mask = np.uint64((1 << int(low_bits)) - 1)
  high_mask = np.uint64((1 << bits // 2) - 1)
  high, low = values >> low_bits, values & low_mask
  for number, key in enumerate(keys):
    if number % 2:
      high = high ^ _mix(low, key) & high_mask
    else:
      low = low ^ _mix(high, key) & low_mask
  return high << low_bits | low


def _mix(values: np.ndarray, key: np.uint64) -> np.ndarray:
  """Hashes 64-bit numbers (the finaliser of splitmix64); overflow wraps."""
  values = (values ^ key) * np.uint64(0x9E3779B97F4A7C15)
  values = (values ^ values >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
  values = (values ^ values >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
  return values ^ values >> np.uint64(31)
