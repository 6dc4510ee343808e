"""Safetensors files are read as their own library writes them."""

import json

import numpy as np
import pytest
import safetensors.numpy

from tests import weight_files
from udon_jax import errors
from udon_jax.pretrained import tensors

RNG = np.random.default_rng(0)
ARRAYS = {
  kind: RNG.integers(-3, 3, (3, 5)).astype(kind)
  for kind in ("float64", "float32", "float16", "int64", "int32", "int8")
} | {
  "mask": np.asarray([True, False]),
  "none": np.zeros((0, 2), np.float32),
  "scalar": np.asarray(4.6, np.float32),
  "bytes": np.arange(7, dtype=np.uint8),
}
ENTRY = {"dtype": "F32", "shape": [2, 4], "data_offsets": [0, 32]}


def open_file(path):
  return tensors.open_safetensors([path], name=path, key="config.pretrained")


def test_arrays_are_those_that_were_saved(tmp_path):
  path = tmp_path / "x.safetensors"
  safetensors.numpy.save_file(ARRAYS, path, metadata={"format": "pt"})
  found = open_file(path)
  assert found.shapes == {name: x.shape for name, x in ARRAYS.items()}
  for name in [*ARRAYS, *reversed(ARRAYS)]:
    read = found.read(name)
    assert read.dtype == ARRAYS[name].dtype
    np.testing.assert_array_equal(read, ARRAYS[name])


def test_bfloat16_is_the_upper_half_of_float32(tmp_path):
  values = RNG.normal(size=(2, 4)).astype(np.float32)
  upper = (values.view(np.uint32) >> 16).astype("<u2")
  path = tmp_path / "x.safetensors"
  entry = {"dtype": "BF16", "shape": [2, 4], "data_offsets": [0, 16]}
  weight_files.write_header(path, {"x": entry}, behind=upper.tobytes())
  expected = (upper.astype(np.uint32) << 16).view(np.float32)
  read = open_file(path).take("x", most=8)
  assert read.dtype == np.float32
  np.testing.assert_array_equal(read, expected)


def test_a_type_that_numpy_does_not_know_is_one_error(tmp_path):
  path = tmp_path / "x.safetensors"
  entry = {"dtype": "F8_E4M3", "shape": [8], "data_offsets": [0, 8]}
  other = ENTRY | {"data_offsets": [8, 40]}
  weight_files.write_header(path, {"x": entry, "y": other}, behind=bytes(40))
  found = open_file(path)
  assert found.take("y", most=8).shape == (2, 4)
  with pytest.raises(errors.UserError, match=r"at x .*convert it to float32"):
    found.take("x", most=8)


def deep(levels):
  return b"[" * levels


@pytest.mark.parametrize(
  "header",
  [
    b"",
    b"{",
    b"\xff\xfe",
    deep(100_000),
    [1, 2],
    {"x": 3},
    {"x": {}},
    {"x": ENTRY | {"data_offsets": [0]}},
    {"x": ENTRY | {"data_offsets": [32, 0]}},
    {"x": ENTRY | {"data_offsets": [-32, 0]}},
    {"x": ENTRY | {"shape": [-2, -4]}},
    {"x": ENTRY | {"shape": ["2", 4]}},
    {"x": ENTRY | {"shape": 8}},
    {"x": ENTRY | {"shape": [2, 5]}},
    {"x": ENTRY | {"shape": [2**40, 2**40]}},
    {"x": ENTRY | {"data_offsets": [64, 96]}},
  ],
)
def test_a_header_that_cannot_be_is_one_error(header, tmp_path):
  path = tmp_path / "x.safetensors"
  weight_files.write_header(path, header)
  with pytest.raises(errors.UserError, match=r"as safetensors .*copy") as found:
    open_file(path)
  assert str(found.value).startswith(f"config.pretrained: {path} cannot")
  assert "\n" not in str(found.value)


def test_any_cut_is_one_error(tmp_path):
  path = tmp_path / "x.safetensors"
  safetensors.numpy.save_file({"x": np.ones(50, np.float32)}, path)
  whole = path.read_bytes()
  for size in range(len(whole)):
    path.write_bytes(whole[:size])
    with pytest.raises(errors.UserError, match=r"as safetensors"):
      open_file(path)


def test_a_length_beyond_the_file_is_no_header(tmp_path):
  path = tmp_path / "x.safetensors"
  path.write_bytes((2**63).to_bytes(8, "little") + json.dumps({}).encode())
  with pytest.raises(errors.UserError, match=r"as safetensors"):
    open_file(path)


def test_parts_share_no_array(tmp_path):
  paths = [tmp_path / name for name in ("a.safetensors", "b.safetensors")]
  for path in paths:
    safetensors.numpy.save_file({"x": np.ones(5)}, path)
  with pytest.raises(errors.UserError, match=r"b.safetensors holds 'x', as"):
    tensors.open_safetensors(paths, name=tmp_path, key="config.pretrained")
