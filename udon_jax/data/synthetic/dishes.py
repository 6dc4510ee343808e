"""Food: plates from above; classes differ in what lies where."""

import dataclasses

import numpy as np

from udon_jax.data.synthetic import canvas, palettes

_PLATES = ("round", "square", "oval", "hexagon")
_ITEMS = ("ball", "wedge", "stick", "leaf", "cube", "ring")
_CENTRES = ("none", "ball", "star", "heap", "cube", "cross")
_SAUCES = ("none", "pool", "zigzag", "ring", "half")


@dataclasses.dataclass(frozen=True)
class Dish:
  """What makes a dish."""

  plate: str
  count: int
  item: str
  item_size: float
  radius: float
  centre: str
  centre_size: float
  sauce: str
  alternate: bool


def sample(rng: np.random.Generator) -> Dish:
  """Draws a class."""
  return Dish(
    plate=_PLATES[rng.integers(len(_PLATES))],
    count=int(rng.integers(2, 8)),
    item=_ITEMS[rng.integers(len(_ITEMS))],
    item_size=rng.uniform(0.2, 0.36),
    radius=rng.uniform(0.45, 0.62),
    centre=_CENTRES[rng.integers(len(_CENTRES))],
    centre_size=rng.uniform(0.22, 0.4),
    sauce=_SAUCES[rng.integers(len(_SAUCES))],
    alternate=bool(rng.integers(2)),
  )


def palette(rng: np.random.Generator) -> palettes.Palette:
  """Draws the colours of a picture: warm food."""
  return palettes.draw_palette(rng, hue=0.06)


def backdrop(
  pen: canvas.Pen, colors: palettes.Palette, rng: np.random.Generator
) -> None:
  """Draws a table of boards, with cutlery."""
  for y in np.arange(-2, 2, rng.uniform(0.25, 0.6)):
    pen.rect(-3, y, 3, y + 0.25, colors.clutter[rng.integers(4)])
  for _ in range(int(rng.integers(0, 3))):
    x = rng.choice([-1, 1]) * rng.uniform(1.0, 1.4)
    pen.rect(x, -0.8, x + 0.08, 0.9, (205, 205, 210))


def draw(
  pen: canvas.Pen,
  kind: Dish,
  colors: palettes.Palette,
  rng: np.random.Generator,
) -> None:
  """Draws one picture's plate, turned a little more than other things."""
  plate = palettes.shade((250, 248, 244), rng.uniform(0.8, 1.0))
  pen = pen.at(angle=rng.normal(0, 0.05))
  outline = _plate(kind.plate)
  pen.at(dx=0.04, dy=0.07).polygon(outline, palettes.shade(colors.back, 0.5))
  pen.polygon(outline, plate)
  pen.polygon(outline * 0.88, palettes.shade(plate, 0.88))
  _draw_sauce(pen, kind, colors)
  for i in range(kind.count):
    angle = 2 * np.pi * i / kind.count + rng.normal(0, 0.05)
    spot = pen.at(
      dx=kind.radius * np.sin(angle),
      dy=-kind.radius * np.cos(angle),
      angle=angle,
      sx=kind.item_size,
      sy=kind.item_size,
    )
    ink = colors.dark if kind.alternate and i % 2 else colors.accent
    _draw_item(spot, kind.item, ink)
  _draw_centre(
    pen.at(sx=kind.centre_size, sy=kind.centre_size), kind, colors, rng
  )


def _plate(shape):
  """The outline of a plate."""
  match shape:
    case "square":
      return np.array([(-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)])
    case "oval":
      return canvas.ellipse(0, 0, 1.08, 0.82)
    case "hexagon":
      return canvas.polar([1.03] * 6)
  return canvas.ellipse(0, 0, 0.98, 0.98)


def _draw_sauce(pen, kind, colors):
  """What is under the food."""
  ink = palettes.shade(colors.body, 0.85)
  match kind.sauce:
    case "pool":
      pen.ellipse(0, 0, 0.62, 0.62, ink)
    case "ring":
      pen.line(np.vstack([canvas.ellipse(0, 0, 0.7, 0.7)] * 2), 0.12, ink)
    case "zigzag":
      xs = np.linspace(-0.6, 0.6, 7)
      ys = 0.55 * (-1.0) ** np.arange(7)
      pen.line(np.stack([xs, ys], 1), 0.1, ink)
    case "half":
      a = np.linspace(0, np.pi, 14)
      pen.polygon(np.stack([0.75 * np.cos(a), 0.75 * np.sin(a)], 1), ink)


def _draw_item(pen, item, ink):
  """One piece of food, lit from above."""
  shadow, shine = palettes.shade(ink, 0.55), palettes.shade(ink, 1.5)
  match item:
    case "ball":
      pen.ellipse(0.1, 0.15, 1, 1, shadow)
      pen.ellipse(0, 0, 1, 1, ink)
      pen.ellipse(-0.3, -0.3, 0.3, 0.3, shine)
    case "wedge":
      pen.polygon([(-1, -0.9), (1, -0.9), (0, 1.2)], ink)
      pen.rect(-1, -0.95, 1, -0.6, shadow)
    case "stick":
      pen.rect(-0.35, -1.2, 0.35, 1.2, ink)
      pen.rect(-0.35, -1.2, -0.1, 1.2, shine)
    case "leaf":
      pen.ellipse(0, 0, 0.5, 1.2, ink)
      pen.line([(0, -1.1), (0, 1.1)], 0.15, shadow)
    case "cube":
      pen.rect(-0.9, -0.9, 0.9, 0.9, ink)
      pen.rect(-0.9, 0.5, 0.9, 0.9, shadow)
    case "ring":
      pen.line(np.vstack([canvas.ellipse(0, 0, 0.8, 0.8)] * 2), 0.4, ink)


def _draw_centre(pen, kind, colors, rng):
  """The piece in the middle."""
  ink = colors.second
  match kind.centre:
    case "star":
      pen.polygon(canvas.star(5, 0.45) * 1.2, ink)
    case "heap":
      for x, y in rng.uniform(-0.7, 0.7, size=(7, 2)):
        shade = palettes.shade(ink, rng.uniform(0.7, 1.3))
        pen.ellipse(x, y, 0.4, 0.4, shade)
    case "cross":
      pen.rect(-1.1, -0.35, 1.1, 0.35, ink)
      pen.rect(-0.35, -1.1, 0.35, 1.1, ink)
    case "ball" | "cube":
      _draw_item(pen, kind.centre, ink)
