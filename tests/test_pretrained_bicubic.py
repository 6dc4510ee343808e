"""Grids of positions of other sizes; PyTorch's own are in the parity tests."""

import numpy as np
import pytest

from udon_jax.pretrained import bicubic

RNG = np.random.default_rng(0)
BOTH = pytest.mark.parametrize("antialias", [False, True])
SIZES = pytest.mark.parametrize(
  ("old", "new"), [(5, 3), (3, 5), (37, 16), (4, 9)]
)


@BOTH
def test_a_grid_of_the_same_size_stays(antialias):
  grid = RNG.normal(size=(7, 7, 3)).astype(np.float32)
  found = bicubic.resize(grid, 7, antialias=antialias)
  np.testing.assert_allclose(found, grid, atol=1e-6)


@BOTH
@SIZES
def test_what_is_constant_stays(antialias, old, new):
  grid = np.full((old, old, 2), 0.7, np.float32)
  found = bicubic.resize(grid, new, antialias=antialias)
  assert found.shape == (new, new, 2)
  np.testing.assert_allclose(found, 0.7, rtol=1e-6)


@BOTH
@SIZES
def test_axes_are_alike_and_mirrors_too(antialias, old, new):
  grid = RNG.normal(size=(old, old, 2))

  def resize(x):
    return bicubic.resize(x, new, antialias=antialias)

  np.testing.assert_allclose(
    resize(grid.swapaxes(0, 1)), resize(grid).swapaxes(0, 1), atol=1e-6
  )
  np.testing.assert_allclose(resize(grid[::-1]), resize(grid)[::-1], atol=1e-6)


@SIZES
def test_one_point_by_hand(old, new):
  """Cubic convolution of the four nearest points, a = -0.75, edges repeated."""
  line = RNG.normal(size=old)
  found = bicubic.resize(
    np.broadcast_to(line[None, :, None], (old, old, 1)), new, antialias=False
  )[0, :, 0]
  for i in range(new):
    x = (i + 0.5) * old / new - 0.5
    left = int(np.floor(x))
    t = x - left
    a = -0.75
    # The same polynomials as sums of powers, as texts on graphics print them.
    taps = (
      a * (t - 2 * t**2 + t**3),
      1 - (a + 3) * t**2 + (a + 2) * t**3,
      -a * t + (2 * a + 3) * t**2 - (a + 2) * t**3,
      a * t**2 - a * t**3,
    )
    points = [line[min(max(left + k, 0), old - 1)] for k in (-1, 0, 1, 2)]
    np.testing.assert_allclose(found[i], np.dot(taps, points), atol=1e-6)
