"""A search in blocks finds what a search of the whole finds, bit for bit."""

import hypothesis
from hypothesis import strategies as st
import jax
import numpy as np
import pytest

from tests.oracles import retrieval as oracle
from udon_jax.retrieval import blocks, knn

DIM = 5
ROW_BYTES = 4 * DIM


class Counted:
  """Rows that remember how many were read at a time."""

  def __init__(self, rows):
    self.rows, self.shape, self.most = rows, rows.shape, 0

  def __len__(self):
    return len(self.rows)

  def __getitem__(self, rows):
    self.most = max(self.most, len(self.rows[rows]))
    return self.rows[rows]


def rows_with_ties(rng, num_rows):
  """Rows drawn from a few, so that equal scores lie across every border."""
  few = rng.integers(-2, 3, (7, DIM)).astype("f4") / 2
  return few[rng.integers(0, len(few), num_rows)]


def split_at_random(rng, rows):
  cuts = np.sort(rng.integers(0, len(rows) + 1, rng.integers(0, 4)))
  return np.split(rows, cuts)


def assert_same(actual, expected):
  np.testing.assert_array_equal(actual[1], expected[1])
  np.testing.assert_array_equal(
    actual[0].view(np.int32), expected[0].view(np.int32)
  )
  assert [x.dtype for x in actual] == [x.dtype for x in expected]


@hypothesis.settings(max_examples=25, deadline=None)
@hypothesis.given(
  seed=st.integers(0, 2**32 - 1),
  rows_a_block=st.integers(4, 60),
  k=st.sampled_from([1, 6, 41]),
  excluding=st.booleans(),
)
def test_equals_the_search_of_the_whole(seed, rows_a_block, k, excluding):
  rng = np.random.default_rng(seed)
  index, queries = rows_with_ties(rng, 40), rows_with_ties(rng, 13)
  exclude = rng.integers(-1, 40, 13) if excluding else np.full(13, -1)
  actual = blocks.search(
    split_at_random(rng, queries),
    split_at_random(rng, index),
    k=k,
    exclude=exclude,
    block_bytes=rows_a_block * ROW_BYTES,
  )
  assert_same(actual, knn.search(queries, index, k=k, exclude=exclude))
  assert_same(actual, oracle.search(queries, index, k=k, exclude=exclude))


def test_blocks_are_split_over_the_devices():
  rng = np.random.default_rng(0)
  index, queries = rows_with_ties(rng, 100), rows_with_ties(rng, 9)
  mesh = jax.make_mesh(
    (2, 4), ("data", "fsdp"), axis_types=(jax.sharding.AxisType.Auto,) * 2
  )
  actual = blocks.search(
    [queries],
    [index],
    k=4,
    exclude=np.arange(9),
    mesh=mesh,
    block_bytes=30 * ROW_BYTES,
  )
  expected = oracle.search(queries, index, k=4, exclude=np.arange(9))
  assert_same(actual, expected)


@pytest.mark.parametrize("rows_a_block", [1, 4, 10, 99])
def test_blocks_are_of_one_size_and_no_more_is_read(rows_a_block):
  whole = np.arange(23 * DIM, dtype=np.float32).reshape(23, DIM)
  parts = [Counted(part) for part in np.split(whole, [3, 3, 14])]
  cut = list(blocks.cut(parts, block_bytes=rows_a_block * ROW_BYTES + 3))
  np.testing.assert_array_equal(np.concatenate(cut), whole)
  assert {len(block) for block in cut[:-1]} <= {rows_a_block}
  assert max(part.most for part in parts) <= rows_a_block


def test_a_row_larger_than_a_block_comes_alone():
  whole = np.ones((3, DIM), np.float32)
  assert [len(x) for x in blocks.cut([whole], block_bytes=1)] == [1, 1, 1]
