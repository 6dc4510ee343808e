"""Sheets of sample images: as they are, and as training sees them."""

import io

from etils import epath
import numpy as np
from PIL import Image, ImageDraw

from udon_jax.data import examples, exif, pipeline, storing

_COLUMNS = 8
_EPOCHS = 3
_MARGIN = 4
_TITLE = 16
_SEED = 0
_FIRST_BOX = 0x180  # after Latin with accents


def draw(source: pipeline.TrainSource, *, names: list[str] | None):
  """Returns a picture of some training images of a domain.

  The first row shows them whole, the others what the first epochs make of
  them; beneath each is its class.

  Args:
    source: the training images.
    names: of the classes; None where nothing tells.
  """
  side = source.options.crop_size
  count = min(_COLUMNS, source.num_examples)
  rng = np.random.default_rng(_SEED)
  chosen = sorted(
    rng.choice(source.num_examples, count, replace=False).tolist()
  )
  step = side + _MARGIN
  size = (count * step + _MARGIN, (_EPOCHS + 1) * step + _MARGIN + _TITLE)
  sheet = Image.new("RGB", size, "white")
  pen = ImageDraw.Draw(sheet)
  for column, record in enumerate(chosen):
    left = _MARGIN + column * step
    data = source.files.read(record)
    whole = _open(examples.image_bytes(data), source)
    whole.thumbnail((side, side))
    sheet.paste(whole, (left, _MARGIN))
    (label,) = examples.labels(data)
    pen.text((left, step + 2), _title(label, names)[: side // 7], fill="black")
    for epoch in range(_EPOCHS):
      pixels = source.augmented(record, epoch=epoch)
      top = _TITLE + _MARGIN + (epoch + 1) * step
      sheet.paste(Image.fromarray(pixels.round().astype(np.uint8)), (left, top))
  return sheet


def _title(label: int, names: list[str] | None) -> str:
  """Returns the name of a class, or its number where it cannot be drawn."""
  name = names[label] if names and label < len(names) else ""
  # Pillow's own font has boxes for all other scripts.
  is_drawn = name.isprintable() and all(ord(c) < _FIRST_BOX for c in name)
  return name if name and is_drawn else f"class {label}"


def _open(data: bytes, source: pipeline.TrainSource) -> Image.Image:
  """Returns a whole image, turned as training turns it."""
  with Image.open(io.BytesIO(storing.to_file(data, source.files))) as image:
    pixels = np.asarray(image.convert("RGB"))
    if source.options.exif:
      pixels = exif.turn_array(pixels, exif.of_image(image))
  return Image.fromarray(pixels)


def write(sheet: Image.Image, file: epath.Path) -> None:
  """Writes a picture, whole or not at all."""
  data = io.BytesIO()
  sheet.save(data, "PNG")
  temporary = file.parent / f".{file.name}.tmp"
  temporary.write_bytes(data.getvalue())
  temporary.replace(file)
