"""Pickles of arrays are read as numpy reads them, and none is executed."""

import io
import os
import pickle
import struct
import types
import typing

import numpy as np
import pytest

from tests import weight_files
from udon_jax import errors
from udon_jax.pretrained import pickled

RNG = np.random.default_rng(0)
ARRAYS = {
  "half": RNG.normal(size=(3, 4)).astype(np.float16),
  "float": RNG.normal(size=(2, 3, 4)).astype(np.float32),
  "big endian": RNG.normal(size=5).astype(">f8"),
  "fortran": np.asfortranarray(RNG.normal(size=(3, 5)).astype(np.float32)),
  "slice": RNG.normal(size=(6, 6)).astype(np.float32)[::2, 1:],
  "large": RNG.normal(size=(64, 700)).astype(np.float32),
  "large fortran": np.asfortranarray(RNG.normal(size=(64, 700))),
  "none": np.zeros((0, 3), np.float32),
  "scalar array": np.asarray(77),
  "scalar": np.float32(4.6),
  "integer": 224,
  "large integer": 2**40,
  "truth": True,
  "real": 0.5,
  "mask": np.asarray([True, False]),
}


def save(path, arrays, *, protocol, replace=()):
  """Writes a dict as np.save does, by any protocol of pickles."""
  program = pickle.dumps(np.asarray(arrays, object), protocol=protocol)
  for old, new in replace:
    program = program.replace(old, new)
  path.write_bytes(weight_files.pickled(program))
  return path


def check(path, expected):
  found = pickled.open_npy(path, key="config.pretrained")
  assert set(found.shapes) == set(expected)
  for name, value in expected.items():
    assert found.shapes[name] == np.shape(value)
    for _ in range(2):  # in any order, more than once
      read = found.read(name)
      assert read.dtype.kind == np.asarray(value).dtype.kind
      np.testing.assert_array_equal(read, value)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_arrays_are_those_that_were_pickled(protocol, tmp_path):
  check(save(tmp_path / "x.npy", ARRAYS, protocol=protocol), ARRAYS)


@pytest.mark.parametrize("protocol", [2, 3])
def test_numpy_1_named_its_core_otherwise(protocol, tmp_path):
  """Where names are lines; later they have lengths, tested below."""
  path = save(
    tmp_path / "x.npy",
    ARRAYS,
    protocol=protocol,
    replace=[(b"numpy._core.", b"numpy.core.")],
  )
  assert b"numpy.core.multiarray" in path.read_bytes()
  check(path, ARRAYS)


class Numpy1(pickle._Pickler):
  """Pickles in Python, with the names of numpy 1."""

  def save_global(self, value, name=None):
    for text in (value.__module__, name or value.__qualname__):
      self.save(text.replace("numpy._core", "numpy.core"))
    self.write(pickle.STACK_GLOBAL)
    self.memoize(value)

  dispatch: typing.ClassVar = {
    **pickle._Pickler.dispatch,
    types.FunctionType: save_global,
  }


@pytest.mark.parametrize("protocol", [4, 5])
def test_numpy_1_by_newer_protocols(protocol, tmp_path):
  stream = io.BytesIO()
  Numpy1(stream, protocol).dump(np.asarray(ARRAYS, object))
  assert b"numpy._core" not in stream.getvalue()
  path = tmp_path / "x.npy"
  path.write_bytes(weight_files.pickled(stream.getvalue()))
  check(path, ARRAYS)


def test_what_np_save_writes(tmp_path):
  path = tmp_path / "x.npy"
  np.save(path, ARRAYS, allow_pickle=True)
  check(path, ARRAYS)


class Calls:
  """Unpickles by calling a function."""

  def __init__(self, function, *arguments):
    self.reduced = (function, arguments)

  def __reduce__(self):
    return self.reduced


class Plain:
  pass


class Own(np.ndarray):
  pass


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
@pytest.mark.parametrize("where", ["root", "value", "key", "beside", "dtype"])
def test_no_function_is_called(protocol, where, tmp_path):
  """The same file, unpickled, does leave its mark."""
  mark = tmp_path / "executed"
  bomb = Calls(os.mkdir, str(mark))
  arrays = dict(ARRAYS)
  if where == "value":
    arrays["evil"] = bomb
  elif where == "key":
    arrays[bomb] = 1
  elif where == "beside":
    arrays["evil"] = [np.ones(2), bomb]
  elif where == "dtype":
    arrays["evil"] = np.asarray([bomb], object)
  path = tmp_path / "x.npy"
  root = np.asarray(bomb if where == "root" else arrays, object)
  path.write_bytes(weight_files.pickled(pickle.dumps(root, protocol=protocol)))
  with pytest.raises(errors.UserError, match=r"x.npy cannot be read") as found:
    pickled.open_npy(path, key="config.pretrained")
  assert "\n" not in str(found.value)
  assert not mark.exists()
  if protocol >= 2:
    assert "mkdir" in str(found.value)
  np.load(path, allow_pickle=True)
  assert mark.exists()


