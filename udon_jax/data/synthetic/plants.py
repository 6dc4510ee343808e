"""Plants: branching systems; classes differ in habit, leaf and flower."""

import dataclasses

import numpy as np

from udon_jax.data.synthetic import canvas, palettes

_LEAVES = ("needle", "oval", "round", "heart", "pinnate")
_FLOWERS = ("none", "daisy", "disc", "star", "spike")


@dataclasses.dataclass(frozen=True)
class Plant:
  """What makes a species: an L-system of two levels with leaves and flowers."""

  stems: int
  fan: float  # angle between the outer stems
  pairs: int  # leaf pairs along a stem
  leaf: str
  leaf_length: float
  leaf_width: float
  leaf_angle: float
  taper: float  # how much shorter the upper leaves are
  flower: str
  petals: int
  flower_size: float
  droop: float


def sample(rng: np.random.Generator) -> Plant:
  """Draws a class."""
  stems = int(rng.choice([1, 1, 2, 3, 4]))
  return Plant(
    stems=stems,
    fan=rng.uniform(0.8, 1.9) if stems > 1 else 0.0,
    pairs=int(rng.integers(1, 4)),
    leaf=_LEAVES[rng.integers(len(_LEAVES))],
    leaf_length=rng.uniform(0.5, 0.9) / (1 + 0.25 * (stems > 1)),
    leaf_width=rng.uniform(0.2, 0.4),
    leaf_angle=rng.uniform(0.4, 1.5),
    taper=rng.uniform(-0.4, 0.8),
    flower=_FLOWERS[rng.integers(len(_FLOWERS))],
    petals=int(rng.integers(4, 10)),
    flower_size=rng.uniform(0.3, 0.55) / (1 + 0.2 * (stems > 1)),
    droop=rng.uniform(-0.5, 0.7),
  )


def palette(rng: np.random.Generator) -> palettes.Palette:
  """Draws the colours of a picture: foliage of any season."""
  return palettes.draw_palette(rng, hue=0.3)


def backdrop(
  pen: canvas.Pen, colors: palettes.Palette, rng: np.random.Generator
) -> None:
  """Draws soil and undergrowth."""
  ground = rng.uniform(0.5, 1.0)
  pen.rect(-3, ground, 3, 3, palettes.shade(colors.back, 0.7))
  for _ in range(int(rng.integers(10, 26))):
    x, h = rng.uniform(-1.8, 1.8), rng.uniform(0.2, 1.2)
    lean = rng.normal(0, 0.3)
    pen.line(
      [(x, ground + 0.2), (x + lean, ground - h)],
      0.05,
      colors.clutter[rng.integers(4)],
    )


def draw(
  pen: canvas.Pen,
  kind: Plant,
  colors: palettes.Palette,
  rng: np.random.Generator,
) -> None:
  """Draws one picture's plant; every leaf grows a little differently."""
  root = (0.0, 1.0)
  for i in range(kind.stems):
    share = 0.5 if kind.stems == 1 else i / (kind.stems - 1)
    angle = (share - 0.5) * kind.fan + rng.normal(0, 0.05)
    length = 1.55 - 0.25 * abs(share - 0.5)
    _draw_stem(pen, kind, colors, rng, root=root, angle=angle, length=length)


def _draw_stem(pen, kind, colors, rng, *, root, angle, length):
  """A stem from the root up, with its leaves and its flower."""
  bend = (kind.droop * np.sign(angle) if kind.stems > 1 else 0.0) * 0.5
  bend += rng.normal(0, 0.06)
  t = np.linspace(0, 1, 9)
  angles = angle + bend * t
  steps = np.stack([np.sin(angles), -np.cos(angles)], 1) * length / 8
  points = np.concatenate([[root], root + np.cumsum(steps, 0)])
  pen.line(points, 0.05, palettes.shade(colors.body, 0.6))
  for j in range(kind.pairs):
    where = 0.25 + 0.6 * (j + 0.5) / kind.pairs
    k = where * 8
    at = points[int(k)] + (k % 1) * (points[int(k) + 1] - points[int(k)])
    size = kind.leaf_length * (1 - kind.taper * (where - 0.5))
    for side in (-1, 1):
      a = angles[int(k)] + side * (kind.leaf_angle + rng.normal(0, 0.08))
      leaf = pen.at(dx=at[0], dy=at[1], angle=a)
      _draw_leaf(leaf, kind, colors, size=size * rng.uniform(0.9, 1.1))
  head = pen.at(dx=points[-1][0], dy=points[-1][1], angle=angles[-1])
  _draw_flower(head, kind, colors)


def _draw_leaf(pen, kind, colors, *, size):
  """A leaf that points up from the origin."""
  w = kind.leaf_width
  match kind.leaf:
    case "needle":
      pen.polygon([(-w * 0.25, 0), (0, -size), (w * 0.25, 0)], colors.body)
    case "oval":
      pen.ellipse(0, -size / 2, w * 0.6, size / 2, colors.body)
    case "round":
      pen.line([(0, 0), (0, -size * 0.6)], 0.04, colors.body)
      pen.ellipse(0, -size * 0.7, w * 0.9, w * 0.9, colors.body)
    case "heart":
      pen.polygon(
        [(0, 0), (-w, -size * 0.25), (0, -size), (w, -size * 0.25)],
        colors.body,
      )
    case "pinnate":
      pen.line([(0, 0), (0, -size)], 0.04, colors.body)
      for y in (0.3, 0.6, 0.9):
        pen.ellipse(0, -size * y, w * 0.9, size * 0.09, colors.body)
  vein = palettes.shade(colors.body, 0.65)
  pen.line([(0, 0), (0, -size * 0.8)], 0.02, vein)


def _draw_flower(pen, kind, colors):
  """The flower at a stem's tip."""
  r = kind.flower_size
  match kind.flower:
    case "daisy":
      for i in range(kind.petals):
        petal = pen.at(angle=2 * np.pi * i / kind.petals)
        petal.ellipse(0, -r * 0.65, r * 0.2, r * 0.4, colors.second)
      pen.ellipse(0, 0, r * 0.35, r * 0.35, colors.accent)
    case "disc":
      pen.ellipse(0, 0, r * 0.8, r * 0.8, colors.second)
      pen.ellipse(0, 0, r * 0.5, r * 0.5, colors.accent)
    case "star":
      pen.polygon(canvas.star(kind.petals, 0.4) * r, colors.second)
    case "spike":
      for i in range(4):
        pen.ellipse(
          0, -r * (0.4 * i), r * (0.5 - 0.1 * i), r * 0.22, colors.second
        )
