"""Charts: lines over steps, and pairs of values.

Shape legend: n points of a curve.
"""

from collections.abc import Mapping, Sequence
import dataclasses

from matplotlib import ticker
import numpy as np

from udon_jax.report import drawing, reading

_MAX_POINTS = 240  # more cannot be told apart at this size
_MAX_WINDOWS = 40
_LEAST_RANGE = 1e-6  # of an axis, where all values are 0
_LETTER = 6.5  # width of a letter, in pixels
_LABEL_GAP = 12  # between labels at the end of lines, in pixels


@dataclasses.dataclass(frozen=True)
class Line:
  """One line of a chart.

  Attributes:
    label: written at its end; "" for none.
    curve: its points.
    color: a stand-in.
    dashed: whether it is drawn in dashes.
    width: in pixels.
    opacity: of the line.
    until: step up to which the last value of a step plot holds; the end of
      the axis if None.
  """

  label: str
  curve: reading.Curve
  color: str
  dashed: bool = False
  width: float = 1.8
  opacity: float = 1.0
  until: int | None = None


@dataclasses.dataclass(frozen=True)
class Chart:
  """A drawn chart.

  Attributes:
    name: unique on the page.
    title: what it shows, with its unit.
    detail: said after the title.
    svg: the drawing.
  """

  name: str
  title: str
  detail: str
  svg: str


def lines(
  name: str,
  title: str,
  drawn: Sequence[Line],
  *,
  detail: str = "",
  unit: str = "",
  last_step: int,
  frozen_steps: int = 0,
  step_plot: bool = False,
  windows: bool = False,
  top: float | None = None,
  bottom: float | None = None,
  width: int = 360,
  height: int = 210,
) -> Chart | None:
  """Draws curves over steps; returns None if no curve has a point.

  Args:
    name: unique on the page.
    title: what it shows.
    drawn: the lines.
    detail: said after the title.
    unit: "%" where values are fractions, to be shown in percent.
    last_step: right end of the axis.
    frozen_steps: of the backbone, shaded.
    step_plot: whether a value holds until the next one.
    windows: whether to mark the first line's points as starts of windows.
    top: least upper end of the axis of values.
    bottom: its lower end.
    width: in pixels.
    height: likewise.
  """
  drawn = [line for line in drawn if len(line.curve)]
  if not drawn:
    return None
  with drawing.style():
    longest = max(len(line.label) for line in drawn)
    fig, ax = drawing.frame(width, height, right=12 + _LETTER * longest)
    if frozen_steps:
      _shade(ax, frozen_steps)
    for line in drawn:
      _plot(ax, line, step_plot=step_plot, last_step=last_step)
    _scale(ax, top=top, bottom=bottom, last_step=last_step)
    if windows:
      _mark_windows(ax, drawn[0].curve.steps)
    ax.yaxis.set_major_formatter(_formatter(unit))
    _label_ends(ax, drawn, step_plot=step_plot, last_step=last_step)
    text = f"{title}. {_summary(drawn, unit)}"
    return Chart(name, title, detail, drawing.to_svg(fig, name, text))


def dumbbells(
  name: str,
  title: str,
  pairs: Mapping[str, tuple[float, float]],
  *,
  detail: str,
  colors: Mapping[str, str],
  names: tuple[str, str],
) -> Chart:
  """Draws two fractions of every row on one axis, in percent.

  Args:
    name: unique on the page.
    title: what it shows.
    pairs: the two values of every row.
    detail: said after the title.
    colors: stand-in of every row.
    names: what the two are; the first is a full dot, the second an open one.
  """
  with drawing.style():
    fig, ax = drawing.frame(360, 46 + 20 * len(pairs), left=58, right=14)
    values = [value for pair in pairs.values() for value in pair]
    room = 0.15 * max(max(values) - min(values), 0.1)
    ax.set_xlim(max(min(values) - room, -0.02), min(max(values) + room, 1.02))
    ax.xaxis.set_major_locator(_few_ticks())
    ax.set_ylim(len(pairs) - 0.4, -0.6)
    ax.xaxis.grid(visible=True, color=drawing.LINE, linewidth=1)
    ax.yaxis.grid(visible=False)
    ax.xaxis.set_major_formatter(_formatter("%"))
    ax.set_yticks(range(len(pairs)), list(pairs))
    for text, label in zip(ax.get_yticklabels(), pairs, strict=True):
      text.set_color(drawing.INK)
      text.set_fontweight("bold" if label == "mean" else "normal")
    for row, (label, (first, second)) in enumerate(pairs.items()):
      color = colors.get(label, drawing.INK)
      ax.plot([first, second], [row, row], color=color, linewidth=2, alpha=0.45)
      ax.plot([second], [row], "o", ms=7.5, mec=color, mfc=drawing.PAPER, mew=2)
      ax.plot([first], [row], "o", ms=7.5, mec=color, mfc=color, mew=2)
    told = (
      f"{label} {names[0]} {100 * a:.1f}, {names[1]} {100 * b:.1f}"
      for label, (a, b) in pairs.items()
    )
    svg = drawing.to_svg(fig, name, f"{title}: {'; '.join(told)}")
    return Chart(name, title, detail, svg)


