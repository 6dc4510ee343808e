"""Draws docs/mini_uned.jpg: classes of the synthetic data, two images each.

python docs/contact_sheet.py
"""

import pathlib

from PIL import Image, ImageDraw, ImageFont, ImageOps

from udon_jax import domains
from udon_jax.data import synthetic

OUTPUT = pathlib.Path(__file__).with_name("mini_uned.jpg")
CLASSES, IMAGES = 5, 2
SIDE, GAP, MARGIN, LABEL = 76, 2, 14, 64


def main() -> None:
  """Draws a row for each domain."""
  width = LABEL + CLASSES * (IMAGES * (SIDE + GAP) + MARGIN)
  height = MARGIN // 2 + len(domains.UNED_NAMES) * (SIDE + MARGIN // 2)
  sheet = Image.new("RGB", (width, height), "white")
  pen = ImageDraw.Draw(sheet)
  font = ImageFont.load_default(size=15)
  for row, domain in enumerate(domains.UNED_NAMES):
    top = MARGIN // 2 + row * (SIDE + MARGIN // 2)
    pen.text((10, top + SIDE // 2), domain, "black", font, anchor="lm")
    for label in range(CLASSES):
      left = LABEL + MARGIN // 2 + label * (IMAGES * (SIDE + GAP) + MARGIN)
      for number in range(IMAGES):
        image = synthetic.render_image(domain, label, number)
        image = ImageOps.fit(image.convert("RGB"), (SIDE, SIDE))
        sheet.paste(image, (left + number * (SIDE + GAP), top))
  sheet.save(OUTPUT, quality=85, optimize=True)


if __name__ == "__main__":
  main()