CALL_NDARRAY = b"\x80\x03cnumpy\nndarray\n(K\x05tR."  # numpy.ndarray(5)


@pytest.mark.parametrize(
  ("program", "words"),
  [
    (b"", "ends early"),
    (b"\x80\x03}q", "unpack"),
    (b"\x80\x03\xff.", "unknown instruction"),
    (b"\x80\x03cbuiltins\nexec\n.", "builtins.exec"),
    (b"\x80\x03cnumpy._core.multiarray\nfromfile\n.", "fromfile"),
    (b"\x80\x04\x8c\x02os\x8c\x06system\x93.", "os.system"),
    (b"\x80\x04\x8c\x05a\nb\nc\x8c\x01d\x93.", r"a\\nb\\nc.d"),
    (CALL_NDARRAY, "numpy.ndarray"),
    (b"\x80\x03}K\x01R.", "no function"),
    (b"(ios\nsystem\n.", "INST"),
    (b"\x80\x02cnumpy\nndarray\n)\x81.", "NEWOBJ"),
    (b"\x80\x02\x82\x01.", "EXT1"),
    (b"Psecret\n.", "PERSID"),
    (b"\x80\x02NQ.", "BINPERSID"),
    (b"\x80\x05\x97.", "NEXT_BUFFER"),
    (b"\x80\x03}}b.", "no array"),
    (b"\x80\x03}K\x01K\x02s.", "int for a name"),
    (b"\x80\x03h\x07.", "7"),
    (b"\x80\x03.", "pop"),
    (b"\x80\x03t.", "pop"),
    (b"\x80\x03\x87.", "more than there is"),
    (b"\x80\x03B\xff\xff\xff\xff.", "ends early"),
    (b"\x80\x04\x8e" + b"\xff" * 8 + b".", "ends early"),
    (b"\x80\x03T\xff\xff\xff\xff.", "ends early"),
    (b"\x80\x03X\x02\x00\x00\x00\xff\xfe.", "decode"),
    (b"\x80\x03}.", "no pickled dict"),
    (b"\x80\x03" + b"N" * 600_000 + b".", "steps"),
    (b"\x80\x03)" + b"\x85" * 100_000 + b".", "no pickled dict"),
    (b"\x80\x03cnumpy\ndtype\nX\x05\x00\x00\x00f4,f4\x85R.", "f4,f4"),
    (b"\x80\x03cnumpy\ndtype\nX\x02\x00\x00\x00f9\x85R.", "f9"),
  ],
)
def test_what_arrays_do_not_need_is_refused(program, words, tmp_path):
  path = tmp_path / "x.npy"
  path.write_bytes(weight_files.pickled(program))
  with pytest.raises(errors.UserError, match=words) as found:
    pickled.open_npy(path, key="config.pretrained")
  assert "\n" not in str(found.value)
  assert str(found.value).startswith(f"config.pretrained: {path} ")


FLOAT = b"cnumpy\ndtype\nX\x02\x00\x00\x00f4\x85R"
EMPTY = (
  b"cnumpy._core.multiarray\n_reconstruct\ncnumpy\nndarray\n"
  b"K\x00\x85C\x01b\x87R"
)


@pytest.mark.parametrize(
  "state",
  [
    b"(K\x01K\x03\x85" + FLOAT + b"\x89C\x04abcdt",  # 3 of 4 bytes each
    b"(K\x01J\xff\xff\xff\xff\x85" + FLOAT + b"\x89C\x04abcdt",  # -1
    b"(K\x01\x88\x85" + FLOAT + b"\x89C\x04abcdt",  # True
    b"(K\x01(" + b"K\x01" * 40 + b"t" + FLOAT + b"\x89C\x04abcdt",
    b"(K\x01K\x01\x85" + FLOAT + b"\x89NX\x04\x00\x00\x00abcdt",
    b"(K\x01K\x01\x85" + FLOAT + b"\x89Nt",
    b"(K\x01K\x01\x85N\x89C\x04abcdt",
    b"(K\x01\x8a\x08" + b"\xff" * 7 + b"\x7f\x85" + FLOAT + b"\x89C\x04abcdt",
    b")",
  ],
)
def test_arrays_that_do_not_fit_their_bytes_are_refused(state, tmp_path):
  path = tmp_path / "x.npy"
  path.write_bytes(weight_files.pickled(b"\x80\x03" + EMPTY + state + b"b."))
  with pytest.raises(errors.UserError, match=r"x.npy cannot be read"):
    pickled.open_npy(path, key="config.pretrained")


