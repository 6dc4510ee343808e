"""Counts over sets of labels, one sort or table for all queries.

Rows hold the labels of an image, padded with -1. All functions but `distinct`
take rows that it returned.

Shape legend: q queries, n index items, l labels of an image, p pairs.
"""

from jaxtyping import Bool, Int
import numpy as np

PADDING = -1

_FILTER_MASK = 2**22 - 1  # 4 MiB of flags; few of 10^5 codes hit by chance
_MAX_SPAN = 2**31  # two labels of a smaller range fit into one int64


def distinct(labels: Int[np.ndarray, "n l"]) -> Int[np.ndarray, "n l"]:
  """Returns sorted rows with repeated labels replaced by padding."""
  if labels.shape[1] < 2:
    return labels
  labels = np.sort(labels, axis=1)
  labels[:, 1:][labels[:, 1:] == labels[:, :-1]] = PADDING
  return labels


def count_items(
  labels: Int[np.ndarray, "q l"], index_labels: Int[np.ndarray, "n l2"]
) -> Int[np.ndarray, "q l"]:
  """Returns how many items have each label; 0 for padding."""
  values = index_labels[index_labels != PADDING]
  if not len(values):
    return np.zeros(labels.shape, np.int64)
  low, high = int(values.min()), int(values.max())
  if high - low <= 8 * len(values):  # a table is 20 times faster than a sort
    table = np.bincount(values - low)
    known = (labels != PADDING) & (labels >= low) & (labels <= high)
    return np.where(known, table[np.where(known, labels - low, 0)], 0)
  known_labels, table = np.unique(values, return_counts=True)
  places = np.searchsorted(known_labels, labels)
  places = np.minimum(places, len(known_labels) - 1)
  known = (known_labels[places] == labels) & (labels != PADDING)
  return np.where(known, table[places], 0)


def count_repetitions(
  labels: Int[np.ndarray, "q l"], index_labels: Int[np.ndarray, "n l2"]
) -> Int[np.ndarray, "q"]:
  """Returns the sum of (shared labels - 1) over items that share a label.

  Items that share s > 1 labels with a query share s (s - 1) / 2 pairs of them,
  so a join over pairs of labels meets only the items that were counted twice.
  """
  labels, index_labels = _narrow(labels, index_labels)
  span = int(max(labels.max(initial=0), index_labels.max(initial=0))) + 1
  rows, wanted = _pairs(labels, span)
  items, offered = _pairs(index_labels, span)
  likely = _may_contain(wanted, offered)
  items, offered = items[likely], offered[likely]
  order = np.argsort(offered)
  items, offered = items[order], offered[order]
  starts = np.searchsorted(offered, wanted)
  counts = np.searchsorted(offered, wanted, side="right") - starts
  # Every (query, item) that share a pair; a pair's items are a run.
  within = np.arange(counts.sum()) - np.repeat(counts.cumsum() - counts, counts)
  items = items[np.repeat(starts, counts) + within]
  joined = np.repeat(rows, counts) * len(index_labels) + items
  joined, num_pairs = np.unique(joined, return_counts=True)
  shared = np.rint((1 + np.sqrt(1 + 8 * num_pairs)) / 2).astype(np.int64)
  repetitions = np.zeros(len(labels), np.int64)
  np.add.at(repetitions, joined // max(len(index_labels), 1), shared - 1)
  return repetitions


def _narrow(labels, index_labels):
  """Renumbers labels, in their order, where two do not fit into one int64."""
  if max(labels.max(initial=0), index_labels.max(initial=0)) < _MAX_SPAN:
    return labels.astype(np.int64), index_labels.astype(np.int64)
  known = np.unique(np.append(labels, index_labels))
  return tuple(
    np.where(rows == PADDING, PADDING, np.searchsorted(known, rows))
    for rows in (labels, index_labels)
  )


def _pairs(
  labels: Int[np.ndarray, "n l"], span: int
) -> tuple[Int[np.ndarray, "p"], Int[np.ndarray, "p"]]:
  """Returns (row, code) of every two labels of a row."""
  rows, codes = [], []
  for i in range(labels.shape[1]):
    for j in range(i + 1, labels.shape[1]):
      both = (labels[:, i] != PADDING) & (labels[:, j] != PADDING)
      rows.append(np.flatnonzero(both))
      codes.append(labels[both, i] * span + labels[both, j])
  return np.concatenate(rows), np.concatenate(codes)


def _may_contain(
  wanted: Int[np.ndarray, "p"], offered: Int[np.ndarray, "p2"]
) -> Bool[np.ndarray, "p2"]:
  """Returns False only for codes that are not wanted."""
  flags = np.zeros(_FILTER_MASK + 1, bool)
  flags[wanted & _FILTER_MASK] = True
  return flags[offered & _FILTER_MASK]
