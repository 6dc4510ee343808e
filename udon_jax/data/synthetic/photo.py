"""A photograph of an object: viewpoint, backdrop, light, lens and JPEG."""

import dataclasses
import io
import types
from typing import Any

import numpy as np
from PIL import Image, ImageFilter

from udon_jax.data.synthetic import (
  artworks,
  buildings,
  canvas,
  dishes,
  garments,
  objects,
  packages,
  palettes,
  plants,
  vehicles,
)

# Every generator module has sample, palette, backdrop and draw.
GENERATORS = types.MappingProxyType(
  {
    "cars": vehicles,
    "sop": objects,
    "inshop": garments,
    "inat": plants,
    "met": artworks,
    "gldv2": buildings,
    "food2k": dishes,
    "rp2k": packages,
  }
)


@dataclasses.dataclass(frozen=True)
class Camera:
  """How much the pictures of a domain vary.

  Attributes:
    turn: standard deviation of the rotation, radians.
    shift: largest translation, in parts of the short side.
    zoom: range of the scale.
    keystone: standard deviation of the perspective terms.
    formats: shares of landscape, portrait and square pictures.
  """

  turn: float = 0.06
  shift: float = 0.04
  zoom: tuple[float, float] = (0.93, 1.05)
  keystone: float = 0.03
  formats: tuple[float, float, float] = (0.35, 0.35, 0.3)


_CAMERAS = types.MappingProxyType(
  {
    "cars": Camera(turn=0.05, formats=(0.7, 0.1, 0.2)),
    "sop": Camera(),
    "inshop": Camera(turn=0.06, formats=(0.1, 0.7, 0.2)),
    "inat": Camera(turn=0.09),
    "met": Camera(turn=0.05, shift=0.04),
    "gldv2": Camera(turn=0.05, formats=(0.5, 0.3, 0.2)),
    "food2k": Camera(turn=0.12, formats=(0.3, 0.2, 0.5)),
    "rp2k": Camera(turn=0.05, shift=0.04, formats=(0.1, 0.7, 0.2)),
  }
)
_LARGE = 0.03  # share of pictures with a long side of up to 640
_GREY = 0.015  # share of grey-scale JPEGs


def render(
  domain: str, kinds: list[Any], rng: np.random.Generator
) -> Image.Image:
  """Renders a photograph.

  Args:
    domain: a name of `GENERATORS`.
    kinds: the class on the picture, as `sample` of the domain's generator
      returned it, or two of them, which stand side by side.
    rng: the picture's generator.

  Returns:
    An RGB picture, or a grey one now and then.
  """
  generator = GENERATORS[domain]
  camera = _CAMERAS[domain]
  size = _size(rng, camera.formats, wide=len(kinds) > 1)
  drawn = tuple(
    round(side * min(2.0, max(1.0, 400 / max(size)))) for side in size
  )
  colors = generator.palette(rng)
  image = Image.new("RGB", drawn, colors.back)
  unit = min(drawn) / 2
  room = canvas.affine(
    dx=drawn[0] / 2,
    dy=drawn[1] / 2,
    sx=unit,
    sy=unit,
    angle=rng.normal(0, camera.turn / 2),
  )
  _scatter(canvas.Pen(image, room), colors, rng)
  generator.backdrop(canvas.Pen(image, room), colors, rng)
  for place, kind in enumerate(kinds):
    view = _view(rng, camera)
    if len(kinds) > 1:
      view = canvas.affine(dx=1.4 * place - 0.7, sx=0.72, sy=0.72) @ view
      colors = colors if place == 0 else generator.palette(rng)
    frame = canvas.affine(dx=drawn[0] / 2, dy=drawn[1] / 2, sx=unit, sy=unit)
    generator.draw(canvas.Pen(image, frame @ view), kind, colors, rng)
  _occlude(canvas.Pen(image, room), colors, rng)
  image = image.resize(size, Image.Resampling.BILINEAR)
  return _develop(image, rng)


def encode(image: Image.Image, rng: np.random.Generator) -> bytes:
  """Returns the JPEG file of a picture; the quality varies."""
  if rng.uniform() < _GREY:
    image = image.convert("L")
  file = io.BytesIO()
  image.save(file, "JPEG", quality=int(rng.integers(60, 96)))
  return file.getvalue()


def _size(rng, formats, *, wide):
  """Width and height; the long side reaches 640 now and then."""
  short = int(rng.integers(120, 200))
  if rng.uniform() < _LARGE:
    short = int(rng.integers(240, 420))
  ratio = rng.uniform(1.15, 1.5)
  form = (
    "landscape"
    if wide
    else rng.choice(["landscape", "portrait", "square"], p=formats)
  )
  long = min(640, round(short * ratio))
  sizes = {
    "landscape": (long, short),
    "portrait": (short, long),
    "square": (short, short),
  }
  return sizes[str(form)]


def _view(rng, camera):
  """The object's place on the picture, seen from a little aside."""
  keystone = np.eye(3)
  keystone[2, :2] = rng.normal(0, camera.keystone, size=2)
  stretch = rng.uniform(0.94, 1.06)
  zoom = rng.uniform(*camera.zoom) * 0.92
  place = canvas.affine(
    dx=rng.uniform(-1, 1) * camera.shift,
    dy=rng.uniform(-1, 1) * camera.shift,
    angle=float(np.clip(rng.normal(0, camera.turn), -0.4, 0.4)),
    sx=zoom * stretch,
    sy=zoom / stretch,
  )
  return place @ keystone


def _scatter(pen, colors, rng):
  """Things that lie about behind the object."""
  for _ in range(int(rng.integers(0, 7))):
    x, y = rng.uniform(-1.5, 1.5, size=2)
    color = colors.clutter[rng.integers(4)]
    corners = canvas.polar(rng.uniform(0.1, 0.6, size=int(rng.integers(3, 7))))
    pen.polygon(np.add(corners, (x, y)), color)


def _occlude(pen, colors, rng):
  """Something before the object, near the border, in a third of pictures."""
  if rng.uniform() > 0.33:
    return
  angle = rng.uniform(0, 2 * np.pi)
  x, y = 1.05 * np.cos(angle), 1.05 * np.sin(angle)
  corners = canvas.polar(rng.uniform(0.15, 0.4, size=int(rng.integers(3, 8))))
  pen.polygon(
    np.add(corners, (x, y)),
    palettes.shade(colors.clutter[0], rng.uniform(0.5, 1.5)),
  )


def _develop(image, rng):
  """Lens blur, light from somewhere, exposure, colour cast and noise."""
  blur = rng.uniform(-0.6, 1.1)
  if blur > 0:
    image = image.filter(ImageFilter.GaussianBlur(blur))
  width, height = image.size
  pixels = np.asarray(image, np.float32)
  slope = rng.uniform(-0.28, 0.28, size=2)
  light = 1 + np.add.outer(
    np.linspace(-slope[1], slope[1], height, dtype=np.float32),
    np.linspace(-slope[0], slope[0], width, dtype=np.float32),
  )
  gain = rng.uniform(0.75, 1.15) * rng.uniform(0.88, 1.12, size=3)
  lift = rng.uniform(-18, 22)
  pixels = pixels * light[:, :, None] * gain.astype(np.float32)
  noise = rng.standard_normal((height, width, 1), np.float32)
  pixels += noise * np.float32(rng.uniform(0, 9)) + np.float32(lift)
  return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
