"""Files of Flax are read lazily and safely, and written as Flax writes them."""

import struct

from flax import serialization, traverse_util
import jax.numpy as jnp
import msgpack
import numpy as np
import pytest

from udon_jax import errors
from udon_jax.pretrained import flax_msgpack


def flatten(tree):
  return traverse_util.flatten_dict(tree, sep="/")


def test_msgpack_is_read_as_flax_reads_it(tmp_path):
  rng = np.random.default_rng(0)
  tree = {
    "a": {"b": rng.normal(size=(3, 4)).astype(np.float32), "empty": {}},
    "half": np.asarray(jnp.ones((2, 2), jnp.bfloat16)),
    "scalars": {
      str(i): x
      for i, x in enumerate(
        (0, 127, 128, -1, -33, 2**40, -(2**40), 1.5, True, None, "x" * 40)
      )
    },
    "zero": np.zeros((0, 3), np.float64),
    "number": np.float32(2.5),
    "list": [1, "a"],
    "step": np.asarray(9, np.int32),
    **{f"k{i}": i for i in range(20)},
  }
  path = tmp_path / "checkpoint_9"
  path.write_bytes(serialization.msgpack_serialize(tree))
  file = flax_msgpack.read(path, key="--workdir")
  ours = dict(flax_msgpack.flatten(file.tree))
  theirs = flatten(serialization.msgpack_restore(path.read_bytes()))
  for name, value in theirs.items():
    got = ours[name]
    if isinstance(got, flax_msgpack.Stored):
      got = file.read(got)
      assert got.dtype == value.dtype
      np.testing.assert_array_equal(got, value)
    else:
      assert got == value
  assert ours.keys() == theirs.keys()


def test_arrays_in_chunks_are_read_and_written(tmp_path, monkeypatch):
  value = np.arange(1000, dtype=np.float32).reshape(10, 100)
  path = tmp_path / "checkpoint_1"
  monkeypatch.setattr(serialization, "MAX_CHUNK_SIZE", 300)
  path.write_bytes(serialization.msgpack_serialize({"params": {"x": value}}))
  file = flax_msgpack.read(path, key="")
  assert len(file.tree["params"]["x"].pieces) > 10
  np.testing.assert_array_equal(file.read(file.tree["params"]["x"]), value)
  monkeypatch.setattr(flax_msgpack, "CHUNK_BYTES", 300)
  with path.open("wb") as out:
    flax_msgpack.write(out, {"params": {"x": lambda: value, "n": 3}})
  assert path.read_bytes() == serialization.msgpack_serialize(
    {"params": {"x": value, "n": 3}}, in_place=True
  )


def _array(shape, name, data):
  return msgpack.ExtType(1, msgpack.packb((shape, name, data)))


BOMBS = {
  "deep": b"\x81\xa1a" * 5000 + b"\xc0",
  "deep lists": b"\x81\xa1a" + b"\x91" * 5000 + b"\xc0",
  "wide": b"\xdf\xff\xff\xff\xff",
  "many": b"\x81\xa1a\xdd\x7f\xff\xff\xff" + b"\xc0" * 2**19,
  "long": b"\x81\xa1a\xc6\xff\xff\xff\xff",
  "text": b"\x81\xdb\xff\xff\xff\xff",
  "huge": msgpack.packb({"a": _array((2**39,), "float32", b"1234")}),
  "overflow": msgpack.packb({"a": _array((2**62, 4, 0), "float32", b"")}),
  "negative": msgpack.packb({"a": _array((-1, -1), "float32", b"1234")}),
  "flags": msgpack.packb({"a": _array((True,), "float32", b"1234")}),
  "objects": msgpack.packb({"a": _array((1,), "object", b"12345678")}),
  "records": msgpack.packb({"a": _array((1,), "i4,i4", b"12345678")}),
  "ranks": msgpack.packb({"a": _array((1,) * 70, "int8", b"1")}),
  "other type": msgpack.packb({"a": msgpack.ExtType(9, b"x" * 8)}),
  "longer extension": msgpack.packb(
    {"a": msgpack.ExtType(1, msgpack.packb(((1,), "int8", b"1")) + b"x")}
  ),
  "no array": msgpack.packb({"a": msgpack.ExtType(1, msgpack.packb(7))}),
  "numbers as names": msgpack.packb({3: 4}),
  "maps as names": b"\x81\x81\xa1a\x01\x01",
  "twice": b"\x82\xa1a\x01\xa1a\x02",
  "no map": msgpack.packb([1, 2]),
  "more behind": msgpack.packb({"a": 1}) + b"\x00",
  "reserved": b"\x81\xa1a\xc1",
  "not utf-8": b"\x81\xa1\xff\x01",
  "path": msgpack.packb({"a/b": 1}),
  "chunks": msgpack.packb(
    {"__msgpack_chunked_array__": True, "shape": {"0": 2**39}, "chunks": {}}
  ),
  "nothing": b"",
  "pickle": b"\x80\x04\x95\x00",
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_what_flax_never_writes_is_refused(tmp_path, bomb):
  path = tmp_path / "checkpoint_1"
  path.write_bytes(BOMBS[bomb])
  with pytest.raises(errors.UserError, match=r"checkpoint_1 is no whole"):
    flax_msgpack.read(path, key="--workdir")


def test_every_truncation_is_noticed(tmp_path):
  tree = {"a": {"b": np.ones(3, np.float32)}, "n": 2**20, "s": "text"}
  whole = serialization.msgpack_serialize(tree)
  path = tmp_path / "checkpoint_1"
  for end in range(len(whole)):
    path.write_bytes(whole[:end])
    with pytest.raises(errors.UserError, match="checkpoint_1 is no whole"):
      flax_msgpack.read(path, key="--workdir")


def test_what_is_not_asked_for_is_not_unpacked(tmp_path):
  """A file far larger than it takes on the disk is opened at once."""
  path = tmp_path / "checkpoint_1"
  big = 2**33
  count = struct.pack(">I", 2**32 - 1)
  with path.open("wb") as file:
    file.write(b"\x83\xa1a\xc6" + count)
    file.seek(2**32 - 1, 1)
    file.write(b"\xa1b\xc6" + count)
    file.seek(2**32 - 1, 1)
    file.write(b"\xa1c\x07")
  found = flax_msgpack.read(path, key="--workdir")
  assert found.tree["c"] == 7
  assert path.stat().st_size > big > 100 * path.stat().st_blocks * 512
