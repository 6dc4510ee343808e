"""Tables of a report: results by domain, and configs."""

from collections.abc import Mapping, Sequence
import dataclasses
from typing import Any

from udon_jax import build, default_config

# (name in the results, heading)
METRICS = (("recall@1", "R@1"), ("mmp@5", "mMP@5"))
KINDS = ("merged", "separate")
MEAN = "mean"
MISSING = "-"


@dataclasses.dataclass(frozen=True)
class Cell:
  """A value in percent, as text, and whether it is its column's best."""

  text: str
  best: bool = False


@dataclasses.dataclass(frozen=True)
class Block:
  """The rows of one protocol: {embedding: cells}."""

  kind: str
  rows: Mapping[str, Sequence[Cell]]


@dataclasses.dataclass(frozen=True)
class Table:
  """The UnED table of a split: two columns a domain, then the mean."""

  split: str
  domains: Sequence[str]
  blocks: Sequence[Block]


def results_tables(results: Mapping[str, Any]) -> list[Table]:
  """Returns a table for every split of results in the form of results.json."""
  splits = dict.fromkeys(
    split
    for kinds in results.values()
    for by_split in kinds.values()
    for split in by_split
  )
  return [_table(results, split) for split in splits]


def value(
  results: Mapping[str, Any] | None,
  place: tuple[str, str],
  domain: str,
  key: str,
) -> float | None:
  """Returns a value of the test, None where there is none.

  Args:
    results: in the form of results.json.
    place: (embedding, protocol).
    domain: its name, or "mean".
    key: name of the metric.
  """
  name, kind = place
  by_split = (results or {}).get(name, {}).get(kind, {})
  return by_split.get("test", {}).get(domain, {}).get(key)


def _table(results: Mapping[str, Any], split: str) -> Table:
  names: dict[str, None] = {}
  values: dict[str, dict[str, Mapping[str, Any]]] = {}
  for kind in KINDS:
    rows = {
      name: kinds[kind][split]
      for name, kinds in results.items()
      if split in kinds.get(kind, {})
    }
    if rows:
      values[kind] = rows
    names |= dict.fromkeys(d for row in rows.values() for d in row)
  domains = [name for name in names if name != MEAN]
  domains += [MEAN] if MEAN in names else []
  return Table(
    split,
    domains,
    [Block(kind, _cells(rows, domains)) for kind, rows in values.items()],
  )


def _cells(
  rows: Mapping[str, Mapping[str, Any]], domains: Sequence[str]
) -> dict[str, list[Cell]]:
  """Returns the cells of rows, the best of a column marked."""
  columns = [(domain, key) for domain in domains for key, _ in METRICS]
  texts = {
    name: [percent(row.get(domain, {}).get(key)) for domain, key in columns]
    for name, row in rows.items()
  }
  best = []
  for domain, key in columns:
    found = [row.get(domain, {}).get(key) for row in rows.values()]
    known = [value for value in found if value is not None]
    best.append(percent(max(known)) if len(known) > 1 else None)
  return {
    name: [Cell(x, x == top) for x, top in zip(row, best, strict=True)]
    for name, row in texts.items()
  }


def percent(value: float | None) -> str:
  """Returns a fraction in percent with one decimal."""
  return MISSING if value is None else f"{100 * value:.1f}"


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
  """Returns {"a.b": value} of a nested config."""
  flat: dict[str, Any] = {}
  for key, value in config.items():
    if isinstance(value, Mapping):
      flat |= flatten(value, f"{prefix}{key}.")
    else:
      flat[f"{prefix}{key}"] = value
  return flat


def changes(config: Mapping[str, Any]) -> list[tuple[str, str, str]]:
  """Returns (key, default, value) of what differs from the defaults."""
  defaults = flatten(build.to_json(default_config.get_config()))
  return [
    (key, show(defaults.get(key)), show(value))
    for key, value in flatten(config).items()
    if value != defaults.get(key)
  ]


def differing_keys(configs: Sequence[Mapping[str, Any]]) -> list[str]:
  """Returns the keys whose values are not the same in all configs."""
  flat = [flatten(config) for config in configs]
  keys = dict.fromkeys(key for config in flat for key in config)
  return [
    key for key in keys if any(c.get(key) != flat[0].get(key) for c in flat)
  ]


def show(value: Any) -> str:
  """Returns a config's value as text."""
  if isinstance(value, list | tuple):
    return ", ".join(map(show, value)) or "()"
  return f"{value:g}" if isinstance(value, float) else str(value)
