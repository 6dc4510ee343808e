"""Clothes: shirts, dresses and coats; classes differ in cut and print."""

import dataclasses

import numpy as np

from udon_jax.data.synthetic import canvas, palettes, patterns

_NECKS = ("round", "vee", "boat", "collar", "straps")
_EXTRAS = ("none", "belt", "placket", "pockets", "hem")


@dataclasses.dataclass(frozen=True)
class Garment:
  """What makes a garment."""

  length: float
  shoulder: float
  waist: float
  hem: float
  sleeve: float  # length; below 0.12 there is none
  sleeve_angle: float
  sleeve_width: float
  neck: str
  extra: str
  pattern: patterns.Pattern


def sample(rng: np.random.Generator) -> Garment:
  """Draws a class."""
  return Garment(
    length=rng.uniform(0.9, 1.8),
    shoulder=rng.uniform(0.35, 0.55),
    waist=rng.uniform(0.25, 0.55),
    hem=rng.uniform(0.3, 0.85),
    sleeve=float(rng.choice([0.0, 0.35, 0.6, 0.9]) + rng.uniform(0, 0.1)),
    sleeve_angle=rng.uniform(0.45, 1.2),
    sleeve_width=rng.uniform(0.16, 0.34),
    neck=_NECKS[rng.integers(len(_NECKS))],
    extra=_EXTRAS[rng.integers(len(_EXTRAS))],
    pattern=patterns.sample(rng),
  )


def palette(rng: np.random.Generator) -> palettes.Palette:
  """Draws the colours of a picture."""
  return palettes.draw_palette(rng, hue=0.93)


def backdrop(
  pen: canvas.Pen, colors: palettes.Palette, rng: np.random.Generator
) -> None:
  """Draws a studio: a wall with folds and a floor."""
  for x in np.arange(-2, 2, 0.4):
    if rng.uniform() < 0.5:
      pen.rect(x, -3, x + rng.uniform(0.1, 0.4), 3, colors.clutter[0])
  floor = rng.uniform(0.6, 1.1)
  pen.rect(-3, floor, 3, 3, palettes.shade(colors.back, rng.uniform(0.6, 1.3)))


def draw(
  pen: canvas.Pen,
  kind: Garment,
  colors: palettes.Palette,
  rng: np.random.Generator,
) -> None:
  """Draws one picture's garment, worn or on a hanger."""
  top = -0.9
  low = top + kind.length
  waist = top + min(0.75, kind.length * 0.55)
  skin = palettes.shade((236, 188, 150), rng.uniform(0.35, 1.0))
  if rng.uniform() < 0.7:
    pen.rect(-0.1, top - 0.2, 0.1, top + 0.2, skin)
    pen.ellipse(0, top - 0.3, 0.17, 0.22, skin)
    for x in (-0.22, 0.06):
      pen.rect(x, low - 0.1, x + 0.16, 1.5, skin)
  else:
    pen.line(
      [(-0.4, top + 0.1), (0, top - 0.1), (0.4, top + 0.1)], 0.05, colors.dark
    )
  swing = rng.normal(0, 0.06, size=2)
  for side, move in zip((-1, 1), swing, strict=True):
    _draw_sleeve(pen, kind, colors, top=top, side=side, move=move)
  s, w, h = kind.shoulder, kind.waist, kind.hem
  outline = [
    (-s, top),
    (-w, waist),
    (-h, low),
    (0, low + 0.05),
    (h, low),
    (w, waist),
    (s, top),
    (0.2, top - 0.06),
    (-0.2, top - 0.06),
  ]
  pen.polygon(outline, colors.body)
  pen.inside(
    outline,
    lambda inner: patterns.draw(
      inner.at(dy=(top + low) / 2, sx=0.75, sy=kind.length / 2),
      kind.pattern,
      colors.second,
    ),
  )
  _draw_neck(pen, kind, colors, top=top, skin=skin)
  _draw_extra(pen, kind, colors, top=top, waist=waist, low=low)


def _draw_sleeve(pen, kind, colors, *, top, side, move):
  """One sleeve."""
  if kind.sleeve < 0.12:
    return
  a = kind.sleeve_angle + move
  x, y = side * (kind.shoulder - 0.12), top + 0.12
  tip = (x + side * np.cos(a) * kind.sleeve, y + np.sin(a) * kind.sleeve)
  across = (
    -np.sin(a) * side * kind.sleeve_width / 2,
    np.cos(a) * kind.sleeve_width / 2,
  )
  pen.polygon(
    [
      (side * kind.shoulder, top),
      (tip[0] - across[0], tip[1] - across[1]),
      (tip[0] + across[0], tip[1] + across[1]),
      (x - side * 0.05, y + 0.3),
    ],
    palettes.shade(colors.body, 0.8),
  )


def _draw_neck(pen, kind, colors, *, top, skin):
  """The neckline."""
  match kind.neck:
    case "round":
      pen.ellipse(0, top - 0.04, 0.2, 0.2, skin)
    case "vee":
      pen.polygon(
        [(-0.22, top - 0.07), (0.22, top - 0.07), (0, top + 0.5)], skin
      )
    case "boat":
      pen.ellipse(0, top - 0.05, kind.shoulder * 0.85, 0.1, skin)
    case "collar":
      for side in (-1, 1):
        pen.polygon(
          [(0, top - 0.05), (side * 0.3, top - 0.1), (side * 0.22, top + 0.25)],
          colors.accent,
        )
    case "straps":
      pen.rect(
        -kind.shoulder * 0.55, top - 0.1, kind.shoulder * 0.55, top + 0.25, skin
      )


def _draw_extra(pen, kind, colors, *, top, waist, low):
  """A belt, buttons, pockets or a hem."""
  match kind.extra:
    case "belt":
      pen.rect(
        -kind.waist, waist - 0.07, kind.waist, waist + 0.07, colors.accent
      )
    case "placket":
      pen.rect(-0.06, top + 0.1, 0.06, low, colors.accent)
    case "pockets":
      y = top + kind.length * 0.6
      for x in (-0.3, 0.08):
        pen.rect(x, y, x + 0.22, y + 0.2, colors.accent)
    case "hem":
      pen.polygon(
        [
          (-kind.hem * 0.97, low - 0.16),
          (kind.hem * 0.97, low - 0.16),
          (kind.hem, low),
          (-kind.hem, low),
        ],
        colors.accent,
      )
