"""Mini-UnED: a small, drawn stand-in for the UnED data, for trying things.

Eight domains under the UnED names, each drawn by a generator of its own.  A
class is a point in the generator's space of shapes, parts and prints; every
image of it has another viewpoint, background, light and other colours.

  python -m udon_jax.data.synthetic --output=data/mini_uned --size=small
"""

from udon_jax.data.synthetic.generation import generate, render_image
from udon_jax.data.synthetic.layout import SIZES, plan

__all__ = ["SIZES", "generate", "plan", "render_image"]
