"""Colours, drawn anew for every picture: a class must not have a colour."""

import colorsys
import dataclasses
import types

import numpy as np

from udon_jax.data.synthetic import canvas

# Grey values of the parts, and how much they vary: hue and saturation are
# free, so that a colour tells nothing, but parts stay apart from each other.
_LIGHT = types.MappingProxyType(
  {"back": 0.42, "body": 0.75, "second": 0.2, "accent": 0.55, "dark": 0.06}
)
_SPREAD = 0.06
_BACK_SPREAD = 0.1
_TONES = (0.0, 0.35)  # saturation
_LUMA = np.array([0.299, 0.587, 0.114])


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
  levels = np.array(color, np.float64)
  if factor <= 1:
    return _to_color(levels * factor)
  return _to_color(255 - (255 - levels) / factor)


def _to_color(levels: np.ndarray) -> canvas.Color:
  """Returns three levels, 0..255, as whole numbers."""
  red, green, blue = levels.astype(int).tolist()
  return red, green, blue


def _color(hue: float, light: float, saturation: float) -> canvas.Color:
  """One colour of this hue whose grey value is `light`, 0..1."""
  rgb = np.array(colorsys.hls_to_rgb(hue % 1.0, 0.5, saturation))
  grey = float(rgb @ _LUMA)
  if grey > light:
    rgb = rgb * (light / grey)
  else:
    rgb = 1 - (1 - rgb) * (1 - light) / (1 - grey)
  return _to_color(255 * np.clip(rgb, 0.0, 1.0))


def draw_palette(rng: np.random.Generator, *, hue: float) -> Palette:
  """Draws the colours of one picture.

  Args:
    rng: the picture's generator.
    hue: of the domain's usual background, 0..1.
  """
  light = {name: rng.normal(mean, _SPREAD) for name, mean in _LIGHT.items()}
  light["back"] = rng.normal(_LIGHT["back"], _BACK_SPREAD)
  hues, tones = rng.uniform(size=3), rng.uniform(*_TONES, size=3)
  hues[0], tones[0] = rng.normal(hue + 0.5, 0.1), rng.uniform(0.2, 0.6)
  back_hue, back_tone = rng.normal(hue, 0.03), rng.uniform(0.25, 0.5)
  clutter = tuple(
    _color(
      back_hue + rng.normal(0, 0.03),
      light["back"] + rng.normal(0, 0.06),
      back_tone,
    )
    for _ in range(4)
  )
  return Palette(
    back=_color(back_hue, light["back"], back_tone),
    clutter=clutter,
    body=_color(hues[0], light["body"], tones[0]),
    second=_color(hues[1], light["second"], tones[1]),
    accent=_color(hues[2], light["accent"], tones[2]),
    dark=_color(hues[0], light["dark"], 0.3),
  )
