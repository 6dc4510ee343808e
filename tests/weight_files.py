"""Small files of weights of other libraries, and what breaks them."""

import json
import pathlib
import shutil
import struct

import numpy as np
import safetensors.numpy

PARITY = pathlib.Path(__file__).parent / "golden/parity"


def copy(case, folder):
  """Returns a folder with a case of tests/golden/parity."""
  target = pathlib.Path(folder) / case
  shutil.copytree(PARITY / case, target)
  return target


def load(case):
  """Returns {name: array} of the one safetensors file of a case."""
  (path,) = (PARITY / case).glob("*.safetensors")
  return safetensors.numpy.load_file(path)


def save(path, arrays):
  """Writes a safetensors file."""
  safetensors.numpy.save_file(
    {name: np.ascontiguousarray(array) for name, array in arrays.items()}, path
  )


def edit(folder, **settings):
  """Changes the config.json of a folder; None removes a setting."""
  path = folder / "config.json"
  values = json.loads(path.read_text()) | settings
  values = {k: v for k, v in values.items() if v is not None}
  path.write_text(json.dumps(values))


def cut(path, size=100):
  """Takes the end off a file."""
  with path.open("r+b") as file:
    file.truncate(path.stat().st_size - size)


def write_header(path, header, *, behind=bytes(64)):
  """Writes a safetensors file of any header, and bytes behind it."""
  text = header if isinstance(header, bytes) else json.dumps(header).encode()
  path.write_bytes(struct.pack("<Q", len(text)) + text + behind)


def pickled(program):
  """Returns the bytes of a .npy file whose pickle is a program."""
  header = b"{'descr': '|O', 'fortran_order': False, 'shape': ()}"
  header = header.ljust(117) + b"\n"
  size = struct.pack("<H", len(header))
  return b"\x93NUMPY\x01\x00" + size + header + program
