"""The charts of a run, section by section."""

from collections.abc import Mapping
from typing import Any

from udon_jax.report import charts, drawing, reading, sections, teachers

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


def all_sections(
  run: reading.Run,
  *,
  hues: Mapping[str, int],
  results: Mapping[str, Any] | None,
) -> list[sections.Section]:
  """Returns the sections that have anything to show."""
  colors = {name: drawing.hue(hues[name]) for name in run.domains}
  made = (
    teachers.section(run, colors, results),
    _validation(run, colors),
    _losses(run, colors),
    _sampling(run, colors),
    _rates(run),
    _speed(run),
  )
  return [section for section in map(sections.filled, made) if section.rows]


def _validation(run, colors) -> sections.Section:
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
          drawing.INK if name == "student" else drawing.MUTED,
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
  return sections.Section(
    "validation",
    "Validation",
    "On the validation splits; the checkpoint with the highest mean R@1 of the "
    "student in the merged index is the best one.",
    [sections.Row("medium", [*means, *students])],
  )


def _losses(run, colors) -> sections.Section:
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
  return sections.Section(
    "losses",
    "Losses",
    "Means between log points, by domain. The total is the weighted mean of "
    "the four terms." + _frozen_note(run),
    [sections.Row("medium", made)],
  )


def _sampling(run, colors) -> sections.Section:
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
  return sections.Section(
    "sampling",
    "Sampling",
    "The share of the steps that every domain gets. Lines mark the windows of "
    "the sampler, at whose start the shares are set.",
    [
      sections.Row(
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
      sections.Row(
        "small",
        [
          charts.lines(
            f"weight-{i}",
            f"{name}, %",
            [charts.Line("", weights[name], colors[name], width=2)],
            **options,
            **sections.SMALL,
          )
          for i, name in enumerate(run.domains)
        ],
      ),
    ],
  )


def _rates(run) -> sections.Section:
  """Learning rates, where the run logged them."""
  drawn = [
    charts.Line(name, run.curve(key), drawing.INK, dashed=name == "backbone")
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
  return sections.Section(
    "rates",
    "Learning rates",
    "Of the projections and classifiers (heads), and of the backbone."
    + _frozen_note(run),
    [sections.Row("medium", [chart])],
  )


def _speed(run) -> sections.Section:
  """Throughput and what bounds it."""
  made = [
    charts.lines(
      f"speed-{key.split('/')[1].replace('_', '-')}",
      title,
      [charts.Line("", run.curve(key), drawing.INK)],
      unit=unit,
      top=top,
      last_step=run.last_step,
      bottom=0.0,
      **sections.SMALL,
    )
    for key, (title, unit, top) in _SPEED.items()
  ]
  return sections.Section(
    "speed",
    "Speed",
    "Between log points; validations and saving do not count.",
    [sections.Row("small", made)],
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
