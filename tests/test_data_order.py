"""The keyed order is a permutation; its values are pinned for resume."""

import hypothesis
from hypothesis import strategies as st
import numpy as np
import pytest

from udon_jax.data import order

PINNED_ORDER = [7165, 125516, 635367, 420886, 1124471, 932702, 482196, 236903]
PINNED_OFFSETS = [[8, 29], [13, 32], [7, 32], [0, 4]]
PINNED_FLIPS = [False, True, True, False]
KEYS = {"seed": 1, "epoch": 0, "domain": "cars"}


@hypothesis.given(
  n=st.integers(1, 3000),
  seed=st.integers(0, 2**63),
  epoch=st.integers(0, 10**6),
  domain=st.text(max_size=8),
)
@hypothesis.settings(max_examples=60, deadline=None)
def test_every_record_comes_once(n, seed, epoch, domain):
  values = order.permute(np.arange(n), n, seed=seed, epoch=epoch, domain=domain)
  np.testing.assert_array_equal(np.sort(values), np.arange(n))


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 255, 256, 257, 65_537])
def test_every_record_comes_once_near_powers_of_two(n):
  values = order.permute(np.arange(n), n, **KEYS)
  np.testing.assert_array_equal(np.sort(values), np.arange(n))


def test_values_are_pinned():
  # A change of these numbers breaks the resume of runs under way.
  values = order.permute(np.arange(8), 1_422_914, **KEYS)
  assert values.tolist() == PINNED_ORDER
  offsets, flips = order.augmentations(
    np.zeros(4, int), np.arange(4), seed=1, domain="cars", room=32
  )
  assert offsets.tolist() == PINNED_OFFSETS
  assert flips.tolist() == PINNED_FLIPS


def test_values_do_not_depend_on_what_is_asked_with_them():
  whole = order.permute(np.arange(1000), 1000, **KEYS)
  for i in (0, 17, 999):
    assert order.permute(np.array([i]), 1000, **KEYS) == [whole[i]]


@pytest.mark.parametrize(
  "change", [{"seed": 2}, {"epoch": 1}, {"domain": "sop"}]
)
def test_orders_of_other_keys_are_unrelated(change):
  n = 20_000
  first = order.permute(np.arange(n), n, **KEYS)
  second = order.permute(np.arange(n), n, **KEYS | change)
  assert abs(np.corrcoef(first, second)[0, 1]) < 4 / np.sqrt(n)
  assert (first == second).sum() < 12  # one fixed point is expected


@pytest.mark.parametrize("n", [3, 7, 48])
def test_every_place_is_equally_likely(n):
  epochs = 3000
  counts = np.zeros((n, n))
  for epoch in range(epochs):
    values = order.permute(np.arange(n), n, seed=5, epoch=epoch, domain="cars")
    counts[np.arange(n), values] += 1
  chi_square = ((counts - epochs / n) ** 2 / (epochs / n)).sum()
  freedom = (n - 1) ** 2
  assert abs(chi_square - freedom) < 5 * np.sqrt(2 * freedom)


def test_neighbours_are_unrelated():
  n = 100_000
  values = order.permute(np.arange(n), n, **KEYS)
  assert abs(np.corrcoef(values[:-1], values[1:])[0, 1]) < 4 / np.sqrt(n)
  assert abs(values[: n // 10].mean() / n - 0.5) < 0.02


@pytest.mark.parametrize(("n", "batch"), [(10, 4), (3, 8), (1, 5), (12, 4)])
def test_batches_are_cut_from_all_epochs_in_a_row(n, batch):
  stream = np.concatenate(
    [
      order.permute(np.arange(n), n, seed=9, epoch=epoch, domain="met")
      for epoch in range(50)
    ]
  )
  for step in range(5):
    positions = np.arange(step * batch, (step + 1) * batch)
    epochs, numbers = order.records_at(positions, n, seed=9, domain="met")
    np.testing.assert_array_equal(numbers, stream[positions])
    np.testing.assert_array_equal(epochs, positions // n)


def test_augmentations_are_uniform_and_independent():
  n, room = 60_000, 4
  offsets, flips = order.augmentations(
    np.repeat(np.arange(3), n // 3),
    np.arange(n) % 1000,
    seed=0,
    domain="cars",
    room=room,
  )
  assert offsets.dtype == np.int32
  cells = offsets[:, 0] * 10 + offsets[:, 1] * 2 + flips
  # Each (epoch, record) repeats 20 times: 3000 independent draws.
  drawn = np.unique(
    np.stack([np.repeat(np.arange(3), n // 3), np.arange(n) % 1000, cells]),
    axis=1,
  )[2]
  assert len(drawn) == 3000
  counts = np.bincount(drawn, minlength=2 * (room + 1) ** 2)
  expected = 3000 / len(counts)
  chi_square = ((counts - expected) ** 2 / expected).sum()
  assert abs(chi_square - (len(counts) - 1)) < 5 * np.sqrt(2 * len(counts))


def test_without_room_there_is_one_crop():
  offsets, _ = order.augmentations(
    np.zeros(5, int), np.arange(5), seed=0, domain="cars", room=0
  )
  assert (offsets == 0).all()
