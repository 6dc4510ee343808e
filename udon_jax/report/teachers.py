"""What the student reaches of its teachers."""

from collections.abc import Mapping
from typing import Any

from udon_jax.report import charts, reading, sections, tables


def section(
  run: reading.Run,
  colors: Mapping[str, str],
  results: Mapping[str, Any] | None,
) -> sections.Section:
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
      **sections.SMALL,
    )
    for i, name in enumerate(run.domains)
  ]
  return sections.Section(
    "teachers",
    "Teacher and student",
    "What the student reaches of its teachers, and what the merged index costs "
    "it; below, of every domain, the classification losses of student (solid) "
    "and teacher (dashed) over the steps.",
    [sections.Row("medium", overview), sections.Row("small", pairs)],
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
