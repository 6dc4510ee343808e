"""Sections of a page: charts under a title."""

from collections.abc import Sequence
import dataclasses
from typing import Any

import markupsafe

from udon_jax.report import charts

# Of charts that stand four in a row.
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
