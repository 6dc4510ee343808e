"""The search finds what a plain sort finds, bit for bit, however it is cut."""

import doctest
import re
from unittest import mock

import hypothesis
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.oracles import retrieval as oracle
from udon_jax.retrieval import knn, knn_device

AXES = ("data", "fsdp")
NUM_ROWS, NUM_QUERIES, DIM = 203, 9, 7


@pytest.fixture(autouse=True)
def small_groups():
  """Lets small indexes be searched by groups."""
  with mock.patch.object(knn, "_SMALLEST_GROUP", 2):
    yield


def make_mesh(data, fsdp):
  auto = (jax.sharding.AxisType.Auto,) * 2
  return jax.make_mesh((data, fsdp), AXES, axis_types=auto)


def unit_rows(rng, shape):
  rows = rng.normal(size=shape)
  return (rows / np.linalg.norm(rows, axis=-1, keepdims=True)).astype("f4")


def repeated_rows(rng, num_rows, *, num_distinct, kind):
  """Rows drawn from a few, so that ties lie across every border."""
  if kind == "grid":  # different rows may tie, sums are exact
    few = rng.integers(-2, 3, (num_distinct, DIM)).astype("f4") / 2
  else:
    few = unit_rows(rng, (num_distinct, DIM))
  rows = few[rng.integers(0, num_distinct, num_rows)]
  if kind == "near":  # a few units in the last place apart
    rows = rows * (1 + rng.integers(-2, 3, rows.shape) * 2.0**-23)
  return rows.astype("f4")


def assert_same(actual, expected):
  np.testing.assert_array_equal(actual[1], expected[1])
  np.testing.assert_array_equal(
    actual[0].view(np.int32), expected[0].view(np.int32)
  )


@hypothesis.settings(
  max_examples=50,
  deadline=None,
  suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)
@hypothesis.given(
  seed=st.integers(0, 2**32 - 1),
  num_distinct=st.sampled_from([1, 2, 5, 30, 203]),
  kind=st.sampled_from(["grid", "unit", "near"]),
  k=st.sampled_from([1, 6]),
  chunks=st.sampled_from([(4, 16), (64, 64)]),
  excluding=st.booleans(),
)
def test_equals_the_plain_sort(seed, num_distinct, kind, k, chunks, excluding):
  rng = np.random.default_rng(seed)
  index = repeated_rows(rng, NUM_ROWS, num_distinct=num_distinct, kind=kind)
  queries = repeated_rows(rng, NUM_QUERIES, num_distinct=4, kind=kind)
  queries[:5] = index[rng.integers(0, NUM_ROWS, 5)]
  exclude = rng.integers(-1, NUM_ROWS, NUM_QUERIES) if excluding else None
  actual = knn.search(
    queries,
    index,
    k=k,
    query_chunk_size=chunks[0],
    index_chunk_size=chunks[1],
    exclude=exclude,
  )
  assert_same(actual, oracle.search(queries, index, k=k, exclude=exclude))


@pytest.mark.parametrize("shape", [(8, 1), (2, 4), (1, 8)])
@pytest.mark.parametrize("kind", ["grid", "unit"])
def test_sharded_equals_unsharded(shape, kind):
  rng = np.random.default_rng(0)
  index = repeated_rows(rng, NUM_ROWS, num_distinct=20, kind=kind)
  queries = index[:NUM_QUERIES] + 0
  options = {"k": 6, "exclude": np.arange(NUM_QUERIES)}
  expected = oracle.search(queries, index, **options)
  assert_same(knn.search(queries, index, **options), expected)
  mesh = make_mesh(*shape)
  options["index_chunk_size"] = 16
  assert_same(knn.search(queries, index, mesh=mesh, **options), expected)


def test_sharded_search_of_fewer_rows_than_devices():
  rng = np.random.default_rng(1)
  index, queries = unit_rows(rng, (5, DIM)), unit_rows(rng, (3, DIM))
  actual = knn.search(queries, index, k=6, mesh=make_mesh(4, 2))
  assert_same(actual, oracle.search(queries, index, k=6))
  assert (actual[1][:, 5] == -1).all() and np.isneginf(actual[0][:, 5]).all()


def test_index_on_the_devices():
  rng = np.random.default_rng(2)
  index, queries = unit_rows(rng, (50, DIM)), unit_rows(rng, (3, DIM))
  mesh = make_mesh(8, 1)
  for on_device in (
    jnp.asarray(index),
    jax.device_put(
      index[:48], jax.NamedSharding(mesh, jax.P(("data", "fsdp")))
    ),
  ):
    expected = oracle.search(queries, np.asarray(on_device), k=4)
    assert_same(knn.search(queries, on_device, k=4), expected)
    assert_same(knn.search(queries, on_device, k=4, mesh=mesh), expected)


@pytest.mark.parametrize("k", [40, 150, 250])
def test_many_neighbours(k):
  rng = np.random.default_rng(3)
  index = repeated_rows(rng, NUM_ROWS, num_distinct=150, kind="unit")
  queries = unit_rows(rng, (NUM_QUERIES, DIM))
  exclude = np.arange(NUM_QUERIES)
  actual = knn.search(queries, index, k=k, index_chunk_size=32, exclude=exclude)
  assert_same(actual, oracle.search(queries, index, k=k, exclude=exclude))


def test_long_vectors():
  rng = np.random.default_rng(4)
  index, queries = unit_rows(rng, (300, 770)), unit_rows(rng, (5, 770))
  index[100:] = index[rng.integers(0, 100, 200)]
  actual = knn.search(queries, index, k=5)
  assert_same(actual, oracle.search(queries, index, k=5))


