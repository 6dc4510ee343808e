"""Images are seen as their cameras meant, everywhere alike."""

import dataclasses
import functools
import io
import struct

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
from PIL import Image, ImageOps
import pytest
import tensorflow as tf

from tests import data_files, fakes
from udon_jax import semantics
from udon_jax.data import dataset, exif, files, formats, preprocess

TAG = 0x0112
ORIENTATIONS = range(1, 9)
KINDS = ("JPEG", "PNG", "WEBP", "TIFF")


def photo(orientation, kind="JPEG", *, size=(30, 22)):
  told = Image.Exif()
  told[TAG] = orientation
  options = {"WEBP": {"lossless": True}, "JPEG": {"quality": 95}}
  return data_files.encode(
    3, size=size, kind=kind, exif=told, **options.get(kind, {})
  )


def upright(data):
  """What Pillow makes of the pixels that we decode."""
  with Image.open(io.BytesIO(data)) as image:
    told = image.getexif()
    pixels = Image.fromarray(formats.decode(data))
    pixels.getexif()[TAG] = told.get(TAG, 1)
  return np.asarray(ImageOps.exif_transpose(pixels))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_turned_as_pillow_turns(orientation, kind):
  data = photo(orientation, kind)
  expected = upright(data)
  assert exif.orientation(data) == orientation
  with Image.open(io.BytesIO(data)) as image:
    assert exif.of_image(image) == orientation
  decoded = formats.decode(data)
  np.testing.assert_array_equal(exif.turn_array(decoded, orientation), expected)
  np.testing.assert_array_equal(
    exif.turn(tf.constant(decoded), tf.constant(orientation)), expected
  )
  decode = tf.function(functools.partial(formats.decode_in_graph, exif=True))
  np.testing.assert_array_equal(decode(tf.constant(data)), expected)
  ignored = tf.function(functools.partial(formats.decode_in_graph, exif=False))
  np.testing.assert_array_equal(ignored(tf.constant(data)), decoded)


def segment(marker, body):
  return b"\xff" + bytes([marker]) + struct.pack(">H", len(body) + 2) + body


def tiff(orientation, order):
  """An EXIF block of one tag, in the byte order of Intel or Motorola."""
  mark = {"<": b"II", ">": b"MM"}[order]
  entry = struct.pack(f"{order}HHIHH", TAG, 3, 1, orientation, 0)
  return (
    b"Exif\0\0"
    + mark
    + struct.pack(f"{order}HI", 42, 8)
    + struct.pack(f"{order}H", 1)
    + entry
    + struct.pack(f"{order}I", 0)
  )


JFIF = segment(0xE0, b"JFIF\0\x01\x01\0\0\x01\0\x01\0\0")
OTHERS = {
  "jfif": JFIF,
  "thumbnail": segment(0xE0, b"JFXX\0" + bytes(50)),
  "icc": segment(0xE2, b"ICC_PROFILE\0" + bytes(200)),
  "comment": segment(0xFE, b"Exif\0\0 is not here"),
  "xmp": segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0<x/>"),
}


@pytest.mark.parametrize("order", "<>")
@given(
  before=st.lists(st.sampled_from(sorted(OTHERS)), max_size=3),
  after=st.lists(st.sampled_from(sorted(OTHERS)), max_size=2),
  orientation=st.sampled_from([None, *ORIENTATIONS]),
)
@settings(max_examples=60, deadline=None)
def test_segments_may_stand_in_any_order(order, before, after, orientation):
  plain = data_files.encode(1, size=(9, 7))
  rest = plain[plain.index(b"\xff\xdb") :]  # from its tables on
  told = (
    [] if orientation is None else [segment(0xE1, tiff(orientation, order))]
  )
  head = [OTHERS[name] for name in before]
  tail = [OTHERS[name] for name in after]
  data = b"".join([b"\xff\xd8", *head, *told, *tail, rest])
  assert exif.orientation(data) == (orientation or 1)
  look = tf.function(exif.orientation_in_graph)
  assert look(tf.constant(data)).numpy() == (orientation or 1)


