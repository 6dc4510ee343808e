"""Cars: vehicles from the side; classes differ in body, wheels and paint."""

import dataclasses

import numpy as np

from udon_jax.data.synthetic import canvas, palettes, patterns

_PAINT = ("plain", "across", "slant", "half", "down", "checks")
_EXTRAS = ("none", "rack", "spoiler", "light", "pipe")


@dataclasses.dataclass(frozen=True)
class Vehicle:
  """What makes a model of vehicle."""

  hood: float  # height of the body at the front, from the sill up
  tail: float  # ... at the rear
  cabin_front: float
  cabin_rear: float
  cabin_height: float
  slope_front: float
  slope_rear: float
  windows: int
  wheels: tuple[float, ...]
  wheel_radius: float
  spokes: int  # 0: a disc, 1: a ring
  extra: str
  paint: patterns.Pattern


def sample(rng: np.random.Generator) -> Vehicle:
  """Draws a class."""
  front = rng.uniform(-0.75, 0.1)
  wheels = [rng.uniform(-0.72, -0.5), rng.uniform(0.4, 0.72)]
  if rng.uniform() < 0.25:
    wheels.append(wheels[1] - rng.uniform(0.42, 0.5))
  return Vehicle(
    hood=rng.uniform(0.25, 0.65),
    tail=rng.uniform(0.25, 0.65),
    cabin_front=front,
    cabin_rear=rng.uniform(front + 0.6, 0.95),
    cabin_height=rng.uniform(0.25, 0.6),
    slope_front=rng.uniform(0.0, 0.4),
    slope_rear=rng.uniform(-0.05, 0.4),
    windows=int(rng.integers(1, 4)),
    wheels=tuple(wheels),
    wheel_radius=rng.uniform(0.18, 0.32),
    spokes=int(rng.choice([0, 1, 3, 4, 5])),
    extra=_EXTRAS[rng.integers(len(_EXTRAS))],
    paint=patterns.sample(rng, _PAINT),
  )


def palette(rng: np.random.Generator) -> palettes.Palette:
  """Draws the colours of a picture."""
  return palettes.draw_palette(rng, hue=0.6)


def backdrop(
  pen: canvas.Pen, colors: palettes.Palette, rng: np.random.Generator
) -> None:
  """Draws a road before houses."""
  horizon = rng.uniform(-0.1, 0.5)
  for x in np.arange(-2.4, 2.4, 0.5):
    top = horizon - rng.uniform(0.1, 0.9)
    color = colors.clutter[rng.integers(4)]
    pen.rect(x, top, x + rng.uniform(0.3, 0.6), horizon, color)
  pen.rect(-3, horizon, 3, 3, palettes.shade(colors.back, 0.75))


def draw(
  pen: canvas.Pen,
  kind: Vehicle,
  colors: palettes.Palette,
  rng: np.random.Generator,
) -> None:
  """Draws one picture's vehicle."""
  pen = pen.at(dy=0.12, sx=0.98, sy=1.2)
  sill = 0.5
  front, rear = sill - kind.hood, sill - kind.tail
  roof = min(front, rear) - kind.cabin_height
  left = kind.cabin_front + kind.slope_front
  right = max(kind.cabin_rear - kind.slope_rear, left + 0.3)
  body = [
    (-1, sill),
    (-1, front + 0.08),
    (-0.94, front),
    (kind.cabin_front, front - 0.03),
    (left, roof),
    (right, roof),
    (kind.cabin_rear, rear - 0.03),
    (0.97, rear),
    (1, sill),
  ]
  pen.ellipse(0, 0.72, 1.05, 0.12, palettes.shade(colors.back, 0.5))
  _draw_extra(pen, kind, colors, roof=roof, left=left, right=right, rear=rear)
  pen.polygon(body, colors.body)
  middle = (sill + min(front, rear)) / 2
  half = (sill - min(front, rear)) / 2
  pen.inside(
    [(-1, sill), (-1, front), (1, rear), (1, sill)],
    lambda inner: patterns.draw(
      inner.at(dy=middle, sy=half), kind.paint, colors.second
    ),
  )
  _draw_windows(pen, kind, colors, roof=roof, left=left, right=right)
  pen.rect(-1, sill - 0.07, 1, sill, palettes.shade(colors.body, 0.5))
  lamp = palettes.shade(colors.accent, 1.4)
  pen.ellipse(-0.93, front + 0.12, 0.07, 0.07, lamp)
  turn = rng.uniform(0, 2 * np.pi)
  for x in kind.wheels:
    _draw_wheel(pen.at(dx=x, dy=sill + 0.04), kind, colors, turn=turn)


def _draw_windows(pen, kind, colors, *, roof, left, right):
  """The glass of the cabin, cut into panes."""
  base = min(0.5 - kind.hood, 0.5 - kind.tail) - 0.02
  top, low = roof + 0.07, max(base, roof + 0.16)
  glass = [
    (kind.cabin_front + 0.12, low),
    (left + 0.06, top),
    (right - 0.06, top),
    (kind.cabin_rear - 0.12, low),
  ]
  pen.polygon(glass, colors.dark)
  for i in range(1, kind.windows):
    x = left + (right - left) * i / kind.windows
    pen.rect(x - 0.035, top - 0.02, x + 0.035, low + 0.02, colors.body)


def _draw_wheel(pen, kind, colors, *, turn):
  """A tyre and its rim."""
  r = kind.wheel_radius
  pen.ellipse(0, 0, r, r, (22, 22, 24))
  rim = (200, 202, 206)
  if kind.spokes == 0:
    pen.ellipse(0, 0, r * 0.68, r * 0.68, rim)
  elif kind.spokes == 1:
    pen.ellipse(0, 0, r * 0.72, r * 0.72, rim)
    pen.ellipse(0, 0, r * 0.42, r * 0.42, (40, 40, 44))
  else:
    for i in range(kind.spokes):
      a = turn + 2 * np.pi * i / kind.spokes
      tip = (r * 0.75 * np.cos(a), r * 0.75 * np.sin(a))
      pen.line([(0, 0), tip], r * 0.3, rim)


def _draw_extra(pen, kind, colors, *, roof, left, right, rear):
  """What stands on the roof or the tail."""
  match kind.extra:
    case "rack":
      pen.rect(left, roof - 0.16, right, roof - 0.09, colors.accent)
      for x in (left + 0.05, right - 0.1):
        pen.rect(x, roof - 0.12, x + 0.06, roof, colors.accent)
    case "spoiler":
      pen.rect(0.7, rear - 0.26, 1.05, rear - 0.16, colors.accent)
      pen.rect(0.84, rear - 0.2, 0.92, rear, colors.accent)
    case "light":
      x = (left + right) / 2
      pen.rect(x - 0.12, roof - 0.14, x + 0.12, roof, colors.accent)
    case "pipe":
      pen.rect(0.72, roof - 0.1, 0.82, rear, colors.accent)
