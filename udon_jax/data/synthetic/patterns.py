"""Prints: coarse patterns that fill [-1, 1] x [-1, 1]."""

import dataclasses
import types

import numpy as np

from udon_jax.data.synthetic import canvas


@dataclasses.dataclass(frozen=True)
class Pattern:
  """A print: its kind, its repeats, and how wide its marks are."""

  kind: str
  count: int
  duty: float


def sample(
  rng: np.random.Generator, kinds: tuple[str, ...] | None = None
) -> Pattern:
  """Draws a print, of some kinds or of any."""
  kinds = kinds or KINDS
  return Pattern(
    kind=kinds[rng.integers(len(kinds))],
    count=int(rng.integers(2, 5)),
    duty=float(rng.uniform(0.35, 0.65)),
  )


def draw(pen: canvas.Pen, pattern: Pattern, color: canvas.Color) -> None:
  """Draws the marks of a print; the ground is left as it is."""
  if pattern.kind == "plain":
    return
  step = 2.0 / pattern.count
  width = step * pattern.duty
  starts = -1 + step * (np.arange(-2, pattern.count + 2) + 0.5) - width / 2
  _MARKS[pattern.kind](pen, starts, width, color)


def _across(pen, starts, width, color):
  """Bars from left to right."""
  for y in starts:
    pen.rect(-1.2, y, 1.2, y + width, color)


def _down(pen, starts, width, color):
  """Bars from top to bottom."""
  for x in starts:
    pen.rect(x, -1.2, x + width, 1.2, color)


def _slant(pen, starts, width, color):
  """Bars that rise to the right."""
  for x in starts:
    bar = [(x - 1, 1), (x - 1 + width, 1), (x + 1 + width, -1), (x + 1, -1)]
    pen.polygon(bar, color)


def _dots(pen, starts, width, color):
  """Discs on a grid."""
  for x in starts:
    for y in starts:
      pen.ellipse(x + width / 2, y + width / 2, 0.6 * width, 0.6 * width, color)


def _checks(pen, starts, width, color):
  """A chess board."""
  step = starts[1] - starts[0]
  for i, x in enumerate(starts + width / 2):
    for j, y in enumerate(starts + width / 2):
      if (i + j) % 2 == 0:
        pen.rect(x, y, x + step, y + step, color)


def _chevrons(pen, starts, width, color):
  """Bars that point up in the middle."""
  for y in starts:
    upper = [(-1.2, y + 0.5), (0, y), (1.2, y + 0.5)]
    lower = [(x, z + width) for x, z in reversed(upper)]
    pen.polygon(upper + lower, color)


def _half(pen, starts, width, color):
  """The lower part."""
  del starts
  pen.rect(-1.2, 0.9 - 1.4 * width, 1.2, 1.2, color)


def _disc(pen, starts, width, color):
  """One big disc."""
  del starts
  pen.ellipse(0, 0, 0.6 + 0.5 * width, 0.6 + 0.5 * width, color)


def _diamond(pen, starts, width, color):
  """One big diamond."""
  del starts
  x = 0.5 + 0.5 * width
  pen.polygon([(0, -1), (x, 0), (0, 1), (-x, 0)], color)


_MARKS = types.MappingProxyType(
  {
    "across": _across,
    "down": _down,
    "slant": _slant,
    "dots": _dots,
    "checks": _checks,
    "chevrons": _chevrons,
    "half": _half,
    "disc": _disc,
    "diamond": _diamond,
  }
)
KINDS = ("plain", *_MARKS)
