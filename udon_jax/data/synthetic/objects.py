"""Products: turned objects (lamps, vases, pots) stacked from round parts."""

import dataclasses

import numpy as np

from udon_jax.data.synthetic import canvas, palettes

_HANDLES = ("none", "one", "two", "spout", "bail")
_TINTS = (
  (-1.0, -0.55, 0.62),
  (-0.55, 0.05, 0.85),
  (0.05, 0.5, 1.0),
  (0.5, 0.78, 1.35),
  (0.78, 1.0, 0.8),
)


@dataclasses.dataclass(frozen=True)
class Part:
  """One part of the stack, from its top to its bottom."""

  height: float
  top: float
  bottom: float
  bulge: float
  role: int  # which of three colours


@dataclasses.dataclass(frozen=True)
class Product:
  """What makes a product."""

  parts: tuple[Part, ...]
  handle: str
  legs: int
  band: float


def sample(rng: np.random.Generator) -> Product:
  """Draws a class."""
  count = int(rng.integers(2, 5))
  heights = rng.uniform(0.5, 1.5, size=count)
  heights *= rng.uniform(1.5, 1.9) / heights.sum()
  parts = []
  radius = rng.uniform(0.2, 0.8)
  for i in range(count):
    bottom = rng.uniform(0.15, 0.85)
    parts.append(
      Part(
        height=float(heights[i]),
        top=radius,
        bottom=bottom,
        bulge=float(rng.choice([0.0, 0.0, 0.25, -0.2])),
        role=int((i + rng.integers(2)) % 3),
      )
    )
    radius = bottom if rng.uniform() < 0.5 else rng.uniform(0.15, 0.85)
  return Product(
    parts=tuple(parts),
    handle=_HANDLES[rng.integers(len(_HANDLES))],
    legs=int(rng.choice([0, 0, 0, 3])),
    band=rng.uniform(0.2, 0.8),
  )


def palette(rng: np.random.Generator) -> palettes.Palette:
  """Draws the colours of a picture."""
  return palettes.draw_palette(rng, hue=0.78)


def backdrop(
  pen: canvas.Pen, colors: palettes.Palette, rng: np.random.Generator
) -> None:
  """Draws a table before a wall with things on it."""
  for _ in range(int(rng.integers(2, 6))):
    x, y = rng.uniform(-1.6, 1.6), rng.uniform(-1.4, 0.4)
    w, h = rng.uniform(0.1, 0.6, size=2)
    pen.rect(x, y, x + w, y + h, colors.clutter[rng.integers(4)])
  edge = rng.uniform(0.3, 0.8)
  pen.rect(-3, edge, 3, 3, palettes.shade(colors.back, rng.uniform(0.6, 1.4)))


def draw(
  pen: canvas.Pen,
  kind: Product,
  colors: palettes.Palette,
  rng: np.random.Generator,
) -> None:
  """Draws one picture's product."""
  tilt = rng.uniform(0.08, 0.22)
  flip = -1.0 if rng.uniform() < 0.5 else 1.0
  inks = (colors.body, colors.second, colors.accent)
  total = sum(part.height for part in kind.parts)
  top = -total / 2
  low = top + total
  pen.ellipse(0.1, low, 0.9, tilt, palettes.shade(colors.back, 0.55))
  _draw_handle(pen, kind, colors, top=top)
  for i in range(kind.legs):
    x = (i - 1) * kind.parts[-1].bottom * 0.8
    pen.rect(x - 0.06, low - 0.3, x + 0.06, low + 0.12, colors.dark)
  bottoms = np.cumsum([part.height for part in kind.parts]) + top
  for part, bottom in reversed(list(zip(kind.parts, bottoms, strict=True))):
    _draw_part(pen, part, inks[part.role], bottom=bottom, tilt=tilt, flip=flip)


def _draw_part(pen, part, color, *, bottom, tilt, flip):
  """A turned part with light from one side."""
  t = np.linspace(0, 1, 9)
  radii = part.top + (part.bottom - part.top) * t
  radii = np.maximum(radii + part.bulge * np.sin(np.pi * t), 0.08)
  ys = bottom - part.height * (1 - t)
  for left, right, light in _TINTS:
    x0, x1 = left * flip, right * flip
    strip = np.concatenate(
      [
        np.stack([radii * x0, ys + tilt * radii * np.sqrt(1 - x0 * x0)], 1),
        np.stack([radii * x1, ys + tilt * radii * np.sqrt(1 - x1 * x1)], 1)[
          ::-1
        ],
      ]
    )
    pen.polygon(strip, palettes.shade(color, light))
  lid = palettes.shade(color, 1.25)
  pen.ellipse(0, ys[0], radii[0], radii[0] * tilt, lid)
  rim = palettes.shade(color, 0.7)
  pen.ellipse(0, ys[0], radii[0] * 0.8, radii[0] * tilt * 0.8, rim)


def _draw_handle(pen, kind, colors, *, top):
  """Handles, a spout or a bail behind the stack."""
  middle = 0.05
  sides = {"one": (1,), "two": (-1, 1)}.get(kind.handle, ())
  for side in sides:
    a = np.linspace(-np.pi / 2, np.pi / 2, 12)
    points = np.stack(
      [side * (0.45 + 0.5 * np.cos(a)), middle + 0.45 * np.sin(a)], 1
    )
    pen.line(points, 0.12, colors.dark)
  if kind.handle == "spout":
    pen.polygon(
      [(0.2, 0.0), (0.95, -0.55), (1.05, -0.4), (0.3, 0.5)], colors.dark
    )
  if kind.handle == "bail":
    a = np.linspace(np.pi, 2 * np.pi, 16)
    points = np.stack([0.6 * np.cos(a), top + 0.3 + 0.5 * np.sin(a)], 1)
    pen.line(points, 0.1, colors.dark)