@given(
  st.binary(max_size=80),
  st.integers(0, 400),
  st.sampled_from([b"", b"\xff\xd8\xff\xe1", b"\x89PNG\r\n\x1a\n", b"RIFF"]),
)
@settings(max_examples=200, deadline=None)
def test_what_is_no_image_is_upright(noise, cut, head):
  for data in (head + noise, photo(6)[:cut] + noise):
    assert 1 <= exif.orientation(data) <= 8
  assert exif.orientation(head + noise) == 1


@pytest.fixture(scope="module")
def root(tmp_path_factory):
  """Images that are told to lie, in all the ways."""
  root = tmp_path_factory.mktemp("data")
  for split in ("train", "val", "test"):
    entries = data_files.add_split(root, "cars", split, 8)
    for orientation, entry in zip(ORIENTATIONS, entries, strict=True):
      data = photo(orientation, size=(40, 24))
      (root / "images" / entry["path"]).write_bytes(data)
  data_files.prepare(root)
  return root


def seen(root, *, told):
  """(training, evaluation) images, by their orientation."""
  options = dataclasses.replace(data_files.OPTIONS, exif=told)
  (source,), tasks = dataset.load(
    root,
    domains=("cars",),
    batch_size=8,
    eval_batch_size=8,
    seed=0,
    options=options,
  )
  (task,) = tasks["val"]()
  return source, next(iter(task.query.open())).images


@pytest.mark.parametrize("told", [True, False])
def test_training_evaluation_and_extraction_agree(root, told):
  source, evaluated = seen(root, told=told)
  names = [f"cars/val/{i}.jpg" for i in range(8)]
  options = {
    "crop_size": 16,
    "round_pixels": True,
    "exif": told,
    "batch_size": 8,
    "num_threads": 2,
  }
  folder = root / "images"
  for batch in (
    *files.read_folder(folder, names, start=0, **options),
    *files.read([folder / name for name in names], **options),
  ):
    np.testing.assert_array_equal(batch.images, evaluated)
  pictures = [Image.open(folder / name) for name in names]
  for batch in files.read(pictures, **options):  # Pillow decodes otherwise
    distance = np.abs(batch.images.astype(int) - evaluated)
    assert distance.mean() < 4
  for orientation, name in zip(ORIENTATIONS, names, strict=True):
    data = (folder / name).read_bytes()
    pixels = upright(data) if told else formats.decode(data)
    expected = preprocess.center(
      tf.constant(pixels), crop_size=16, round_pixels=True
    )
    np.testing.assert_array_equal(evaluated[orientation - 1], expected)
  # Training sees the same scene: whole, as the crop takes all of it here.
  whole = dataclasses.replace(
    source, options=dataclasses.replace(source.options, resize_size=16)
  )
  turned = [
    np.minimum(
      np.abs(image.astype(int) - wanted).mean(),
      np.abs(image[:, ::-1].astype(int) - wanted).mean(),
    )
    for image, wanted in (
      (whole.augmented(record, epoch=0), _squashed(source, record, told=told))
      for record in range(8)
    )
  ]
  assert max(turned) == 0


def _squashed(source, record, *, told):
  from udon_jax.data import examples  # noqa: PLC0415

  data = examples.image_bytes(source.files.read(record))
  pixels = upright(data) if told else formats.decode(data)
  return preprocess.squash(
    tf.constant(pixels), size=16, round_pixels=True
  ).numpy()


@pytest.mark.parametrize(
  ("changes", "honoured"),
  [
    ({}, True),
    ({"semantics": "official"}, False),
    ({"data__exif": False}, False),
    ({"semantics": "official", "data__exif": True}, True),
  ],
)
def test_official_semantics_ignore_it(changes, honoured):
  assert semantics.honours_exif(fakes.changed(**changes)) == honoured
