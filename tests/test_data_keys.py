"""Keys are read without images, from records of any form."""

from hypothesis import given, settings
from hypothesis import strategies as st
import pytest
import tensorflow as tf

from tests import data_files, official_data
from udon_jax import errors
from udon_jax.data import examples, keys, offsets, records

IMAGE = b"j" * 5000


def length(number):
  """Returns a length as Protocol Buffers write it."""
  done = b""
  while number > 127:
    done += bytes([number % 128 + 128])
    number //= 128
  return done + bytes([number])


def field(tag, data):
  return bytes([tag]) + length(len(data)) + data


def in_order(names, **values):
  """Returns an Example whose features lie in a given order."""
  made = official_data.feature(**values)
  entries = [
    field(0x0A, name.encode()) + field(0x12, made[name].SerializeToString())
    for name in names
  ]
  return field(0x0A, b"".join(field(0x0A, entry) for entry in entries))


def opened(tmp_path, contents):
  file = tmp_path / "a.tfrecord"
  data_files.write_records(file, contents)
  return records.RecordFiles([file])


def test_our_way_to_write_examples_is_tensorflows():
  names = ("key", "image_bytes", "class_id")
  data = in_order(names, key=[b"a"], image_bytes=[IMAGE], class_id=[3])
  parsed = tf.train.Example.FromString(data)
  assert parsed.features.feature["class_id"].int64_list.value == [3]
  assert examples.key(data) == "a"


@pytest.mark.parametrize(
  "names",
  [
    ("image_bytes", "class_id", "key"),
    ("key", "class_id", "image_bytes"),
    ("class_id", "key", "image_bytes"),
    ("image_bytes", "width", "key", "format"),
  ],
)
@pytest.mark.parametrize("key", ["a", "ü/康.jpg", "d/" * 400 + "long.jpg", ""])
def test_keys_lie_anywhere(tmp_path, names, key):
  data = in_order(
    names,
    key=[key.encode()],
    image_bytes=[IMAGE],
    class_id=[3, 2**40],
    width=[1.5, 2.5],
    format=[b"jpeg"],
  )
  assert keys.read_all(opened(tmp_path, [data] * 3)) == [key] * 3


def test_few_bytes_are_read(tmp_path, monkeypatch):
  files = opened(
    tmp_path,
    [official_data.example(b"j" * 200_000, 3, f"{i}.jpg") for i in range(20)],
  )
  asked = []
  read_part = files.read_part
  monkeypatch.setattr(
    files, "read_part", lambda i, a, n: asked.append(n) or read_part(i, a, n)
  )
  monkeypatch.setattr(files, "read", None)
  assert keys.read_all(files) == [f"{i}.jpg" for i in range(20)]
  assert sum(asked) <= 20 * 1000


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
  image=st.binary(max_size=900),
  ids=st.lists(st.integers(0, 2**63 - 1), max_size=40),
  key=st.text(max_size=60).map(str.encode),
  extra=st.dictionaries(
    st.text("abkeyz", max_size=4).filter(lambda x: x != "key"),
    st.lists(st.binary(max_size=200), min_size=1, max_size=3),
    max_size=5,
  ),
)
def test_keys_are_those_that_tensorflow_finds(image, ids, key, extra):
  features = official_data.feature(image_bytes=[image], key=[key], **extra)
  features["class_id"] = tf.train.Feature(
    int64_list=tf.train.Int64List(value=ids)
  )
  data = tf.train.Example(
    features=tf.train.Features(feature=features)
  ).SerializeToString()
  found = keys._find(keys._Pieces(lambda at, n: data[at : at + n]))
  assert found == key


@settings(max_examples=300, deadline=None, derandomize=True)
@given(data=st.data())
def test_any_bytes_are_a_key_or_none(tmp_path_factory, data):
  whole = bytearray(official_data.example(b"j" * 400, [1, 2], "cars/1.jpg"))
  for _ in range(data.draw(st.integers(0, 4), "flips")):
    at = data.draw(st.integers(0, len(whole) - 1), "byte")
    whole[at] ^= data.draw(st.integers(1, 255), "bits")
  del whole[data.draw(st.integers(0, len(whole)), "size") :]

  class File:
    def read_part(self, record, start, count):
      assert start >= 0 and count > 0
      return bytes(whole[start : start + count])

    def read(self, record):
      return bytes(whole)

  assert isinstance(keys.read(File(), 0), str)


def test_records_of_other_forms_have_the_key_that_tensorflow_finds(tmp_path):
  several = in_order(("key",), key=[b"a", b"b"])
  none = in_order(("class_id",), class_id=[1])
  files = opened(tmp_path, [several, none, b"", b"no example"])
  assert keys.read_all(files) == ["a b", "", "", ""]


def test_a_damaged_record_without_a_key_is_named(tmp_path):
  files = opened(tmp_path, [official_data.example(IMAGE, 0, "a.jpg")] * 2)
  whole = bytearray(files.files[0].read_bytes())
  start = int(offsets.load(files.files[0])[1]) + offsets.HEADER_BYTES
  whole[start] ^= 0x50
  files.files[0].write_bytes(whole)
  with pytest.raises(errors.UserError, match=r"record 1 .*is damaged"):
    keys.read_all(files)
