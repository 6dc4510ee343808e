"""The charts of a run, section by section."""

from collections.abc import Mapping, Sequence
import dataclasses
from typing import Any

import markupsafe

from udon_jax.report import charts, reading, tables

TITLES = {
  "loss": "Total loss",
  "teacher_classification": "Teacher classification",
  "student_classification": "Student classification",
  "logit_distillation": "Logit distillation",
  "relation_distillation": "Relation distillation",
  "grad_norm": "Norm of the gradient",
}
_SPEED = {
  "speed/images_per_second": ("Images per second", "", None),
  "speed/data_wait": ("Wait for data, % of the time", "%", 0.1),
  "speed/mfu": ("Model FLOPs utilisation, %", "%", None),
  "memory/peak_gb": ("Peak memory of the process, GB", "", None),
}
_RATES = {"learning_rate/heads": "heads", "learning_rate/backbone": "backbone"}

SMALL: dict[str, Any] = {"width": 262, "height": 156}


@dataclasses.dataclass(frozen=True)
class Row:
  """Charts of one size: "medium" or "small"."""

  size: str
  charts: Sequence[Any]


@dataclasses.dataclass(frozen=True)
class Section:
  """Charts under one title; those that have no data are left out."""

  id: str
  title: str
  text: str
  rows: Sequence[Row]


def sections(
  run: reading.Run,
  *,
  hues: Mapping[str, int],
  results: Mapping[str, Any] | None,
) -> list[Section]:
  """Returns the sections that have anything to show."""
  colors = {name: charts.hue(hues[name]) for name in run.domains}
  made = (
    _teachers(run, colors, results),
    _validation(run, colors),
    _losses(run, colors),
    _sampling(run, colors),
    _rates(run),
    _speed(run),
  )
  return [section for section in map(filled, made) if section.rows]


def filled(section: Section) -> Section:
  """Returns a section without charts that have no data, ready for the page."""
  rows = [
    Row(row.size, [markup(chart) for chart in row.charts if chart])
    for row in section.rows
  ]
  return dataclasses.replace(section, rows=[row for row in rows if row.charts])


def markup(chart: charts.Chart) -> charts.Chart:
  """Returns a chart whose drawing a template takes as it is."""
  svg = markupsafe.Markup(chart.svg)  # escaped where it was drawn
  return dataclasses.replace(chart, svg=svg)


def _teachers(run, colors, results) -> Section:
  """Each domain's teacher against the student."""
  overview = [
    _dumbbells(
      f"teachers-{label.split('@')[0]}",
      f"{label}, separate, %",
      _scores(results, key, ("student", "separate"), ("teacher", "separate")),
      colors=colors,
      names=("student", "teacher"),
    )
    for key, label in tables.METRICS
  ]
  overview.append(
    _dumbbells(
      "indexes",
      "R@1 of the student, %",
      _scores(
        results, "recall@1", ("student", "separate"), ("student", "merged")
      ),
      colors=colors,
      names=("separate", "merged"),
    )
  )
  pairs = [
    charts.lines(
      f"teacher-{i}",
      name,
      [
        charts.Line(
          "student",
          run.curve("student_classification", domain=name),
          colors[name],
        ),
        charts.Line(
          "teacher",
          run.curve("teacher_classification", domain=name),
          colors[name],
          dashed=True,
        ),
      ],
      detail="classification loss",
      last_step=run.last_step,
      frozen_steps=run.frozen_steps,
      bottom=0.0,
      **SMALL,
    )
    for i, name in enumerate(run.domains)
  ]
  return Section(
    "teachers",
    "Teacher and student",
    "What the student reaches of its teachers, and what the merged index costs "
    "it; below, of every domain, the classification losses of student (solid) "
    "and teacher (dashed) over the steps.",
    [Row("medium", overview), Row("small", pairs)],
  )


def _dumbbells(name, title, scores, *, colors, names) -> charts.Chart | None:
  """Returns a chart of two values a domain, None without results."""
  if not scores:
    return None
  return charts.dumbbells(
    name,
    title,
    scores,
    detail=f"● {names[0]} ○ {names[1]}",
    colors=colors,
    names=names,
  )


def _scores(
  results: Mapping[str, Any] | None, key: str, *places: tuple[str, str]
) -> dict[str, tuple[float, float]]:
  """Returns {domain: values of a metric at two places} of a test.

  Args:
    results: in the form of results.json.
    key: name of the metric.
    places: two (embedding, protocol).
  """
  first, second = (
    ((results or {}).get(name, {}).get(kind, {})).get("test", {})
    for name, kind in places
  )
  return {
    domain: (first[domain][key], second[domain][key])
    for domain in first
    if key in first[domain] and key in second.get(domain, {})
  }


