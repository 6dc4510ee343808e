"""Every common image format becomes the pixels that it holds."""

import functools
import io
import struct
import zlib

import numpy as np
from PIL import Image
import pytest
import tensorflow as tf

from tests import data_files
from udon_jax.data import files, formats, preprocess

SIDE = 24
VIEW = {"crop_size": SIDE, "round_pixels": True}
OPTIONS = VIEW | {"exif": True}
RNG = np.random.default_rng(0)
RGBA = RNG.integers(0, 256, (SIDE, SIDE, 4), np.uint8)
RGB = RGBA[..., :3]
WIDE = RNG.integers(0, 65536, (SIDE, SIDE)).astype(np.uint16)


def encode(image, kind, **options):
  buffer = io.BytesIO()
  image.save(buffer, kind, **options)
  return buffer.getvalue()


def image(mode):
  """Returns an image of a mode, with random values."""
  if mode == "I;16":
    return Image.fromarray(WIDE)
  if mode == "P":
    return Image.fromarray(RGB).quantize(32)
  return Image.fromarray(RGBA).convert(mode)


def grey(values):
  return np.repeat(values[..., None], 3, axis=2).astype(np.uint8)


def expected(mode):
  """Returns what an image of a mode shows, its alpha dropped."""
  if mode == "I;16":
    return grey(WIDE >> 8)
  if mode in ("RGB", "RGBA"):
    return RGB
  if mode in ("L", "LA"):
    return grey(np.asarray(Image.fromarray(RGB).convert("L")))
  return np.asarray(image(mode).convert("RGB"))


LOSSLESS = {
  "PNG": ("RGB", "RGBA", "L", "LA", "P", "1", "I;16"),
  "GIF": ("P", "L"),
  "BMP": ("RGB", "L", "P", "1"),
  "TIFF": ("RGB", "RGBA", "L", "LA", "P", "1", "I;16", "CMYK"),
}


@pytest.mark.parametrize(
  "kind, mode", [(kind, mode) for kind in LOSSLESS for mode in LOSSLESS[kind]]
)
def test_lossless_formats(kind, mode):
  data = encode(image(mode), kind)
  np.testing.assert_array_equal(formats.decode(data), expected(mode))
  (batch,) = read([data, Image.open(io.BytesIO(data))])
  assert not batch.failures
  # The centre of a square image of the size asked for is all of it.
  np.testing.assert_array_equal(batch.images[0], expected(mode))
  np.testing.assert_array_equal(batch.images[1], expected(mode))


def read(images, **changes):
  options = OPTIONS | {"batch_size": len(images), "num_threads": 2}
  return files.read(images, **options | changes)


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_webp(mode):
  data = encode(image(mode), "WEBP", lossless=True, exact=True)
  np.testing.assert_array_equal(formats.decode(data), RGB)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_animations_show_their_first_frame(kind):
  frames = [image("P").convert("RGB"), Image.new("RGB", (SIDE, SIDE), "red")]
  if kind == "GIF":
    frames[0] = image("P")
  options = {"lossless": True} if kind == "WEBP" else {}
  data = encode(
    frames[0], kind, save_all=True, append_images=frames[1:], **options
  )
  np.testing.assert_array_equal(formats.decode(data), expected("P"))


def test_transparent_parts_of_gifs_are_black_in_animations_too():
  palette = image("P")
  wanted = np.where(np.asarray(palette)[..., None] == 3, 0, expected("P"))
  for more in ({}, {"save_all": True, "append_images": [palette.rotate(90)]}):
    data = encode(palette, "GIF", transparency=3, **more)
    np.testing.assert_array_equal(formats.decode(data), wanted)


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("size", [(40, 30), (30, 41), (24, 24), (500, 17)])
def test_jpegs_have_the_pixels_of_evaluation(mode, size, tmp_path):
  data = data_files.encode(1, size=size, mode=mode)
  wanted = data_files.eval_image(tf.constant(data), **VIEW).numpy()
  (tmp_path / "x.jpg").write_bytes(data)
  (batch,) = read([data])
  (fast,) = files.read_folder(
    tmp_path,
    ["x.jpg"],
    start=0,
    **OPTIONS,
    batch_size=2,
    num_threads=2,
  )
  np.testing.assert_array_equal(batch.images[0], wanted)
  np.testing.assert_array_equal(fast.images[0], wanted)


def png_header(width, height):
  """Returns a PNG that claims a size, and holds no pixels."""

  def chunk(name, content):
    crc = struct.pack(">I", zlib.crc32(name + content))
    return struct.pack(">I", len(content)) + name + content + crc

  size = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
  return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + chunk(b"IEND", b"")


def claiming(data, width, height):
  """Returns a JPEG whose header claims another size."""
  start = data.index(b"\xff\xc0") + 5
  return data[:start] + struct.pack(">HH", height, width) + data[start + 4 :]


BOMBS = {
  "png": png_header(20_000, 20_000),
  "png, not as large": png_header(14_000, 13_000),
  "jpeg": claiming(data_files.encode(0), 65_000, 65_000),
  "tiff": encode(
    Image.new("1", (20_000, 20_000)), "TIFF", compression="group4"
  ),
}
DAMAGED = {
  "empty": b"",
  "text": b"no image",
  "cut png": encode(image("RGB"), "PNG")[:-80],
  "cut tiff": encode(image("RGB"), "TIFF")[:200],
  "cut jpeg": data_files.encode(0)[:-20],
  "floats": encode(Image.fromarray(np.zeros((9, 9), np.float32)), "TIFF"),
}


def test_bombs_are_not_unpacked(monkeypatch):
  def refuse(*_, **__):
    raise AssertionError("unpacked")

  monkeypatch.setattr(Image.Image, "load", refuse)
  monkeypatch.setattr(preprocess, "decode", refuse)
  for name, data in BOMBS.items():
    assert len(data) < 20_000
    with pytest.raises(formats.UnreadableError, match="pixels"):
      formats.decode(data)
      pytest.fail(name)


def test_the_graph_unpacks_no_bomb_either():
  decode = tf.function(functools.partial(formats.decode_in_graph, exif=True))
  for data in BOMBS.values():
    with pytest.raises(tf.errors.OpError) as caught:
      decode(tf.constant(data))
    assert "Decode" not in caught.value.message.split("\n")[0]


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_images_are_told_with_a_reason(name):
  with pytest.raises(formats.UnreadableError) as caught:
    formats.decode(DAMAGED[name])
  assert 5 < len(str(caught.value)) < 200
  (batch,) = read([encode(image("RGB"), "PNG"), DAMAGED[name]])
  assert batch.failures == {1: ("image 1", str(caught.value))}