def test_permuted_queries_permute_the_results():
  rng = np.random.default_rng(5)
  index = repeated_rows(rng, NUM_ROWS, num_distinct=20, kind="unit")
  queries, order = unit_rows(rng, (NUM_QUERIES, DIM)), rng.permutation(9)
  exclude = np.arange(NUM_QUERIES)
  options = {"k": 6, "query_chunk_size": 4}
  scores, ids = knn.search(queries, index, exclude=exclude, **options)
  permuted = knn.search(
    queries[order], index, exclude=exclude[order], **options
  )
  assert_same(permuted, (scores[order], ids[order]))


def test_excludes_by_id_not_by_rank():
  row = np.array([[0.6, 0.8]], np.float32)
  index = np.repeat(row, 4, axis=0)  # a query among its duplicates
  _, ids = knn.search(
    np.repeat(row, 4, axis=0), index, k=3, exclude=np.array([2, 0, 3, -1])
  )
  assert ids.tolist() == [[0, 1, 3], [1, 2, 3], [0, 1, 2], [0, 1, 2]]


def test_zeros_of_both_signs_tie():
  index = np.array([[-1.0, 0], [1.0, 0], [-0.0, 0], [0.0, 0]], np.float32)
  scores, ids = knn.search(np.array([[0.0, 1.0]], np.float32), index, k=4)
  assert ids.tolist() == [[0, 1, 2, 3]]
  assert not np.signbit(scores).any()


@pytest.mark.parametrize(("num_copies", "num_plans"), [(1, 1), (NUM_ROWS, 2)])
def test_unproven_queries_are_searched_again(num_copies, num_plans):
  rng = np.random.default_rng(6)
  index = unit_rows(rng, (4 * NUM_ROWS, DIM))
  index[:: 4 * NUM_ROWS // num_copies] = index[0]
  queries = index[:1]
  with mock.patch.object(
    knn, "_search_all", side_effect=knn._search_all
  ) as runs:
    actual = knn.search(queries, index, k=3)
  assert_same(actual, oracle.search(queries, index, k=3))
  assert runs.call_count == num_plans


def lower(num_rows, mesh):
  """Compiles the search of 64 queries in chunks of 512 rows."""
  plan = knn._fast_plan(5, num_rows, 64, mesh, 512)
  assert plan.group_size > 1
  index = jax.ShapeDtypeStruct(
    (num_rows // 512, 512, 64),
    jnp.float32,
    sharding=jax.NamedSharding(mesh, jax.P(mesh.axis_names)),
  )
  one = jax.ShapeDtypeStruct((), jnp.int32)
  return knn_device.search_chunk.lower(
    jax.ShapeDtypeStruct((64, 64), jnp.float32),
    index,
    exclude=jax.ShapeDtypeStruct((64,), jnp.int32),
    bound=jax.ShapeDtypeStruct((64,), jnp.float32),
    num_rows=one,
    zero=one,
    mesh=mesh,
    plan=plan,
  ).compile()


def test_memory_is_a_chunk_of_scores_whatever_the_index():
  mesh = knn._one_device_mesh()
  temp = [
    lower(rows, mesh).memory_analysis().temp_size_in_bytes
    for rows in (2**15, 2**18)
  ]
  chunk = 64 * 512 * 4
  assert max(temp) < 6 * chunk
  assert temp[1] < temp[0] + chunk


def test_collectives_carry_neighbours_only():
  text = lower(2**16, make_mesh(2, 4)).as_text()
  shapes = re.findall(r"= \w+\[([\d,]*)\]\S* all-(?:gather|reduce)", text)
  sizes = [np.prod([int(x) for x in s.split(",") if x]) for s in shapes]
  assert sizes
  assert max(sizes) <= 64 * 8 * 5


def test_one_program_serves_all_chunks():
  rng = np.random.default_rng(7)
  index, queries = unit_rows(rng, (100, 11)), unit_rows(rng, (33, 11))
  before = knn_device.search_chunk._cache_size()
  knn.search(queries, index, k=2, query_chunk_size=8)
  knn.search(queries[:20], index, k=2, query_chunk_size=8)
  assert knn_device.search_chunk._cache_size() == before + 1


def test_no_queries():
  index = np.eye(3, dtype=np.float32)
  scores, ids = knn.search(index[:0], index, k=2)
  assert scores.shape == ids.shape == (0, 2)


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"queries": np.ones((2, 4))}, "4 columns, the index 3"),
    ({"queries": np.ones(3)}, "must be matrices"),
    ({"index": np.ones((0, 3))}, "index is empty"),
    ({"k": 0}, "k=0"),
    ({"query_chunk_size": -1}, "query_chunk_size=-1"),
    ({"exclude": np.array([0])}, "exclude has shape"),
    ({"exclude": np.array([0, 5])}, "outside -1 .. 4"),
    ({"queries": np.full((2, 3), np.nan)}, "queries hold NaN"),
    ({"index": np.full((5, 3), np.inf)}, "index hold NaN"),
  ],
)
def test_bad_arguments(change, message):
  arguments = {"queries": np.ones((2, 3)), "index": np.ones((5, 3)), "k": 1}
  arguments |= change
  with pytest.raises(ValueError, match=message):
    knn.search(arguments.pop("queries"), arguments.pop("index"), **arguments)


def test_examples():
  results = doctest.testmod(knn)
  assert results.attempted and not results.failed
