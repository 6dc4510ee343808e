"""Exact search against faiss and a plain JAX search; metrics against loops.

  OMP_NUM_THREADS=2 python -m benchmarks.bench_retrieval

Needs faiss-cpu for the comparison with faiss; without it, that row is left out.
faiss takes its matrix product from OpenBLAS, whose choice of kernels can be
poor on a virtual machine: OPENBLAS_CORETYPE=Haswell is worth a second run.

Shape legend: q queries, n index rows, d embedding dim, k neighbours.
"""

import argparse
import collections
import functools
import os

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import common
from udon_jax.retrieval import knn, metrics

try:
  import faiss
except ImportError:
  faiss = None  # type: ignore[assignment]


def main() -> None:
  """Runs both benchmarks, prints and writes their tables."""
  args = _parser().parse_args()
  packages = ["jax", "jaxlib", "numpy"]
  head = common.header(*packages, *(["faiss-cpu"] if faiss else []))
  rows = bench_search(args) + bench_metrics(args)
  print(common.markdown(rows))
  if args.write:
    name = f"retrieval_{jax.default_backend()}{os.cpu_count()}"
    print("added to", common.write(name, head, rows))


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--queries", type=int, default=20_000)
  parser.add_argument("--index", type=int, default=100_000)
  parser.add_argument("--dim", type=int, default=64)
  parser.add_argument("--k", type=int, default=5)
  parser.add_argument("--classes", type=int, default=10_000)
  parser.add_argument("--repeats", type=int, default=3)
  parser.add_argument("--write", action="store_true", help="keep the results")
  return parser


def bench_search(args: argparse.Namespace) -> list[dict]:
  """Times the search of random unit vectors."""
  rng = np.random.default_rng(0)
  queries, index = (
    _unit_rows(rng, (rows, args.dim)) for rows in (args.queries, args.index)
  )
  found: dict[str, tuple] = {}
  variants = {
    "udon_jax": lambda: found.update(ours=knn.search(queries, index, k=args.k)),
    "full matmul + top_k": lambda: _plain_search(queries, index, k=args.k),
    "scores alone (floor)": lambda: _score_all(queries, index),
  }
  if faiss:
    threads = int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1)
    faiss.omp_set_num_threads(threads)
    flat = faiss.IndexFlatIP(args.dim)
    flat.add(index)
    variants["faiss IndexFlatIP"] = lambda: found.update(
      faiss=flat.search(queries, args.k)
    )
  times = common.interleave(variants, repeats=args.repeats)
  if faiss:
    same = np.mean(found["ours"][1] == found["faiss"][1])
    assert same > 0.999, f"faiss finds other neighbours: {same}"
  size = f"{args.queries} x {args.index} x {args.dim}, k={args.k}"
  return _rows("search", size, times)


def bench_metrics(args: argparse.Namespace) -> list[dict]:
  """Times positives, R@1 and mMP@5 for one and for three labels an image."""
  rows = []
  for num_labels in (1, 3):
    rng = np.random.default_rng(0)
    query_labels, index_labels = (
      rng.integers(0, args.classes, (n, num_labels))
      for n in (args.queries, args.index)
    )
    ids = rng.integers(0, args.index, (args.queries, max(args.k, 5)))
    score = functools.partial(_score, ids, query_labels, index_labels)
    loop = functools.partial(_score_in_a_loop, ids, query_labels, index_labels)
    np.testing.assert_allclose(score(), loop())
    times = common.interleave(
      {"udon_jax": score, "loop over queries": loop}, repeats=args.repeats
    )
    size = f"{args.queries} queries, {args.index} items, {num_labels} labels"
    rows += _rows("metrics", size, times)
  return rows


def _rows(what, size, times):
  """Returns a result a variant, with its time over ours."""
  ours = times["udon_jax"]
  return [
    {
      "benchmark": what,
      "size": size,
      "variant": name,
      **measured,
      "wall / ours": measured["wall_s"] / ours["wall_s"],
      "cpu / ours": measured["cpu_s"] / ours["cpu_s"],
    }
    for name, measured in times.items()
  ]


def _unit_rows(rng, shape):
  rows = rng.normal(size=shape)
  rows /= np.linalg.norm(rows, axis=1, keepdims=True)
  return rows.astype(np.float32)


def _plain_search(queries, index, *, k, chunk_size=512):
  """Searches with one product and one top_k a chunk of queries."""
  index = jnp.asarray(index)
  found = []
  for start in range(0, len(queries), chunk_size):
    chunk = queries[start : start + chunk_size]
    chunk = np.pad(chunk, ((0, chunk_size - len(chunk)), (0, 0)))
    found.append(_plain_top_k(chunk, index, k=k))
  return jax.device_get(found)


def _score_all(queries, index, *, query_chunk=512, index_chunk=2560):
  """Computes every score and keeps a maximum alone: what no search avoids."""

  def blocks(rows, size):
    padded = np.pad(rows, ((0, -len(rows) % size), (0, 0)))
    return jnp.asarray(padded.reshape(-1, size, rows.shape[1]))

  return jax.device_get(
    _maxima(blocks(queries, query_chunk), blocks(index, index_chunk))
  )


@jax.jit
def _maxima(queries, index):
  def one(chunk):
    return jax.lax.map(
      lambda block: jnp.max(
        jnp.dot(chunk, block.T, precision=jax.lax.Precision.HIGHEST), axis=-1
      ),
      index,
    )

  return jax.lax.map(one, queries)


@functools.partial(jax.jit, static_argnames="k")
def _plain_top_k(queries, index, *, k):
  scores = jnp.dot(queries, index.T, precision=jax.lax.Precision.HIGHEST)
  return jax.lax.top_k(scores, k)


def _score(ids, query_labels, index_labels):
  """Returns mean R@1 and mMP@5."""
  hits = metrics.relevance(ids, query_labels, index_labels)
  positives = metrics.num_positives(query_labels, index_labels)
  return (
    metrics.recall_at_k(hits, k=1).mean(),
    metrics.mmp_at_k(hits, positives, k=5).mean(),
  )


def _score_in_a_loop(ids, query_labels, index_labels):
  """Returns the same, a query at a time, with sets and a table of labels."""
  query_sets = [set(row) for row in query_labels.tolist()]
  index_sets = [set(row) for row in index_labels.tolist()]
  items = collections.defaultdict(set)
  for item, labels in enumerate(index_sets):
    for label in labels:
      items[label].add(item)
  recall = mmp = 0.0
  for neighbours, labels in zip(ids.tolist(), query_sets, strict=True):
    positives = len(set().union(*(items[label] for label in labels)))
    hits = [bool(labels & index_sets[item]) for item in neighbours]
    recall += hits[0]
    depth = min(positives, 5)
    mmp += sum(hits[:depth]) / depth if depth else 0.0
  return recall / len(ids), mmp / len(ids)


if __name__ == "__main__":
  main()
