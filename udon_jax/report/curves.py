"""The charts of a run, section by section."""

from collections.abc import Iterator, Mapping, Sequence
import dataclasses
from typing import Any

import markupsafe

from udon_jax.report import charts, reading, tables

_TITLES = {
  "loss": "Total loss",
  "teacher_classification": "Teacher classification",
  "student_classification": "Student classification",
  "logit_distillation": "Logit distillation",
  "relation_distillation": "Relation distillation",
}
_SPEED = {
  "speed/images_per_second": ("Images per second", "", None),
  "speed/data_wait": ("Wait for data, % of the time", "%", 0.1),
  "speed/mfu": ("Model FLOPs utilisation, %", "%", None),
  "memory/peak_gb": ("Peak memory of the process, GB", "", None),
}
_RATES = {"learning_rate/heads": "heads", "learning_rate/backbone": "backbone"}


@dataclasses.dataclass(frozen=True)
class Row:
  """Charts of one size: "wide", "medium" or "small"."""

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
  return [section for section in map(_filled, made) if section.rows]


def _filled(section: Section) -> Section:
  """Returns a section without charts that have no data, ready for the page."""
  rows = [
    Row(row.size, [markup(chart) for chart in row.charts if chart])
    for row in section.rows
  ]
  return dataclasses.replace(section, rows=[row for row in rows if row.charts])


def markup(chart: charts.Chart) -> charts.Chart:
  """Returns a chart whose drawing a template takes as it is."""
  svg = markupsafe.Markup(chart.svg)  # noqa: S704 (escaped where it is drawn)
  return dataclasses.replace(chart, svg=svg)


def _teachers(run, colors, results) -> Section:
  """Each domain's teacher against the student."""
  scores = _scores(results)
  overview = None
  if scores:
    overview = charts.dumbbells(
      "teachers",
      "R@1 with separate indexes, %: student ● and teacher ○",
      scores,
      colors=colors,
      names=("student", "teacher"),
    )
  pairs = []
  for i, name in enumerate(run.domains):
    title = name
    if name in scores:
      student, teacher = map(tables.percent, scores[name])
      title = f"{name}: R@1 {student} student, {teacher} teacher"
    pairs.append(
      charts.lines(
        f"teacher-{i}",
        title,
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
        last_step=run.last_step,
        frozen_steps=run.frozen_steps,
        bottom=0.0,
        width=300,
        height=170,
      )
    )
  return Section(
    "teachers",
    "Teacher and student",
    "Of every domain: the classification losses of its teacher (dashed) and of "
    "the student (solid) over the steps.",
    [Row("wide", [overview]), Row("small", pairs)],
  )


def _scores(results) -> dict[str, tuple[float, float]]:
  """Returns {domain: recall@1 of student and teacher, separate indexes}."""
  by_name = []
  for name in ("student", "teacher"):
    by_split = ((results or {}).get(name) or {}).get("separate") or {}
    by_name.append(by_split.get("test") or {})
  student, teacher = by_name
  return {
    domain: (student[domain]["recall@1"], teacher[domain]["recall@1"])
    for domain in student
    if "recall@1" in student[domain] and "recall@1" in teacher.get(domain, {})
  }


def _validation(run, colors) -> Section:
  """Recall and mMP over the steps."""
  means, students = [], []
  for key, label in tables.METRICS:
    means.append(
      charts.lines(
        f"validation-mean-{label.split('@')[0]}",
        f"{label}, mean over domains, merged index, %",
        [
          charts.Line(
            name,
            run.curve(f"val/{name}/merged/mean/{key}"),
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
    )
    students.append(
      charts.lines(
        f"validation-domains-{label.split('@')[0]}",
        f"{label} of the student by domain, merged index, %",
        _by_domain(
          {
            name: run.curve(f"val/student/merged/{name}/{key}")
            for name in run.domains
          },
          colors,
        ),
        unit="%",
        last_step=run.last_step,
        frozen_steps=run.frozen_steps,
        bottom=0.0,
      )
    )
  return Section(
    "validation",
    "Validation",
    "On the validation splits; the checkpoint with the highest mean R@1 of the "
    "student is the best one.",
    [Row("medium", [*means, *students])],
  )


def _losses(run, colors) -> Section:
  """Every term, a line a domain."""
  made = [
    charts.lines(
      f"losses-{term}",
      _TITLES[term],
      _by_domain(run.losses(term), colors),
      last_step=run.last_step,
      frozen_steps=run.frozen_steps,
      bottom=0.0,
    )
    for term in reading.TERMS
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
  weights = run.weights()
  equal = 1 / max(len(run.domains), 1)
  chart = charts.lines(
    "weights",
    "Share of the steps, %",
    _by_domain(weights, colors),
    unit="%",
    last_step=run.last_step,
    step_plot=True,
    bottom=0.0,
    top=2 * equal,
    width=820,
    height=300,
  )
  return Section(
    "sampling",
    "Sampling",
    "The weight of every domain, window by window of the sampler.",
    [Row("wide", [chart])],
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
    width=820,
    height=240,
  )
  return Section(
    "rates",
    "Learning rates",
    "Of the projections and classifiers (heads), and of the backbone."
    + _frozen_note(run),
    [Row("wide", [chart])],
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
      width=300,
      height=170,
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
  return list(_lines(by_domain, colors))


def _lines(by_domain, colors) -> Iterator[charts.Line]:
  for name, curve in by_domain.items():
    yield charts.Line(name, curve, colors[name], width=1.6)