def thin(curve: reading.Curve) -> reading.Curve:
  """Returns means of as many neighbouring points as a chart can show."""
  if len(curve) <= _MAX_POINTS:
    return curve
  parts = np.array_split(np.arange(len(curve)), _MAX_POINTS)
  return reading.Curve(
    np.array([curve.steps[part[-1]] for part in parts]),
    np.array([curve.values[part].mean() for part in parts]),
  )


def _plot(ax, line, *, step_plot, last_step):
  """Draws one line."""
  curve = line.curve if step_plot else thin(line.curve)
  steps, values = curve.steps, curve.values
  if step_plot:
    until = last_step if line.until is None else line.until
    steps, values = np.append(steps, until), np.append(values, values[-1])
  ax.plot(
    steps,
    values,
    color=line.color,
    linewidth=line.width,
    linestyle=(0, (3, 2)) if line.dashed else "-",
    alpha=line.opacity,
    drawstyle="steps-post" if step_plot else "default",
    marker="o" if len(steps) == 1 else None,
    markersize=4,
  )


def _scale(ax, *, top, bottom, last_step):
  """Sets the axes' ranges and ticks."""
  ax.set_xlim(0, max(last_step, 1))
  ax.xaxis.set_major_locator(_few_ticks())
  ax.xaxis.set_major_formatter(lambda step, _: format_number(step))
  low, high = ax.get_ylim()
  if top is not None:
    high = max(top, high)
  if bottom is not None:
    low, high = bottom, max(high, bottom + _LEAST_RANGE)
  ax.set_ylim(low, high)
  ax.yaxis.set_major_locator(_few_ticks())


def _few_ticks():
  """Returns a locator of a few round numbers."""
  return ticker.MaxNLocator(4, steps=[1, 2, 2.5, 5, 10])


def _shade(ax, frozen_steps):
  """Marks the steps at which the backbone sits still."""
  ax.axvspan(0, frozen_steps, color=drawing.BAND, linewidth=0, zorder=0)


def _mark_windows(ax, starts):
  """Marks where windows of the sampler start."""
  if len(starts) <= _MAX_WINDOWS:
    for start in starts:
      ax.axvline(start, color=drawing.LINE, linewidth=1, zorder=0)


def _label_ends(ax, drawn, *, step_plot, last_step):
  """Writes the labels of lines at their right ends, apart from another."""
  drawn = [line for line in drawn if line.label]
  if not drawn:
    return
  to_pixels, from_pixels = ax.transData, ax.transAxes.inverted()
  ends = []
  for line in drawn:
    curve = line.curve if step_plot else thin(line.curve)
    end = curve.steps[-1]
    if step_plot:
      end = last_step if line.until is None else line.until
    ends.append((end, curve.values[-1]))
  box = ax.get_window_extent()
  at = to_pixels.transform(ends)
  for i, y in _spread(at[:, 1], low=box.y0, high=box.y1):
    end = from_pixels.transform(at[i])
    place = from_pixels.transform((box.x1, y))
    ax.plot(
      [end[0], 1.0, 1.0 + 8 / box.width],
      [end[1], end[1], place[1]],
      color=drawn[i].color,
      linewidth=0.8,
      alpha=0.5 if end[0] > 0.99 else 0.0,
      transform=ax.transAxes,
      clip_on=False,
    )
    ax.text(
      1.0 + 11 / box.width,
      place[1],
      drawn[i].label,
      color=drawing.for_text(drawn[i].color),
      transform=ax.transAxes,
      va="center_baseline",
      clip_on=False,
    )


def _spread(
  heights: np.ndarray, *, low: float, high: float
) -> list[tuple[int, float]]:
  """Returns (number, height) of labels, moved apart as little as needed."""
  order = np.argsort(heights, kind="stable")
  gap = min(_LABEL_GAP, (high - low) / max(len(order) - 1, 1))
  placed = [float(np.clip(heights[i], low, high)) for i in order]
  for i in range(1, len(placed)):
    placed[i] = max(placed[i], placed[i - 1] + gap)
  ceiling = high
  for i in reversed(range(len(placed))):
    placed[i] = min(placed[i], ceiling)
    ceiling = placed[i] - gap
  return list(zip(order.tolist(), placed, strict=True))


def _formatter(unit):
  """Returns how values are written at the axis."""
  if unit == "%":
    return ticker.FuncFormatter(lambda x, _: f"{100 * x:.3g}")
  return ticker.FuncFormatter(lambda x, _: format_number(x))


def format_number(value: float) -> str:
  """Returns a number as short as it can be told: 0.05, 12, 1.5k, 2M."""
  for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
    if abs(value) >= size:
      return f"{value / size:.3g}{letter}"
  return f"{value:.3g}"


def _summary(drawn, unit):
  """Returns the last values of lines, for those who cannot see them."""
  factor = 100 if unit == "%" else 1
  told = ", ".join(
    f"{x.label or 'value'} {factor * x.curve.values[-1]:.3g}"
    for x in drawn[:12]
  )
  return f"At step {max(x.curve.steps[-1] for x in drawn)}: {told}" + (
    " percent" if unit == "%" else ""
  )
