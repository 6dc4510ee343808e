"""Grids of positions of another size, as PyTorch resizes them.

Source: torch.nn.functional.interpolate with mode="bicubic" and
align_corners=False. Without antialiasing, four points of the old grid make a
new one, those over the edge being the edge; the cubic has a = -0.75. With it,
the cubic (a = -0.5) is as wide as a new point, and is cut off at the edge.
"""

from jaxtyping import Float
import numpy as np


def resize(
  grid: Float[np.ndarray, "h w d"], side: int, *, antialias: bool
) -> Float[np.ndarray, "m m d"]:
  """Returns a grid of `side` points along both axes, float32."""
  make = _smooth if antialias else _sharp
  rows, columns = (make(old, side) for old in grid.shape[:2])
  result = np.einsum("mh,nw,hwd->mnd", rows, columns, grid.astype(np.float64))
  return result.astype(np.float32)


def _cubic(
  distance: Float[np.ndarray, "*n"], a: float
) -> Float[np.ndarray, "*n"]:
  """Returns the cubic convolution kernel (Keys, 1981, eq. 4)."""
  x = np.abs(distance)
  near = (a + 2) * x**3 - (a + 3) * x**2 + 1
  far = a * (x**3 - 5 * x**2 + 8 * x - 4)
  return np.where(x <= 1, near, np.where(x < 2, far, 0.0))


def _sharp(old: int, new: int) -> Float[np.ndarray, "new old"]:
  """Returns what each old point adds to each new one, not antialiased."""
  centers = (np.arange(new) + 0.5) * old / new - 0.5
  weights = np.zeros((new, old))
  for i, center in enumerate(centers):
    taps = int(np.floor(center)) + np.arange(-1, 3)
    np.add.at(
      weights[i], np.clip(taps, 0, old - 1), _cubic(taps - center, -0.75)
    )
  return weights


def _smooth(old: int, new: int) -> Float[np.ndarray, "new old"]:
  """Returns what each old point adds to each new one, antialiased."""
  scale = max(old / new, 1.0)
  centers = (np.arange(new) + 0.5) * old / new - 0.5
  weights = _cubic((np.arange(old) - centers[:, None]) / scale, -0.5)
  return weights / weights.sum(1, keepdims=True)
