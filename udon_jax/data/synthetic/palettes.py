"""Colours, drawn anew for every picture: a class must not have a colour."""

import colorsys
import dataclasses

import numpy as np

from udon_jax.data.synthetic import canvas

# How far apart in lightness two parts that must be told apart are.
_APART = 0.22


@dataclasses.dataclass(frozen=True)
class Palette:
  """The colours of one picture.

  Attributes:
    back: the colour behind the object.
    clutter: a few colours close to it.
    body: the object's main colour.
    second: the colour of its parts, apart from the body in lightness.
    accent: the colour of its marks, apart from both.
    dark: a near black or a near white, whichever the body is far from.
  """

  back: canvas.Color
  clutter: tuple[canvas.Color, ...]
  body: canvas.Color
  second: canvas.Color
  accent: canvas.Color
  dark: canvas.Color


def shade(color: canvas.Color, factor: float) -> canvas.Color:
  """Returns a darker (factor < 1) or lighter (> 1) colour."""
  if factor <= 1:
    return tuple(int(c * factor) for c in color)
  return tuple(int(255 - (255 - c) / factor) for c in color)


def _color(hue: float, lightness: float, saturation: float) -> canvas.Color:
  """One colour from hue, lightness and saturation."""
  rgb = colorsys.hls_to_rgb(
    hue % 1.0, min(max(lightness, 0.03), 0.97), saturation
  )
  return tuple(int(255 * c) for c in rgb)


def _lightness(rng: np.random.Generator, *others: float) -> float:
  """A lightness apart from the others."""
  tries = rng.uniform(0.12, 0.92, size=24)
  gaps = np.min(np.abs(tries[:, None] - np.array(others)), axis=1)
  good = np.flatnonzero(gaps > _APART)
  return float(tries[good[0] if len(good) else np.argmax(gaps)])


def draw_palette(
  rng: np.random.Generator,
  *,
  hue: float | None = None,
  spread: float = 0.08,
  saturation: tuple[float, float] = (0.25, 0.8),
) -> Palette:
  """Draws the colours of one picture.

  Args:
    rng: the picture's generator.
    hue: the usual hue of the domain's objects; None for any.
    spread: standard deviation of the hue about it.
    saturation: range of the object's saturation.
  """
  body_hue = rng.uniform() if hue is None else rng.normal(hue, spread)
  back = rng.uniform(0.1, 0.9)
  body = _lightness(rng, back)
  second = _lightness(rng, body)
  accent = _lightness(rng, body, second)
  hues = body_hue + np.array([0.0, rng.uniform(0.1, 0.9), rng.uniform()])
  tones = rng.uniform(*saturation, size=3)
  back_hue, back_tone = rng.uniform(), rng.uniform(0.05, 0.5)
  clutter = tuple(
    _color(
      back_hue + rng.normal(0, 0.08), back + rng.normal(0, 0.07), back_tone
    )
    for _ in range(4)
  )
  return Palette(
    back=_color(back_hue, back, back_tone),
    clutter=clutter,
    body=_color(hues[0], body, tones[0]),
    second=_color(hues[1], second, tones[1]),
    accent=_color(hues[2], accent, tones[2]),
    dark=_color(body_hue, 0.08 if body > 0.45 else 0.92, 0.15),
  )
