"""Landmarks: buildings with towers; classes differ in skyline and facade."""

import dataclasses

import numpy as np

from udon_jax.data.synthetic import canvas, palettes

_ROOFS = ("flat", "spire", "dome", "pitched", "stepped", "slab", "onion")
_FACADES = ("columns", "windows", "bands", "arches", "rose")


@dataclasses.dataclass(frozen=True)
class Tower:
  """One tower, left to right."""

  x: float
  width: float
  top: float
  roof: str


@dataclasses.dataclass(frozen=True)
class Building:
  """What makes a landmark."""

  towers: tuple[Tower, ...]
  hall: float  # top of the hall between the towers
  hall_width: float
  facade: str
  openings: int
  portal: float


def sample(rng: np.random.Generator) -> Building:
  """Draws a class; two thirds of the landmarks are symmetric."""
  count = int(rng.integers(1, 5))
  roofs = [_ROOFS[i] for i in rng.integers(len(_ROOFS), size=count)]
  tops = rng.uniform(-0.6, 0.1, size=count)
  widths = rng.uniform(0.16, 0.3, size=count)
  if rng.uniform() < 0.67:
    for i in range(count // 2):
      roofs[-1 - i], tops[-1 - i] = roofs[i], tops[i]
      widths[-1 - i] = widths[i]
  places = [0.0] if count == 1 else np.linspace(-0.75, 0.75, count)
  hall_width = rng.uniform(0.55, 0.98)
  return Building(
    towers=tuple(
      Tower(x=float(x), width=float(w), top=float(t), roof=r)
      for x, w, t, r in zip(places, widths, tops, roofs, strict=True)
    ),
    hall=rng.uniform(-0.3, 0.4),
    hall_width=hall_width,
    facade=_FACADES[rng.integers(len(_FACADES))],
    openings=int(rng.integers(2, 6)),
    portal=rng.uniform(0.0, 0.35),
  )


def palette(rng: np.random.Generator) -> palettes.Palette:
  """Draws the colours of a picture: stone under any sky."""
  return palettes.draw_palette(rng, hue=0.52)


def backdrop(
  pen: canvas.Pen, colors: palettes.Palette, rng: np.random.Generator
) -> None:
  """Draws clouds and hills."""
  for _ in range(int(rng.integers(1, 6))):
    x, y = rng.uniform(-1.8, 1.8), rng.uniform(-1.4, -0.2)
    pen.ellipse(
      x,
      y,
      rng.uniform(0.3, 0.8),
      rng.uniform(0.06, 0.2),
      palettes.shade(colors.back, 1.5),
    )
  for _ in range(3):
    x, y = rng.uniform(-2, 2), rng.uniform(0.9, 1.2)
    pen.ellipse(
      x,
      y,
      rng.uniform(0.5, 1.3),
      rng.uniform(0.3, 0.9),
      colors.clutter[rng.integers(4)],
    )


def draw(
  pen: canvas.Pen,
  kind: Building,
  colors: palettes.Palette,
  rng: np.random.Generator,
) -> None:
  """Draws one picture's landmark, with trees before it at times."""
  ground = 0.9
  side = palettes.shade(colors.body, rng.uniform(0.7, 0.9))
  for tower in kind.towers:
    _draw_tower(pen, tower, colors, side=side, ground=ground)
  w = kind.hall_width
  pen.rect(-w, kind.hall, w, ground, colors.body)
  pen.rect(
    -w - 0.03, kind.hall - 0.06, w + 0.03, kind.hall + 0.03, colors.second
  )
  _draw_facade(pen, kind, colors, ground=ground)
  pen.rect(-3, ground, 3, 3, palettes.shade(colors.clutter[0], 0.7))
  for _ in range(int(rng.integers(0, 4))):
    x, r = rng.uniform(-1.3, 1.3), rng.uniform(0.08, 0.2)
    pen.ellipse(
      x,
      ground - r * 0.5,
      r,
      r * 1.1,
      palettes.shade((60, 110, 50), rng.uniform(0.5, 1.2)),
    )


def _draw_tower(pen, tower, colors, *, side, ground):
  """A tower, its roof and its window."""
  x, w, top = tower.x, tower.width, tower.top
  pen.rect(x - w, top, x + w, ground, side)
  pen.rect(x - w * 0.35, top + 0.12, x + w * 0.35, top + 0.35, colors.dark)
  roof = colors.second
  match tower.roof:
    case "spire":
      pen.polygon([(x - w, top), (x, top - 0.5), (x + w, top)], roof)
    case "dome":
      pen.ellipse(x, top, w, w, roof)
    case "pitched":
      pen.polygon(
        [(x - w - 0.06, top), (x, top - 0.2), (x + w + 0.06, top)], roof
      )
    case "stepped":
      pen.rect(x - w * 0.7, top - 0.13, x + w * 0.7, top, roof)
      pen.rect(x - w * 0.35, top - 0.26, x + w * 0.35, top - 0.13, roof)
    case "slab":
      pen.rect(x - w - 0.08, top - 0.12, x + w + 0.08, top, roof)
    case "onion":
      pen.rect(x - w * 0.4, top - 0.1, x + w * 0.4, top, roof)
      pen.ellipse(x, top - 0.2, w * 0.95, w * 0.8, roof)
      pen.polygon(
        [(x - w * 0.5, top - 0.3), (x, top - 0.55), (x + w * 0.5, top - 0.3)],
        roof,
      )


def _draw_facade(pen, kind, colors, *, ground):
  """The openings of the hall and its portal."""
  n, w = kind.openings, kind.hall_width
  step = 2 * w / n
  top, low = kind.hall + 0.1, ground - 0.02
  for i in range(n):
    x = -w + step * (i + 0.5)
    match kind.facade:
      case "columns":
        pen.rect(x - step * 0.2, top, x + step * 0.2, low, colors.second)
      case "windows":
        for y in np.arange(top, low - 0.12, 0.24):
          pen.rect(x - step * 0.26, y, x + step * 0.26, y + 0.14, colors.dark)
      case "arches":
        pen.rect(x - step * 0.33, top + 0.25, x + step * 0.33, low, colors.dark)
        pen.ellipse(x, top + 0.25, step * 0.33, 0.16, colors.dark)
  if kind.facade == "bands":
    for y in np.arange(top, low, 0.2):
      pen.rect(-w, y, w, y + 0.09, colors.second)
  if kind.facade == "rose":
    r = (low - top) * 0.32
    pen.ellipse(0, top + r, r * 1.15, r * 1.15, colors.second)
    pen.ellipse(0, top + r, r * 0.8, r * 0.8, colors.dark)
  if kind.portal > 0.12:
    p = kind.portal
    pen.rect(-p * 0.6, ground - p, p * 0.6, ground, colors.accent)
    pen.ellipse(0, ground - p, p * 0.6, p * 0.5, colors.accent)
