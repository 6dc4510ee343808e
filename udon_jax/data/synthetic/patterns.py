"""Prints: coarse patterns that fill [-1, 1] x [-1, 1]."""

import dataclasses

import numpy as np

from udon_jax.data.synthetic import canvas

KINDS = (
  "plain",
  "across",
  "down",
  "slant",
  "dots",
  "checks",
  "chevrons",
  "half",
  "rings",
  "diamond",
)


@dataclasses.dataclass(frozen=True)
class Pattern:
  """A print: its kind, how many times it repeats, and how wide its marks are."""

  kind: str
  count: int
  duty: float


def sample(rng: np.random.Generator, kinds: tuple[str, ...] = KINDS) -> Pattern:
  """Draws a print."""
  return Pattern(
    kind=kinds[rng.integers(len(kinds))],
    count=int(rng.integers(2, 5)),
    duty=float(rng.uniform(0.35, 0.65)),
  )


def draw(pen: canvas.Pen, pattern: Pattern, color: canvas.Color) -> None:
  """Draws the marks of a print; the ground is left as it is."""
  step = 2.0 / pattern.count
  width = step * pattern.duty
  starts = [-1 + step * (i + 0.5) - width / 2 for i in range(pattern.count)]
  match pattern.kind:
    case "across":
      for y in starts:
        pen.rect(-1.2, y, 1.2, y + width, color)
    case "down":
      for x in starts:
        pen.rect(x, -1.2, x + width, 1.2, color)
    case "slant":
      for x in [-1 - 2 * step, -1 - step, *starts, 1, 1 + step]:
        pen.polygon(
          [(x - 1, 1), (x - 1 + width, 1), (x + 1 + width, -1), (x + 1, -1)],
          color,
        )
    case "dots":
      for x in starts:
        for y in starts:
          pen.ellipse(
            x + width / 2, y + width / 2, width * 0.6, width * 0.6, color
          )
    case "checks":
      for i in range(-1, pattern.count + 1):
        for j in range(-1, pattern.count + 1):
          if (i + j) % 2 == 0:
            x, y = -1 + i * step, -1 + j * step
            pen.rect(x, y, x + step, y + step, color)
    case "chevrons":
      for y in [-1 - step, *starts]:
        pen.polygon(
          [
            (-1.2, y + 0.5),
            (0, y),
            (1.2, y + 0.5),
            (1.2, y + 0.5 + width),
            (0, y + width),
            (-1.2, y + 0.5 + width),
          ],
          color,
        )
    case "half":
      pen.rect(-1.2, 1 - 2 * pattern.duty, 1.2, 1.2, color)
    case "rings":
      radius = 1.0
      pen.ellipse(0, 0, radius, radius, color)
    case "diamond":
      pen.polygon([(0, -1), (0.8, 0), (0, 1), (-0.8, 0)], color)
