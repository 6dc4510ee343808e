"""Works of art: symmetric ornaments in a frame on a wall."""

import dataclasses

import numpy as np

from udon_jax.data.synthetic import canvas, palettes

_MOTIFS = ("blank", "square", "disc", "diamond", "wedge", "arc")
_FORMATS = ("square", "oval", "octagon", "arch")


@dataclasses.dataclass(frozen=True)
class Artwork:
  """What makes a work: motifs on a mirrored grid, and the picture's format."""

  cells: tuple[tuple[int, ...], ...]  # [rows, half the columns] of motifs
  inks: tuple[tuple[int, ...], ...]
  shape: str


def sample(rng: np.random.Generator) -> Artwork:
  """Draws a class."""
  cells = rng.integers(0, len(_MOTIFS), size=(4, 2))
  inks = rng.integers(0, 2, size=(4, 2))
  return Artwork(
    cells=tuple(map(tuple, cells.tolist())),
    inks=tuple(map(tuple, inks.tolist())),
    shape=_FORMATS[rng.integers(len(_FORMATS))],
  )


def palette(rng: np.random.Generator) -> palettes.Palette:
  """Draws the colours of a picture: old paint, mostly warm."""
  return palettes.draw_palette(rng, hue=0.12)


def backdrop(
  pen: canvas.Pen, colors: palettes.Palette, rng: np.random.Generator
) -> None:
  """Draws a wall with panels."""
  rail = rng.uniform(0.9, 1.3)
  pen.rect(-3, rail, 3, 3, palettes.shade(colors.back, 0.7))
  pen.rect(-3, rail, 3, rail + 0.08, palettes.shade(colors.back, 1.3))
  for x in (-1.7, 1.2):
    pen.rect(x, -0.8, x + 0.5, 0.8, colors.clutter[rng.integers(4)])


def draw(
  pen: canvas.Pen,
  kind: Artwork,
  colors: palettes.Palette,
  rng: np.random.Generator,
) -> None:
  """Draws one picture's work in a frame of its own."""
  frame = palettes.shade((190, 150, 70), rng.uniform(0.3, 1.3))
  mat = rng.uniform(0.0, 0.08)
  shadow = palettes.shade(colors.back, 0.55)
  outline = _outline(kind.shape)
  pen.at(dx=0.05, dy=0.06).polygon(outline, shadow)
  pen.polygon(outline, frame)
  pen.polygon(outline * 0.94, palettes.shade(frame, 0.6))
  pen.polygon(outline * 0.9, palettes.shade(frame, 1.4) if mat else frame)
  inner = outline * (0.9 - mat)
  pen.polygon(inner, colors.body)
  pen.inside(inner, lambda p: _draw_cells(p, kind, colors))


def _outline(shape):
  """The outline of a format."""
  match shape:
    case "oval":
      return canvas.ellipse(0, 0, 0.98, 0.98)
    case "octagon":
      return canvas.polar([1.06] * 8) @ _turn(np.pi / 8)
    case "arch":
      a = np.linspace(np.pi, 2 * np.pi, 14)
      arc = np.stack([0.95 * np.cos(a), -0.05 + 0.92 * np.sin(a)], 1)
      return np.concatenate([arc, [(0.95, 0.95), (-0.95, 0.95)]])
  return np.array([(-0.95, -0.95), (0.95, -0.95), (0.95, 0.95), (-0.95, 0.95)])


def _turn(angle):
  """A rotation of row vectors."""
  cos, sin = np.cos(angle), np.sin(angle)
  return np.array([[cos, sin], [-sin, cos]])


def _draw_cells(pen, kind, colors):
  """The ornament, mirrored left to right."""
  size = 0.42
  for row in range(4):
    for column in range(4):
      side = 1 if column >= 2 else -1
      half = column - 2 if column >= 2 else 1 - column
      ink = (colors.second, colors.accent)[kind.inks[row][half]]
      cell = pen.at(
        dx=(column - 1.5) * size,
        dy=(row - 1.5) * size,
        sx=side * size / 2,
        sy=size / 2,
      )
      _draw_motif(cell, _MOTIFS[kind.cells[row][half]], ink)


def _draw_motif(pen, motif, ink):
  """One cell's motif."""
  match motif:
    case "square":
      pen.rect(-1, -1, 1, 1, ink)
    case "disc":
      pen.ellipse(0, 0, 0.9, 0.9, ink)
    case "diamond":
      pen.polygon([(0, -1), (1, 0), (0, 1), (-1, 0)], ink)
    case "wedge":
      pen.polygon([(-1, 1), (1, 1), (1, -1)], ink)
    case "arc":
      a = np.linspace(0, np.pi / 2, 9)
      arc = np.stack([-1 + 2 * np.cos(a), 1 - 2 * np.sin(a)], 1)
      pen.polygon([(-1, 1), *arc.tolist()], ink)
