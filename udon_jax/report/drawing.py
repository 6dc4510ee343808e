"""Figures that become elements of the page, in the page's own colours.

Shapes are drawn in stand-in colours, which are then replaced by variables of
the style sheet: the same chart is legible on light and on dark. Text stays
text, in the font of the page.
"""

from collections.abc import Iterator
import contextlib
import io
import re
from typing import Any

import matplotlib as mpl
from matplotlib import axes, figure

# Variables of the style sheet that charts use, and so stand-in colours.
NUM_HUES = 8
VARIABLES = (
  "ink",
  "muted",
  "line",
  "paper",
  "band",
  *(f"hue-{i}" for i in range(NUM_HUES)),
  *(f"text-{i}" for i in range(NUM_HUES)),  # of the same hue, for letters
)
INK, MUTED, LINE, PAPER, BAND = (f"#fe00{i:02x}" for i in range(5))
_STAND_IN = re.compile(r"#fe00([0-9a-f]{2})")
_RC: Any = {
  "svg.fonttype": "none",
  "svg.hashsalt": "udon_jax",
  "text.parse_math": False,
  "font.family": "sans-serif",
  "font.size": 11,
  "axes.linewidth": 0.0,
  "axes.edgecolor": LINE,
  "axes.labelcolor": MUTED,
  "xtick.color": MUTED,
  "ytick.color": MUTED,
  "xtick.major.size": 0,
  "ytick.major.size": 0,
  "xtick.major.pad": 6,
  "ytick.major.pad": 6,
  "lines.solid_capstyle": "round",
  "path.simplify_threshold": 0.2,
}


def hue(number: int) -> str:
  """Returns the stand-in of a colour of the palette."""
  return _stand_in(f"hue-{number % NUM_HUES}")


def _stand_in(variable: str) -> str:
  return f"#fe00{VARIABLES.index(variable):02x}"


def for_text(color: str) -> str:
  """Returns the stand-in of letters that go with a line."""
  name = VARIABLES[int(color[-2:], 16)]
  return _stand_in(name.replace("hue-", "text-"))


@contextlib.contextmanager
def style() -> Iterator[None]:
  """Draws its body in the style of the page."""
  with mpl.rc_context(_RC):
    yield


def frame(
  width: int, height: int, *, left: float = 44, right: float
) -> tuple[figure.Figure, axes.Axes]:
  """Returns a figure of so many pixels, with axes but for the margins."""
  fig = figure.Figure(figsize=(width / 72, height / 72), dpi=72)
  fig.patch.set_alpha(0)
  ax = fig.add_axes(
    (
      left / width,
      24 / height,
      (width - left - right) / width,
      (height - 24 - 10) / height,
    )
  )
  ax.patch.set_alpha(0)
  ax.yaxis.grid(visible=True, color=LINE, linewidth=1)
  ax.set_axisbelow(True)
  return fig, ax


def to_svg(fig: figure.Figure, name: str, text: str) -> str:
  """Returns a figure as an element for the page.

  Args:
    fig: the figure.
    name: unique on the page.
    text: what it shows, for those who cannot see it.
  """
  file = io.StringIO()
  nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
  fig.savefig(file, format="svg", metadata=nothing)
  svg = file.getvalue()
  svg = svg[svg.index("<svg") :]
  width, height = (72 * side for side in fig.get_size_inches())
  head = (
    f'<svg viewBox="0 0 {width:.0f} {height:.0f}" role="img" '
    f'aria-label="{_escape(text)}">'
  )
  svg = head + svg[svg.index(">") + 1 :]
  # Its style would be that of the whole page; metadata name a web address.
  svg = re.sub(
    r"<metadata>.*?</metadata>|<defs>\s*<style.*?</style>\s*</defs>",
    "",
    svg,
    flags=re.DOTALL,
  )
  # Names are unique within a chart; prefixed they are so on the page.
  svg = re.sub(r'\bid="', f'id="{name}-', svg)
  svg = re.sub(r'xlink:href="#', f'href="#{name}-', svg)
  svg = re.sub(r"url\(#", f"url(#{name}-", svg)
  # The font is the page's; versions of matplotlib write it in two ways.
  svg = re.sub(r"font: ([^'\";]*?px) [^;\"]*", r"font: \1 var(--sans)", svg)
  svg = re.sub(r"font-family: [^;\"]*;?", "", svg)
  svg = _STAND_IN.sub(lambda m: f"var(--{VARIABLES[int(m[1], 16)]})", svg)
  return re.sub(r"\n\s*", "\n", svg)


def _escape(text: str) -> str:
  """Returns text for an attribute."""
  for char, entity in (("&", "amp"), ("<", "lt"), (">", "gt"), ('"', "quot")):
    text = text.replace(char, f"&{entity};")
  return text
