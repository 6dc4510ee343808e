"""Protocols equal a plain loop over images; hits need the domain too."""

import dataclasses
import json
import logging

import jax
import numpy as np
import pytest

from tests.oracles import retrieval as oracle
from udon_jax import errors, structs
from udon_jax.retrieval import protocol

METRICS = ("recall@1", "mmp@5", "map@r")


def split(domain, name, labels):
  labels = np.asarray(labels, np.int64)
  labels = labels if labels.ndim == 2 else labels[:, None]
  keys = [f"{domain}/{name}/{i}.jpg" for i in range(len(labels))]
  return structs.ImageSplit(domain, name, keys, labels, open=lambda: iter(()))


def tasks_and_embeddings(seed):
  """Three domains whose labels collide; "b" has an index, several labels."""
  rng = np.random.default_rng(seed)
  a = split("a", "test", rng.integers(0, 4, 13))
  b = split("b", "test", rng.integers(-1, 5, (6, 3)))
  b_index = split("b", "index", rng.integers(-1, 5, (17, 2)))
  c = split("c", "test", rng.integers(0, 3, 9))
  tasks = [
    structs.RetrievalTask("a", a, a),
    structs.RetrievalTask("b", b, b_index),
    structs.RetrievalTask("c", c, c),
  ]
  few = rng.normal(size=(12, 8)).astype("f4")  # repeated: ties across domains
  embeddings = {
    (s.domain, s.name): few[rng.integers(0, len(few), len(s.labels))]
    for s in (a, b, b_index, c)
  }
  return tasks, embeddings


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("devices", [None, 8])
def test_equals_the_loop(seed, devices):
  tasks, embeddings = tasks_and_embeddings(seed)
  mesh = None
  if devices:
    auto = (jax.sharding.AxisType.Auto,) * 2
    mesh = jax.make_mesh((2, devices // 2), ("data", "fsdp"), axis_types=auto)
  results = protocol.evaluate(tasks, embeddings, metrics=METRICS, mesh=mesh)
  assert list(results) == ["separate", "merged"]
  for kind, values in results.items():
    expected = oracle.evaluate(tasks, embeddings, merged=kind == "merged", k=60)
    assert list(values) == ["a", "b", "c", "mean"]
    for name in METRICS:
      for domain in "abc":
        np.testing.assert_allclose(
          values[domain][name], expected[domain][name], rtol=1e-12
        )
      mean = sum(values[domain][name] for domain in "abc") / 3
      np.testing.assert_allclose(values["mean"][name], mean, rtol=1e-15)
      assert type(values["mean"][name]) is float


def two_domains():
  """The nearest image of each query lies in the other domain."""
  a, b = split("a", "test", [0, 0]), split("b", "test", [0, 0])
  tasks = [structs.RetrievalTask(s.domain, s, s) for s in (a, b)]
  embeddings = {
    ("a", "test"): np.array([[1, 0], [0, 1]], np.float32),
    ("b", "test"): np.array([[1, 0], [0, 1]], np.float32),
  }
  return tasks, embeddings


def test_a_hit_needs_the_domain():
  results = protocol.evaluate(*two_domains(), metrics=("recall@1", "mmp@5"))
  assert results["separate"]["mean"] == {"recall@1": 1.0, "mmp@5": 1.0}
  assert results["merged"]["mean"] == {"recall@1": 0.0, "mmp@5": 0.0}


def test_duplicates_of_a_query_are_found():
  a = split("a", "test", [0, 0, 0, 1])
  rows = np.tile(np.array([[0.6, 0.8]], np.float32), (4, 1))
  rows[3] = [0.8, -0.6]
  results = protocol.evaluate(
    [structs.RetrievalTask("a", a, a)],
    {("a", "test"): rows},
    metrics=("recall@1", "map@r"),
  )
  # The image that is alone in its class has no positives.
  assert results["separate"]["a"] == {"recall@1": 0.75, "map@r": 0.75}
  assert results["separate"] == results["merged"]


def test_an_image_of_both_splits_does_not_find_itself():
  """As rows of a table whose role is `both`; others are before and after it."""
  query = split("b", "test", [0, 1, 1])
  rows = np.array([[1, 0], [0, 1], [0.6, 0.8]], np.float32)
  more = np.array([[0.8, 0.6], [0.28, 0.96]], np.float32)
  index = split("b", "test_index", [1, 0, 1, 1, 0])
  keys = [index.keys[0], *query.keys, index.keys[-1]]
  index = dataclasses.replace(index, keys=keys)
  embeddings = {
    ("b", "test"): rows,
    ("b", "test_index"): np.concatenate([more[:1], rows, more[1:]]),
    ("a", "test"): rows[:2],
  }
  first = structs.RetrievalTask("a", *[split("a", "test", [0, 0])] * 2)
  results = protocol.evaluate(
    [first, structs.RetrievalTask("b", query, index)],
    embeddings,
    metrics=("recall@1",),
    per_query=True,
  )
  found = results["per_query"]
  assert found["separate"][1].neighbours[:, 0].tolist() == [0, 4, 0]
  assert found["separate"][1].num_positives.tolist() == [1, 2, 2]
  # After the two rows of "a", one of which equals each of two queries.
  assert found["merged"][1].neighbours[:, 0].tolist() == [0, 1, 2]


def test_queries_alone_in_their_class_are_told_of_once(caplog, monkeypatch):
  monkeypatch.setattr(logging.getLogger("udon_jax"), "propagate", True)
  query = split("z", "test", [[0, 1], [7, -1], [1, 8], [9, -1]])
  index = split("z", "index", [1, 1, 0])
  task = structs.RetrievalTask("z", query, index)
  rows = np.eye(4, dtype=np.float32)
  embeddings = {("z", "test"): rows, ("z", "index"): rows[:3]}
  for _ in range(2):
    results = protocol.evaluate([task], embeddings, metrics=("recall@1",))
  assert results["separate"]["z"] == {"recall@1": 0.25}
  (message,) = [r.getMessage() for r in caplog.records]
  for words in ("info_files/z/test.json", "2 of 4", "index.json", "z/test/1."):
    assert words in message


@pytest.mark.parametrize("own_index", [True, False])
def test_a_domain_that_can_find_nothing_is_named(own_index):
  query = split("a", "test", [0, 1, 2])
  index = query if own_index else split("a", "index", [3, 4, 5])
  rows = np.eye(3, dtype=np.float32)
  embeddings = {("a", "test"): rows, ("a", "index"): rows}
  with pytest.raises(
    errors.UserError, match=r"info_files/a/test\.json: none of"
  ):
    protocol.evaluate(
      [structs.RetrievalTask("a", query, index)],
      embeddings,
      metrics=("recall@1",),
    )


def test_records_of_queries(tmp_path):
  results = protocol.evaluate(
    *two_domains(), metrics=("recall@1", "recall@2"), per_query=True
  )
  file = tmp_path / "merged.jsonl"
  file.write_text("old")
  protocol.write_per_query(file, results["per_query"]["merged"])
  rows = [json.loads(line) for line in file.read_text().splitlines()]
  assert [(row["domain"], row["key"]) for row in rows] == [
    ("a", "a/test/0.jpg"),
    ("a", "a/test/1.jpg"),
    ("b", "b/test/0.jpg"),
    ("b", "b/test/1.jpg"),
  ]
  assert rows[2] == {
    "domain": "b",
    "key": "b/test/0.jpg",
    "num_positives": 1,
    "metrics": {"recall@1": 0.0, "recall@2": 0.0},
    "neighbours": [
      {"domain": "a", "key": "a/test/0.jpg", "score": 1.0, "hit": False},
      {"domain": "a", "key": "a/test/1.jpg", "score": 0.0, "hit": False},
    ],
  }
  assert list(tmp_path.iterdir()) == [file]


def test_records_leave_out_missing_neighbours(tmp_path):
  results = protocol.evaluate(
    *two_domains(), metrics=("recall@5",), per_query=True
  )
  file = tmp_path / "separate.jsonl"
  protocol.write_per_query(file, results["per_query"]["separate"])
  for line in file.read_text().splitlines():
    (neighbour,) = json.loads(line)["neighbours"]
    assert neighbour["hit"]


def broken(change):
  tasks, embeddings = two_domains()
  if change == "no tasks":
    tasks = []
  elif change == "twice":
    tasks = [tasks[0], tasks[0]]
  elif change == "empty":
    empty = split("a", "test", np.zeros((0, 1)))
    tasks[0] = structs.RetrievalTask("a", empty, empty)
  elif change == "missing":
    del embeddings["b", "test"]
  elif change == "rows":
    embeddings["b", "test"] = np.ones((3, 2), np.float32)
  elif change == "dims":
    embeddings["b", "test"] = np.ones((2, 3), np.float32)
  else:
    embeddings["b", "test"] = np.full((2, 2), np.nan, np.float32)
  return tasks, embeddings


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ("no tasks", r"config\.domains: no domain"),
    ("twice", r"config\.domains: a domain comes twice"),
    ("empty", "a/test has no images"),
    ("missing", "b/test has no embeddings"),
    ("rows", r"b/test: embeddings of shape \(3, 2\) for 2 images"),
    ("dims", "differ in their dimension"),
    ("nan", "b/test: embeddings hold NaN"),
  ],
)
def test_broken_input(change, message):
  with pytest.raises(errors.UserError, match=message):
    protocol.evaluate(*broken(change), metrics=METRICS)


def test_unknown_metric():
  with pytest.raises(errors.UserError, match=r"config\.eval\.metrics"):
    protocol.evaluate(*two_domains(), metrics=("recall@one",))
