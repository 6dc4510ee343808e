"""The UnED table as text."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from udon_jax.retrieval import protocol

MAX_WIDTH = 120

# (name in the results, heading)
_COLUMNS = (("recall@1", "R@1"), ("mmp@5", "mMP@5"))
_MISSING = "-"


def format_table(results: Mapping[str, Any]) -> str:
  """Returns the UnED table: R@1 and mMP@5 in percent, a table a split.

  Rows are embeddings under a protocol, merged first; columns are domains and
  their mean. Columns that pass 120 characters go on below.

  Args:
    results: the structure of `results.json`: {embedding: {"separate"|"merged":
      {split: {domain or "mean": {metric: fraction}}}}}.
  """
  splits = dict.fromkeys(
    split
    for kinds in results.values()
    for by_split in kinds.values()
    for split in by_split
  )
  return "\n\n".join(_format_split(results, split) for split in splits)


def round_as_official(results: Mapping[str, Any]) -> dict[str, Any]:
  """Returns results as the official code reports them.

  Values of domains have 3 decimals, and so has the mean of these.

  Args:
    results: as for `format_table`.
  """

  def of_domains(values):
    rounded = {
      domain: {k: float(np.round(v, 3)) for k, v in by_metric.items()}
      for domain, by_metric in values.items()
      if domain != protocol.MEAN
    }
    mean = {
      k: float(np.round(np.mean([v[k] for v in rounded.values()]), 3))
      for k in values[protocol.MEAN]
    }
    return {**rounded, protocol.MEAN: mean}

  return {
    name: {
      kind: {split: of_domains(values) for split, values in by_split.items()}
      for kind, by_split in kinds.items()
    }
    for name, kinds in results.items()
  }


def _format_split(results, split):
  """Formats the table of one split."""
  rows = {
    f"{name} {kind}": results[name][kind][split]
    for kind in (protocol.MERGED, protocol.SEPARATE)
    for name in results
    if split in results[name].get(kind, {})
  }
  domains = dict.fromkeys(d for row in rows.values() for d in row)
  names = [domain for domain in domains if domain != protocol.MEAN]
  names += [protocol.MEAN] if protocol.MEAN in domains else []
  labels = _align([f"{split} (%)", "", *rows], left=True)
  columns = [_format_domain(name, rows.values()) for name in names]
  blocks = [
    "\n".join("".join(line).rstrip() for line in zip(*block, strict=True))
    for block in _wrap(labels, columns)
  ]
  return "\n\n".join(blocks)


def _format_domain(name: str, rows) -> list[str]:
  """Returns the lines of one domain: name, headings, a line a row."""
  values = [
    _align([_percent(row.get(name, {}), key) for row in rows])
    for key, _ in _COLUMNS
  ]
  headings = " ".join(heading for _, heading in _COLUMNS)
  pairs = [" ".join(pair) for pair in zip(*values, strict=True)]
  return _align(["  " + line for line in (name, headings, *pairs)])


def _percent(values: Mapping[str, float], key: str) -> str:
  """Returns a fraction in percent with one decimal."""
  return f"{100 * values[key]:.1f}" if key in values else _MISSING


def _align(cells: Sequence[str], *, left: bool = False) -> list[str]:
  """Pads cells to the same width."""
  width = max(map(len, cells))
  return [cell.ljust(width) if left else cell.rjust(width) for cell in cells]


def _wrap(labels: list[str], columns: list[list[str]]):
  """Yields groups of columns within the width, labels first."""
  block, width = [labels], len(labels[0])
  for column in columns:
    if len(block) > 1 and width + len(column[0]) > MAX_WIDTH:
      yield block
      block, width = [labels], len(labels[0])
    block.append(column)
    width += len(column[0])
  yield block
