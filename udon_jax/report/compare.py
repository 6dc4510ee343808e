"""The page that puts runs side by side.

Runs whose configs differ in the seed alone are one group, with the mean and
the sample standard deviation of what they reach.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import json
import string
from typing import Any

import numpy as np

from udon_jax.report import (
  charts,
  curves,
  drawing,
  page,
  reading,
  sections,
  tables,
)

_PLACES = (
  ("student", "merged"),
  ("student", "separate"),
  ("teacher", "merged"),
  ("teacher", "separate"),
  ("backbone", "merged"),
  ("backbone", "separate"),
)


@dataclasses.dataclass(frozen=True)
class Group:
  """Runs of one config.

  Attributes:
    letter: short name.
    hue: number of its colour.
    runs: of the group, in the order given.
    config: without the seed, flat.
  """

  letter: str
  hue: int
  runs: Sequence[reading.Run]
  config: Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Spread:
  """Mean and sample standard deviation (n - 1) of some values.

  Attributes:
    mean: of the values; None if there are none.
    std: None of fewer than two.
    count: how many there are.
  """

  mean: float | None
  std: float | None
  count: int

  @property
  def text(self) -> str:
    """Returns them in percent."""
    if self.std is None:
      return tables.percent(self.mean)
    return f"{tables.percent(self.mean)} ± {100 * self.std:.1f}"


def spread(values: Sequence[float | None]) -> Spread:
  """Returns mean and spread of those values that are there."""
  known = [value for value in values if value is not None]
  return Spread(
    float(np.mean(known)) if known else None,
    float(np.std(known, ddof=1)) if len(known) > 1 else None,
    len(known),
  )


def group(runs: Sequence[reading.Run]) -> list[Group]:
  """Returns runs by their config but for the seed, in the order given."""
  found: dict[str, list[reading.Run]] = {}
  for run in runs:
    config = {k: v for k, v in run.config.items() if k != "seed"}
    found.setdefault(json.dumps(config, sort_keys=True), []).append(run)
  return [
    Group(_letter(i), i, members, tables.flatten(json.loads(key)))
    for i, (key, members) in enumerate(found.items())
  ]


def _letter(number: int) -> str:
  """Returns A to Z, then A2, B2, ..."""
  turn, place = divmod(number, len(string.ascii_uppercase))
  return string.ascii_uppercase[place] + (str(turn + 1) if turn else "")


def render(runs: Sequence[reading.Run]) -> str:
  """Returns the page of some runs."""
  groups = group(runs)
  keys = tables.differing_keys([each.config for each in groups])
  shown = [
    sections.filled(section)
    for section in (_validation(groups), _losses(groups), _weights(groups))
  ]
  shown = [section for section in shown if section.rows]
  scores = list(_scores(groups))
  return page.fill(
    "compare.html.j2",
    title="Comparison of runs",
    lead=f"{len(runs)} runs, {len(groups)} "
    + ("groups" if len(groups) > 1 else "group")
    + " of equal configs but for the seed",
    groups=[_summary(each) for each in groups],
    runs=[_headline(each, run) for each in groups for run in each.runs],
    keys=[
      (key, [tables.show(each.config.get(key)) for each in groups])
      for key in keys
    ],
    scores=scores,
    domains=_domains(runs),
    sections=shown,
    contents=[
      ("groups", "Groups"),
      *([("scores", "By domain")] if scores else []),
      *((section.id, section.title) for section in shown),
      ("runs", "Runs"),
    ],
  )


def _summary(each: Group) -> dict[str, Any]:
  """Returns a group's row of the first table."""
  found = {
    label: spread(
      [
        tables.value(run.results, _PLACES[0], tables.MEAN, key)
        for run in each.runs
      ]
    )
    for key, label in tables.METRICS
  }
  return {
    "letter": each.letter,
    "hue": each.hue % drawing.NUM_HUES,
    "names": ", ".join(run.name for run in each.runs),
    "seeds": ", ".join(str(run.config.get("seed", "?")) for run in each.runs),
    "count": len(each.runs),
    "tested": max(value.count for value in found.values()),
    "values": [value.text for value in found.values()],
  }


def _headline(each: Group, run: reading.Run) -> dict[str, Any]:
  """Returns a run's row of the last table."""
  values, note = page.headline(run)
  total = run.num_steps
  return {
    "letter": each.letter,
    "hue": each.hue % drawing.NUM_HUES,
    "name": run.name,
    "seed": str(run.config.get("seed", "?")),
    "date": run.date,
    "steps": f"{run.last_step:,}"
    + (f" of {total:,}" if total and run.last_step < total else ""),
    "values": [tables.percent(values.get(key)) for key, _ in tables.METRICS],
    "note": note if values else "no validation yet",
  }


