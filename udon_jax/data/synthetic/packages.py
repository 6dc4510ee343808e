"""Retail: packages on a shelf; classes differ in form, label and glyphs."""

import dataclasses

import numpy as np

from udon_jax.data.synthetic import canvas, palettes, patterns

_FORMS = ("box", "bottle", "can", "pouch", "jar", "carton")
_EMBLEMS = ("none", "disc", "star", "shield", "sun")


@dataclasses.dataclass(frozen=True)
class Package:
  """What makes a product on the shelf."""

  form: str
  width: float
  label_top: float
  label_height: float
  emblem: str
  emblem_place: float
  glyphs: tuple[tuple[tuple[int, ...], ...], ...]  # two bitmaps [4, 3]
  pattern: patterns.Pattern


def sample(rng: np.random.Generator) -> Package:
  """Draws a class."""
  glyphs = rng.integers(0, 2, size=(2, 4, 3))
  return Package(
    form=_FORMS[rng.integers(len(_FORMS))],
    width=rng.uniform(0.5, 0.8),
    label_top=rng.uniform(-0.35, 0.05),
    label_height=rng.uniform(0.5, 0.75),
    emblem=_EMBLEMS[rng.integers(len(_EMBLEMS))],
    emblem_place=float(rng.choice([-0.55, 0.0, 0.55])),
    glyphs=tuple(tuple(map(tuple, g.tolist())) for g in glyphs),
    pattern=patterns.sample(rng),
  )


def palette(rng: np.random.Generator) -> palettes.Palette:
  """Draws the colours of a picture: loud ones."""
  return palettes.draw_palette(rng, hue=0.43)


def backdrop(
  pen: canvas.Pen, colors: palettes.Palette, rng: np.random.Generator
) -> None:
  """Draws a shelf with other packages."""
  for x in (-1.75, 0.95):
    color = palettes.shade(
      colors.clutter[rng.integers(4)], rng.uniform(0.7, 1.4)
    )
    pen.rect(x, rng.uniform(-0.9, -0.3), x + rng.uniform(0.5, 0.75), 1, color)
  pen.rect(-3, 0.97, 3, 1.1, palettes.shade(colors.back, 1.4))
  pen.rect(-3, 1.1, 3, 3, palettes.shade(colors.back, 0.6))


def draw(
  pen: canvas.Pen,
  kind: Package,
  colors: palettes.Palette,
  rng: np.random.Generator,
) -> None:
  """Draws one picture's package."""
  outline = _outline(kind)
  pen.polygon(outline, colors.body)
  pen.inside(
    outline,
    lambda inner: patterns.draw(
      inner.at(sx=kind.width), kind.pattern, palettes.shade(colors.second, 0.9)
    ),
  )
  _draw_cap(pen, kind, colors)
  w = kind.width * 0.86
  low = min(kind.label_top + kind.label_height, 0.85)
  pen.rect(-w, kind.label_top, w, low, colors.accent)
  middle = (kind.label_top + low) / 2
  size = min(w * 0.42, kind.label_height * 0.42)
  for x, glyph in zip((-w * 0.48, w * 0.48), kind.glyphs, strict=True):
    _draw_glyph(pen.at(dx=x, dy=middle, sx=size, sy=size), glyph, colors)
  _draw_emblem(pen, kind, colors)
  sheen = rng.uniform(-0.7, 0.6) * kind.width
  pen.rect(sheen, -0.55, sheen + 0.04, 0.9, palettes.shade(colors.body, 1.6))


def _outline(kind):
  """The silhouette of a form."""
  w = kind.width
  right = {
    "box": [(w, -0.85), (w, 0.97)],
    "bottle": [(w * 0.3, -1), (w * 0.3, -0.7), (w, -0.4), (w, 0.97)],
    "can": [(w * 0.85, -0.92), (w, -0.8), (w, 0.88), (w * 0.85, 0.97)],
    "pouch": [(w, -0.9), (w * 0.82, -0.65), (w * 0.9, 0.6), (w, 0.97)],
    "jar": [(w * 0.75, -0.8), (w * 0.75, -0.6), (w, -0.45), (w, 0.97)],
    "carton": [(w * 0.5, -1), (w, -0.6), (w, 0.97)],
  }[kind.form]
  return np.array(right + [(-x, y) for x, y in reversed(right)])


def _draw_cap(pen, kind, colors):
  """The lid or the fold of a form."""
  w = kind.width
  match kind.form:
    case "bottle":
      pen.rect(-w * 0.38, -1.08, w * 0.38, -0.84, colors.second)
    case "can":
      pen.rect(-w * 0.85, -0.97, w * 0.85, -0.85, (190, 192, 196))
    case "jar":
      pen.rect(-w * 0.9, -0.92, w * 0.9, -0.64, colors.second)
    case "pouch":
      pen.rect(-w, -0.9, w, -0.78, palettes.shade(colors.body, 0.6))
    case "carton":
      pen.line([(-w, -0.6), (w, -0.6)], 0.05, palettes.shade(colors.body, 0.6))


def _draw_glyph(pen, glyph, colors):
  """A block letter, as a bitmap."""
  for row, bits in enumerate(glyph):
    for column, bit in enumerate(bits):
      if bit:
        x, y = (column - 1.5) * 0.62, (row - 2) * 0.5
        pen.rect(x, y, x + 0.62, y + 0.5, colors.body)


def _draw_emblem(pen, kind, colors):
  """The mark above the label."""
  y = (-0.45 + kind.label_top) / 2 - 0.08
  mark = pen.at(dx=kind.emblem_place * kind.width, dy=y, sx=0.22, sy=0.22)
  match kind.emblem:
    case "disc":
      mark.ellipse(0, 0, 1, 1, colors.accent)
    case "star":
      mark.polygon(canvas.star(5, 0.45) * 1.2, colors.accent)
    case "shield":
      mark.polygon(
        [(-1, -1), (1, -1), (0.8, 0.4), (0, 1.2), (-0.8, 0.4)], colors.accent
      )
    case "sun":
      mark.polygon(canvas.star(9, 0.6) * 1.2, colors.accent)
      mark.ellipse(0, 0, 0.5, 0.5, colors.dark)