@pytest.mark.parametrize(
  ("values", "words"),
  [
    ([ARRAYS], "no pickled dict"),
    ({"x": {"y": np.ones(2)}}, "'x' of dict"),
    ({"x": "text"}, "'x' of str"),
    ({"x": np.asarray(["text"])}, "type 'U4'"),
    ({"x": np.asarray([1j])}, "type 'c16'"),
    ({"x": np.zeros(2, "f4,f4")}, "type 'V8'"),
    ({"x": Plain()}, "copyreg|NEWOBJ|Plain"),
    ({"x": np.ma.ones(2)}, "numpy.ma"),
    ({"x": np.ones(2).view(Own)}, "Own"),
    (np.ones(3), "no names"),
    (np.asarray([ARRAYS, ARRAYS], object), "no names"),
  ],
)
def test_what_is_no_dict_of_arrays_is_refused(values, words, tmp_path):
  path = tmp_path / "x.npy"
  if isinstance(values, list):
    (values,) = values
    program = pickle.dumps(values)  # no array around it
    path.write_bytes(weight_files.pickled(program))
  else:
    np.save(path, values, allow_pickle=True)
  with pytest.raises(errors.UserError, match=words):
    pickled.open_npy(path, key="config.pretrained")


def test_a_dict_in_itself_is_refused(tmp_path):
  values = {"x": np.ones(2)}
  values["y"] = values
  path = save(tmp_path / "x.npy", values, protocol=4)
  with pytest.raises(errors.UserError, match="'y' of dict"):
    pickled.open_npy(path, key="config.pretrained")


def test_any_cut_is_one_error(tmp_path):
  path = tmp_path / "x.npy"
  np.save(path, {"x": np.ones((2, 2)), "y": np.ones(2000)}, allow_pickle=True)
  whole = path.read_bytes()
  for size in [*range(0, 400, 7), *range(400, len(whole), 997)]:
    path.write_bytes(whole[:size])
    with pytest.raises(errors.UserError, match=r"x.npy cannot be read"):
      pickled.open_npy(path, key="config.pretrained")


def test_any_flipped_byte_is_arrays_or_one_error(tmp_path):
  """Nothing else is raised, whatever the program has become."""
  path = tmp_path / "x.npy"
  small = {"x": np.ones((2, 2), np.float16), "y": np.float32(1), "z": 3}
  outcomes = set()
  for protocol in (2, 4, 5):
    save(path, small, protocol=protocol)
    whole = path.read_bytes()
    for i in range(len(whole)):
      flip = (0x01, 0x20, 0xFF)[i % 3]
      path.write_bytes(whole[:i] + bytes([whole[i] ^ flip]) + whole[i + 1 :])
      try:
        pickled.open_npy(path, key="config.pretrained")
        outcomes.add("read")
      except errors.UserError as error:
        assert "\n" not in str(error)
        outcomes.add("refused")
  assert outcomes == {"read", "refused"}


def test_large_arrays_stay_in_the_file(tmp_path):
  """What is opened is small; what is read is one array."""
  path = tmp_path / "x.npy"
  size = 2**22
  np.save(path, {str(i): np.zeros(size, np.uint8) for i in range(4)})
  found = pickled.open_npy(path, key="config.pretrained")
  file = found.read.__closure__
  assert path.stat().st_size > 4 * size
  held = [
    len(value.data)
    for cell in file
    if isinstance(cell.cell_contents, dict)
    for value in cell.cell_contents.values()
    if isinstance(value.data, bytes)
  ]
  assert sum(held) == 0
  assert found.read("3").nbytes == size


def test_lengths_are_bounded_by_the_file(tmp_path):
  """A length of 2^60 asks for no memory."""
  path = tmp_path / "x.npy"
  program = b"\x80\x04\x8e" + struct.pack("<Q", 2**60) + b"abc."
  path.write_bytes(weight_files.pickled(program))
  with pytest.raises(errors.UserError, match="ends early"):
    pickled.open_npy(path, key="config.pretrained")
