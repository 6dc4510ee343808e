"""Small files of weights of other libraries, and what breaks them."""

import json
import os
import pathlib
import pickle
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


# What is wrong with weights for a vit_mu8, and words of the message about it.
MISTAKES = {
  "augreg:FOLDER/weights/torn.npz": "torn.npz cannot be read",
  "augreg:FOLDER/weights/few.npz": "lacks 'embedding/kernel'; is it a file",
  "augreg:FOLDER/weights/sizes.npz": "set --config.model.name=vit_8 --config.",
  "clip:FOLDER/weights/torn.npy": "ends early); give the whole file",
  "clip:FOLDER/weights/code.npy": ".mkdir', which could run code); give",
  "clip:FOLDER/weights/torn.safetensors": "cannot be read as safetensors",
  "clip:FOLDER/weights/whole.safetensors": "set --config.model.name=clip_8 --",
  "hf:FOLDER/empty": "has no readable config.json",
  "hf:FOLDER/weights/list": "has a config.json that is no config; download",
  "hf:FOLDER/weights/index": "names '../whole.safetensors', no file of the",
  "hf:FOLDER/weights/bin": "holds only pytorch_model.bin, which can run code",
  "hf:FOLDER/weights/hf_vit": "set --config.model.name=hfvit_mu8",
}


class _MakesFolder:
  """Unpickles by making a folder."""

  def __init__(self, path):
    self.path = path

  def __reduce__(self):
    return os.mkdir, (str(self.path),)


def write_mistakes(folder):
  """Writes the files of MISTAKES that there are."""
  folder.mkdir()
  for name, case in (
    ("sizes.npz", "augreg/weights.npz"),
    ("torn.npz", "augreg/weights.npz"),
    ("torn.npy", "clip_npy/weights.npy"),
    ("torn.safetensors", "clip_safetensors/weights.safetensors"),
    ("whole.safetensors", "clip_safetensors/weights.safetensors"),
  ):
    shutil.copy(PARITY / case, folder / name)
    if name.startswith("torn"):
      cut(folder / name)
  np.savez(folder / "few.npz", cls=np.zeros((1, 1, 7)))
  arrays = dict(np.load(PARITY / "augreg/weights.npz"))
  del arrays["Transformer/encoderblock_1/LayerNorm_2/scale"]
  np.savez(folder / "block.npz", **arrays)
  evil = {"visual.proj": _MakesFolder(folder / "executed")}
  (folder / "code.npy").write_bytes(
    pickled(pickle.dumps(np.asarray(evil, object)))
  )
  for name in ("list", "bin", "index"):
    copy("hf_vit", folder).rename(folder / name)
  copy("hf_vit", folder)
  (folder / "list/config.json").write_text("[1, 2]")
  (folder / "bin/model.safetensors").rename(folder / "bin/pytorch_model.bin")
  (folder / "index/model.safetensors").unlink()
  (folder / "index/model.safetensors.index.json").write_text(
    json.dumps({"weight_map": {"cls": "../whole.safetensors"}})
  )
