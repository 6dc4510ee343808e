"""Retrieval in plain numpy, a query at a time: search, metrics, protocols."""

import numpy as np


def scores(queries, index):
  """Float32 products, rounded, added from the first coordinate to the last."""
  total = np.zeros((len(queries), len(index)), np.float32)
  for i in range(queries.shape[1]):
    total += queries[:, i, None] * index[:, i]
  return total


def search(queries, index, *, k, exclude=None):
  """The k best rows by (score descending, id ascending)."""
  found_scores = np.full((len(queries), k), -np.inf, np.float32)
  found_ids = np.full((len(queries), k), -1, np.int32)
  for i, row in enumerate(scores(queries, index)):
    itself = -1 if exclude is None else exclude[i]
    ids = [j for j in range(len(index)) if j != itself]
    best = sorted(ids, key=lambda j, row=row: (-row[j], j))[:k]
    found_ids[i, : len(best)] = best
    found_scores[i, : len(best)] = row[best]
  return found_scores, found_ids


def label_set(row):
  return {int(label) for label in row if label >= 0}


def relevance(ids, query_labels, index_labels):
  return np.array(
    [
      [
        j >= 0 and bool(label_set(labels) & label_set(index_labels[j]))
        for j in row
      ]
      for row, labels in zip(ids, query_labels, strict=True)
    ],
    bool,
  ).reshape(ids.shape)


def num_positives(query_labels, index_labels, *, exclude=None):
  return np.array(
    [
      sum(
        bool(label_set(labels) & label_set(other))
        for j, other in enumerate(index_labels)
        if exclude is None or j != exclude[i]
      )
      for i, labels in enumerate(query_labels)
    ],
    int,
  )


def recall_at_k(hits, *, k):
  return np.array([float(any(row[:k])) for row in hits])


def mmp_at_k(hits, positives, *, k):
  return np.array(
    [
      sum(row[: min(n, k)]) / min(n, k) if n else 0.0
      for row, n in zip(hits, positives, strict=True)
    ]
  )


def map_at_r(hits, positives):
  values = []
  for row, n in zip(hits, positives, strict=True):
    precisions = [sum(row[:i]) / i for i in range(1, n + 1) if row[i - 1]]
    values.append(sum(precisions) / n if n else 0.0)
  return np.array(values)


def evaluate(tasks, embeddings, *, merged, k):
  """Mean R@1, mMP@5 and MAP@R of every task; searches k neighbours.

  Images are (domain, label set, embedding, identity); `tasks` are structs'.
  """

  def images(split):
    rows = embeddings[split.domain, split.name]
    return [
      (split.domain, label_set(labels), row, (split.domain, split.name, i))
      for i, (labels, row) in enumerate(zip(split.labels, rows, strict=True))
    ]

  results = {}
  for task in tasks:
    index = [
      image
      for other in tasks
      if merged or other is task
      for image in images(other.index)
    ]
    values = []
    for domain, labels, row, identity in images(task.query):
      others = [image for image in index if image[3] != identity]
      found = scores(row[None], np.stack([o[2] for o in others]))[0]
      order = sorted(range(len(others)), key=lambda j, f=found: (-f[j], j))
      match = [o[0] == domain and bool(o[1] & labels) for o in others]
      hits = np.array([[match[j] for j in order[:k]]])
      n = [sum(match)]
      values.append(
        [
          recall_at_k(hits, k=1)[0],
          mmp_at_k(hits, n, k=5)[0],
          map_at_r(hits, n)[0],
        ]
      )
    names = ("recall@1", "mmp@5", "map@r")
    results[task.domain] = dict(
      zip(names, np.mean(values, axis=0), strict=True)
    )
  return results