def _validation(run, colors) -> Section:
  """Recall and mMP over the steps."""
  shown = (
    ("recall@1", "R@1", "merged"),
    ("mmp@5", "mMP@5", "merged"),
    ("recall@1", "R@1", "separate"),
  )
  means = [
    charts.lines(
      f"validation-{label.split('@')[0]}-{kind}",
      f"{label}, mean, {kind}, %",
      [
        charts.Line(
          name,
          run.curve(f"val/{name}/{kind}/mean/{key}"),
          charts.INK if name == "student" else charts.MUTED,
          dashed=name == "teacher",
          width=2.2 if name == "student" else 1.4,
        )
        for name in ("student", "teacher", "backbone")
      ],
      unit="%",
      last_step=run.last_step,
      frozen_steps=run.frozen_steps,
      bottom=0.0,
    )
    for key, label, kind in shown
  ]
  students = [
    charts.lines(
      f"validation-{label.split('@')[0]}-{kind}-domains",
      f"{label} of the student, {kind}, %",
      _by_domain(
        {
          name: run.curve(f"val/student/{kind}/{name}/{key}")
          for name in run.domains
        },
        colors,
      ),
      unit="%",
      last_step=run.last_step,
      frozen_steps=run.frozen_steps,
      bottom=0.0,
    )
    for key, label, kind in shown
  ]
  return Section(
    "validation",
    "Validation",
    "On the validation splits; the checkpoint with the highest mean R@1 of the "
    "student in the merged index is the best one.",
    [Row("medium", [*means, *students])],
  )


def _losses(run, colors) -> Section:
  """Every term, a line a domain."""
  made = [
    charts.lines(
      f"losses-{term}",
      TITLES[term],
      _by_domain(run.losses(term), colors),
      last_step=run.last_step,
      frozen_steps=run.frozen_steps,
      bottom=0.0,
    )
    for term in (*reading.TERMS, "grad_norm")
  ]
  return Section(
    "losses",
    "Losses",
    "Means between log points, by domain. The total is the weighted mean of "
    "the four terms." + _frozen_note(run),
    [Row("medium", made)],
  )


def _sampling(run, colors) -> Section:
  """How often each domain is drawn."""
  weights = {name: run.weight(name) for name in run.domains}
  top = max(
    (max(curve.values) for curve in weights.values() if len(curve)), default=0
  )
  options: dict[str, Any] = {
    "unit": "%",
    "last_step": run.last_step,
    "step_plot": True,
    "windows": True,
    "bottom": 0.0,
    "top": 1.1 * top,
  }
  return Section(
    "sampling",
    "Sampling",
    "The share of the steps that every domain gets. Lines mark the windows of "
    "the sampler, at whose start the shares are set.",
    [
      Row(
        "medium",
        [
          charts.lines(
            "weights",
            "All domains, %",
            _by_domain(weights, colors),
            **options,
          )
        ],
      ),
      Row(
        "small",
        [
          charts.lines(
            f"weight-{i}",
            f"{name}, %",
            [charts.Line("", weights[name], colors[name], width=2)],
            **options,
            **SMALL,
          )
          for i, name in enumerate(run.domains)
        ],
      ),
    ],
  )


def _rates(run) -> Section:
  """Learning rates, where the run logged them."""
  drawn = [
    charts.Line(name, run.curve(key), charts.INK, dashed=name == "backbone")
    for key, name in _RATES.items()
  ]
  chart = charts.lines(
    "rates",
    "Learning rate",
    drawn,
    last_step=run.last_step,
    frozen_steps=run.frozen_steps,
    bottom=0.0,
  )
  return Section(
    "rates",
    "Learning rates",
    "Of the projections and classifiers (heads), and of the backbone."
    + _frozen_note(run),
    [Row("medium", [chart])],
  )


def _speed(run) -> Section:
  """Throughput and what bounds it."""
  made = [
    charts.lines(
      f"speed-{key.split('/')[1].replace('_', '-')}",
      title,
      [charts.Line("", run.curve(key), charts.INK)],
      unit=unit,
      top=top,
      last_step=run.last_step,
      bottom=0.0,
      **SMALL,
    )
    for key, (title, unit, top) in _SPEED.items()
  ]
  return Section(
    "speed",
    "Speed",
    "Between log points; validations and saving do not count.",
    [Row("small", made)],
  )


def _frozen_note(run) -> str:
  if not run.frozen_steps:
    return ""
  return f" Shaded: the {run.frozen_steps:,} steps with a frozen backbone."


def _by_domain(
  by_domain: Mapping[str, reading.Curve], colors: Mapping[str, str]
) -> list[charts.Line]:
  return [
    charts.Line(name, curve, colors[name], width=1.6)
    for name, curve in by_domain.items()
  ]
