"""Weights & Biases offline, without a trace at home; reads what it wrote."""

import contextlib
import json
import struct

import wandb
from wandb.proto import wandb_internal_pb2

_BLOCK, _HEADER = 32768, 7


@contextlib.contextmanager
def isolated(folder, monkeypatch):
  """Keeps W&B out of the home folder, and ends its process."""
  for name in ("DIR", "CACHE_DIR", "CONFIG_DIR", "DATA_DIR"):
    monkeypatch.setenv(f"WANDB_{name}", str(folder / "elsewhere"))
  monkeypatch.setenv("WANDB_SILENT", "true")
  monkeypatch.setenv("WANDB_CONSOLE", "off")
  monkeypatch.setenv("WANDB_DISABLE_GIT", "true")
  try:
    yield
  finally:
    wandb.teardown()


def _records(path):
  """Yields the records of a file that W&B wrote (a LevelDB log)."""
  data, at, parts = path.read_bytes(), _HEADER, b""
  while at + _HEADER <= len(data):
    if _BLOCK - at % _BLOCK < _HEADER:
      at += _BLOCK - at % _BLOCK
      continue
    _, size, kind = struct.unpack("<IHB", data[at : at + _HEADER])
    parts += data[at + _HEADER : at + _HEADER + size]
    at += _HEADER + size
    if kind in (1, 4):  # whole, or the last part of one
      record = wandb_internal_pb2.Record()
      record.ParseFromString(parts)
      yield record
      parts = b""


def read(workdir):
  """Returns (run, history, metrics, exit codes) of every start of a run."""
  wandb.teardown()  # its process has then written everything
  starts = []
  for path in sorted(workdir.glob("wandb/*run-*/*.wandb")):
    found = list(_records(path))
    history = [
      {
        item.key or item.nested_key[0]: json.loads(item.value_json)
        for item in record.history.item
      }
      for record in found
      if record.WhichOneof("record_type") == "history"
    ]
    (run,) = (x.run for x in found if x.HasField("run"))
    metrics = [x.metric for x in found if x.HasField("metric")]
    exits = [x.exit.exit_code for x in found if x.HasField("exit")]
    starts.append((run, history, metrics, exits))
  return starts


def values(history):
  """Returns the history without what W&B adds."""
  return [
    {k: v for k, v in row.items() if not k.startswith("_")} for row in history
  ]