def _domains(runs: Sequence[reading.Run]) -> list[str]:
  """Returns the names of all domains of all runs."""
  return list(dict.fromkeys(name for run in runs for name in run.domains))


def _scores(groups: Sequence[Group]):
  """Yields the table of every place and metric that some run has."""
  runs = [run for each in groups for run in each.runs]
  names = [*_domains(runs), tables.MEAN]
  for place in _PLACES:
    for key, label in tables.METRICS:
      rows: list[dict[str, Any]] = []
      for each in groups:
        of_runs = [
          [tables.value(run.results, place, name, key) for name in names]
          for run in each.runs
        ]
        rows.append(
          {
            "letter": each.letter,
            "hue": each.hue % drawing.NUM_HUES,
            "values": [
              spread(column).text for column in zip(*of_runs, strict=True)
            ],
            "runs": [
              (run.name, [tables.percent(value) for value in values])
              for run, values in zip(each.runs, of_runs, strict=True)
            ],
          }
        )
      if any(
        value != tables.MISSING for row in rows for value in row["values"]
      ):
        yield {
          "name": "-".join((*place, key.replace("@", ""))),
          "title": f"{label}, {place[0]}, {page.KIND_TITLES[place[1]].lower()}",
          "rows": rows,
        }


def _overlay(
  groups: Sequence[Group],
  curve: Callable[..., reading.Curve],
  *arguments: str,
) -> list[charts.Line]:
  """Returns a line a run, and the mean of every group of several.

  Args:
    groups: the groups.
    curve: (run, *arguments) -> the run's line.
    *arguments: for `curve`.
  """
  drawn = []
  for each in groups:
    found = [(run, curve(run, *arguments)) for run in each.runs]
    found = [(run, points) for run, points in found if len(points)]
    several = len(found) > 1
    drawn += [
      charts.Line(
        "" if several else each.letter,
        points,
        drawing.hue(each.hue),
        width=1.0 if several else 1.8,
        opacity=0.4 if several else 1.0,
        until=run.last_step,
      )
      for run, points in found
    ]
    if several:
      drawn.append(
        charts.Line(
          each.letter,
          mean([points for _, points in found]),
          drawing.hue(each.hue),
          width=2.2,
          until=min(run.last_step for run, _ in found),
        )
      )
  return drawn


def mean(found: Sequence[reading.Curve]) -> reading.Curve:
  """Returns the mean of curves at the steps that all of them have."""
  steps = found[0].steps
  for curve in found[1:]:
    steps = np.intersect1d(steps, curve.steps)
  values = [
    curve.values[np.searchsorted(curve.steps, steps)] for curve in found
  ]
  return reading.Curve(steps, np.mean(values, axis=0))


def _last_step(groups: Sequence[Group]) -> int:
  return max(run.last_step for each in groups for run in each.runs)


def _validation(groups: Sequence[Group]) -> sections.Section:
  """The student's validation."""
  made = [
    charts.lines(
      f"validation-{label.split('@')[0]}-{kind}",
      f"{label} of the student, mean, {kind}, %",
      _overlay(groups, reading.Run.curve, f"val/student/{kind}/mean/{key}"),
      unit="%",
      last_step=_last_step(groups),
      bottom=0.0,
    )
    for key, label, kind in (
      ("recall@1", "R@1", "merged"),
      ("mmp@5", "mMP@5", "merged"),
      ("recall@1", "R@1", "separate"),
    )
  ]
  return sections.Section(
    "validation",
    "Validation",
    "Thin: a run. Thick: the mean of a group of several.",
    [sections.Row("medium", made)],
  )


def _losses(groups: Sequence[Group]) -> sections.Section:
  """Every term, its mean over the domains."""
  made = [
    charts.lines(
      f"losses-{term}",
      curves.TITLES[term],
      _overlay(groups, reading.Run.mean_loss, term),
      last_step=_last_step(groups),
      bottom=0.0,
    )
    for term in reading.TERMS
  ]
  return sections.Section(
    "losses",
    "Losses",
    "Mean over the domains of each one's latest value.",
    [sections.Row("medium", made)],
  )


def _weights(groups: Sequence[Group]) -> sections.Section:
  """The share of every domain."""
  runs = [run for each in groups for run in each.runs]
  shares = [run.weight(name).values for run in runs for name in run.domains]
  top = max((values.max() for values in shares if len(values)), default=0.0)
  made = [
    charts.lines(
      f"weight-{i}",
      f"{name}, %",
      _overlay(groups, reading.Run.weight, name),
      unit="%",
      last_step=_last_step(groups),
      step_plot=True,
      bottom=0.0,
      top=1.1 * float(top),
      **sections.SMALL,
    )
    for i, name in enumerate(_domains(runs))
  ]
  return sections.Section(
    "sampling",
    "Sampling",
    "The share of the steps that every domain gets.",
    [sections.Row("small", made)],
  )
