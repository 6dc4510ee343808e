"""A pen that draws shapes, given in object coordinates, through a view.

Object coordinates: x right, y down, the object fills about [-1, 1] x [-1, 1].
"""

from collections.abc import Callable, Sequence
import math

import numpy as np
from PIL import Image, ImageDraw

Color = tuple[int, int, int]
Points = Sequence[tuple[float, float]] | np.ndarray

_CIRCLE = np.stack(
  [
    np.cos(np.linspace(0, 2 * np.pi, 28, endpoint=False)),
    np.sin(np.linspace(0, 2 * np.pi, 28, endpoint=False)),
  ],
  axis=1,
)


def affine(
  *,
  dx: float = 0.0,
  dy: float = 0.0,
  angle: float = 0.0,
  sx: float = 1.0,
  sy: float = 1.0,
) -> np.ndarray:
  """Returns the matrix [3, 3] that scales, turns (radians), then shifts."""
  cos, sin = math.cos(angle), math.sin(angle)
  return np.array(
    [[cos * sx, -sin * sy, dx], [sin * sx, cos * sy, dy], [0.0, 0.0, 1.0]]
  )


class Pen:
  """Draws on a picture through a projective view."""

  def __init__(self, image: Image.Image, view: np.ndarray):
    """Starts a pen.

    Args:
      image: the picture, changed in place.
      view: matrix [3, 3] from object coordinates to pixels.
    """
    self.image = image
    self.view = view
    self._draw = ImageDraw.Draw(image)
    self._unit = math.sqrt(abs(np.linalg.det(view[:2, :2])))

  def at(self, **shift) -> "Pen":
    """Returns a pen in local coordinates; arguments as of `affine`."""
    return Pen(self.image, self.view @ affine(**shift))

  def pixels(self, points: Points) -> list[tuple[float, float]]:
    """Returns the places of points [n, 2] on the picture."""
    points = np.asarray(points, np.float64)
    view = self.view
    mapped = points @ view[:, :2].T + view[:, 2]
    return list(map(tuple, (mapped[:, :2] / mapped[:, 2:]).tolist()))

  def polygon(self, points: Points, color: Color) -> None:
    """Fills a polygon."""
    self._draw.polygon(self.pixels(points), fill=color)

  def rect(
    self, x0: float, y0: float, x1: float, y1: float, color: Color
  ) -> None:
    """Fills a rectangle."""
    self.polygon([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], color)

  def ellipse(
    self,
    x: float,
    y: float,
    rx: float,
    ry: float,
    color: Color,
    *,
    angle: float = 0.0,
  ) -> None:
    """Fills an ellipse."""
    self.polygon(ellipse(x, y, rx, ry, angle=angle), color)

  def line(self, points: Points, width: float, color: Color) -> None:
    """Draws a line of some width, in object units."""
    pixels = max(1, round(width * self._unit))
    self._draw.line(
      self.pixels(points), fill=color, width=pixels, joint="curve"
    )

  def inside(self, points: Points, paint: Callable[["Pen"], None]) -> None:
    """Lets `paint` draw, keeping only what falls inside a polygon."""
    outline = self.pixels(points)
    (left, top), (right, bottom) = np.min(outline, 0), np.max(outline, 0)
    box = (
      max(0, math.floor(left)),
      max(0, math.floor(top)),
      min(self.image.width, math.ceil(right) + 1),
      min(self.image.height, math.ceil(bottom) + 1),
    )
    if box[0] >= box[2] or box[1] >= box[3]:
      return
    patch = self.image.crop(box)
    mask = Image.new("L", patch.size)
    local = [(x - box[0], y - box[1]) for x, y in outline]
    ImageDraw.Draw(mask).polygon(local, fill=255)
    paint(Pen(patch, affine(dx=-box[0], dy=-box[1]) @ self.view))
    self.image.paste(patch, box[:2], mask)


def ellipse(
  x: float, y: float, rx: float, ry: float, *, angle: float = 0.0
) -> np.ndarray:
  """Returns the outline [28, 2] of an ellipse."""
  points = _CIRCLE * (rx, ry)
  if angle:
    cos, sin = math.cos(angle), math.sin(angle)
    points = points @ np.array([[cos, sin], [-sin, cos]])
  return np.add(points, (x, y))


def polar(radii: Sequence[float] | np.ndarray) -> np.ndarray:
  """Returns the outline [n, 2] with these radii at equal angles."""
  angles = np.linspace(0, 2 * np.pi, len(radii), endpoint=False) - np.pi / 2
  return (
    np.stack([np.cos(angles), np.sin(angles)], 1) * np.asarray(radii)[:, None]
  )


def star(points: int, inner: float) -> np.ndarray:
  """Returns a unit star's outline; `inner` is the radius of its notches."""
  return polar([1.0, inner] * points)
