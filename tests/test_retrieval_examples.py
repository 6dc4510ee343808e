"""Laws of the choice of examples, on drawn searches."""

import json

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np

from udon_jax import structs
from udon_jax.retrieval import examples, protocol

DOMAINS = ("a", "b", "c")
NUM_QUERIES = 8


def search(seed, *, sizes=(9, 4, 6), classes=3):
  """Returns the records of random embeddings in the merged index.

  The first domain has an index of its own; in the others queries search
  themselves. Every third image has two labels.
  """
  rng = np.random.default_rng(seed)
  tasks, embeddings = [], {}

  def split(domain, name, size):
    labels = rng.integers(0, classes, (size, 2))
    labels[np.arange(size) % 3 != 0, 1] = -1
    rows = rng.normal(size=(size, 3)).astype(np.float32)
    embeddings[domain, name] = rows / np.linalg.norm(rows, axis=1)[:, None]
    keys = [f"{domain}/{name}/{i}.jpg" for i in range(size)]
    return structs.ImageSplit(domain, name, keys, labels, open=None)

  for domain, size in zip(DOMAINS, sizes, strict=True):
    query = split(domain, "test", size)
    index = split(domain, "index", size + 2) if domain == "a" else query
    tasks.append(structs.RetrievalTask(domain, query, index))
  results = protocol.evaluate(
    tasks, embeddings, metrics=("recall@1", "mmp@5"), per_query=True
  )
  return results["per_query"]["merged"]


FOUND = {seed: search(seed) for seed in range(6)}
searches = st.sampled_from(sorted(FOUND))


def identity(image):
  return image["domain"], image["split"], image["position"]


def select(found, *, seed=0, num_queries=NUM_QUERIES):
  return examples.select(found, seed=seed, num_queries=num_queries)


def by_query(found):
  """Returns {(domain, key): the row that records write of a query}."""
  return {
    (row["domain"], row["key"]): row
    for record in found
    for row in record.rows()
  }


@settings(deadline=None)
@given(searches, st.integers(0, 2**31), st.integers(0, 30))
def test_a_group_holds_no_query_twice_and_not_too_many(number, seed, count):
  chosen = select(FOUND[number], seed=seed, num_queries=count)
  assert tuple(chosen) == examples.GROUPS
  total = sum(len(record.query.keys) for record in FOUND[number])
  for listed in chosen.values():
    queries = [identity(item["query"]) for item in listed]
    assert len(set(queries)) == len(queries) <= count
  assert len(chosen[examples.RANDOM]) == min(count, total)


@settings(deadline=None)
@given(searches, st.integers(0, 2**31))
def test_examples_are_a_function_of_records_and_seed(number, seed):
  once, again = (select(FOUND[number], seed=seed) for _ in range(2))
  assert json.loads(json.dumps(once)) == again


def test_seeds_draw_different_queries():
  drawn = {
    json.dumps(select(FOUND[0], seed=seed)[examples.RANDOM])
    for seed in range(8)
  }
  assert len(drawn) == 8


@settings(deadline=None)
@given(searches)
def test_examples_are_what_the_search_found(number):
  rows = by_query(FOUND[number])
  for listed in select(FOUND[number], num_queries=30).values():
    for item in listed:
      query = item["query"]
      row = rows[query["domain"], query["key"]]
      assert item["num_positives"] == row["num_positives"]
      assert len(item["neighbours"]) == 5
      for image, expected in zip(
        item["neighbours"], row["neighbours"], strict=True
      ):
        assert {key: image[key] for key in expected} == expected
        same = image["domain"] == query["domain"]
        shared = set(image["labels"]) & set(query["labels"])
        assert image["hit"] == (same and bool(shared))
      for image in (query, *item["neighbours"]):
        name = f"{image['domain']}/{image['split']}/{image['position']}.jpg"
        assert image["key"] == name
        assert -1 not in image["labels"]


@settings(deadline=None)
@given(searches)
def test_the_worst_are_misses_that_had_an_answer(number):
  rows = by_query(FOUND[number])
  worst = select(FOUND[number])[examples.WORST]
  for item in worst:
    assert not item["neighbours"][0]["hit"]
    assert item["num_positives"] > 0
  reasons = [item["reason"] for item in worst]
  assert reasons == sorted(
    reasons, key=[examples.CONFIDENT, examples.LOWEST].index
  )
  assert reasons.count(examples.CONFIDENT) == NUM_QUERIES // 2
  for domain in DOMAINS:
    wrong = [
      row
      for row in rows.values()
      if row["domain"] == domain
      and row["num_positives"]
      and not row["neighbours"][0]["hit"]
    ]
    for reason, value in (
      (examples.CONFIDENT, lambda row: -row["neighbours"][0]["score"]),
      (examples.LOWEST, lambda row: row["metrics"]["mmp@5"]),
    ):
      keys = [
        item["query"]["key"]
        for item in worst
        if item["query"]["domain"] == domain and item["reason"] == reason
      ]
      if reason == examples.LOWEST:  # those of the other half are taken
        taken = {
          item["query"]["key"]
          for item in worst
          if item["reason"] == examples.CONFIDENT
        }
        wrong = [row for row in wrong if row["key"] not in taken]
      best = sorted(map(value, wrong))[: len(keys)]
      assert [value(rows[domain, key]) for key in keys] == best


@settings(deadline=None)
@given(searches)
def test_mistakes_across_domains_are_all_that_there_are(number):
  chosen = select(FOUND[number], num_queries=99)[examples.CROSS_DOMAIN]
  expected = {
    key
    for key, row in by_query(FOUND[number]).items()
    if row["neighbours"][0]["domain"] != row["domain"]
  }
  assert {(x["query"]["domain"], x["query"]["key"]) for x in chosen} == expected
  for item in chosen:
    assert item["neighbours"][0]["domain"] != item["query"]["domain"]


@settings(deadline=None)
@given(searches, st.integers(1, 12))
def test_domains_take_turns(number, count):
  """No domain is shown twice more than one that has queries left."""
  listed = select(FOUND[number], num_queries=count)[examples.RANDOM]
  sizes = {r.domain: len(r.query.keys) for r in FOUND[number]}
  shown = [item["query"]["domain"] for item in listed]
  counts = {domain: shown.count(domain) for domain in DOMAINS}
  for one in DOMAINS:
    for other in DOMAINS:
      if counts[other] < sizes[other]:
        assert counts[one] <= counts[other] + 1


def test_a_perfect_search_has_no_mistakes():
  labels = np.array([[0], [0], [1], [1]])
  split = structs.ImageSplit("a", "test", list("wxyz"), labels, open=None)
  found = protocol.evaluate(
    [structs.RetrievalTask("a", split, split)],
    {("a", "test"): np.eye(2, dtype=np.float32)[labels[:, 0]]},
    metrics=("recall@1",),
    per_query=True,
  )["per_query"]["merged"]
  chosen = select(found)
  assert len(chosen[examples.RANDOM]) == 4
  assert chosen[examples.WORST] == chosen[examples.CROSS_DOMAIN] == []
