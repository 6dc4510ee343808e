"""Descriptors without TensorFlow, in little memory, stopped halfway."""

import json
import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from tests import command_lines, compiling

ALONE = """
  import json, os, pathlib, signal, sys
  for name in {libraries!r}:
    sys.modules[name] = None
  from unittest import mock
  from etils import epath
  from udon_jax import evaluate, reporting, scoring
  from udon_jax.data import descriptors

  folder = pathlib.Path(sys.argv[1])

  def peak(name):
    results = scoring.evaluate_descriptors(
      folder / name,
      info_files=epath.Path(folder / f"{{name}}_info"),
      splits=["test"],
      domain_names=None,
      normalize=True,
      block_bytes=2**23,
      temporary=folder,
      per_query_dir=None,
    )
    mean = results["descriptors"]["merged"]["test"]["mean"]["recall@1"]
    return reporting.peak_memory_gb() * 1e9, mean

  print(json.dumps([peak(name) for name in ("small", "big", "big.json")]))
  sys.stdout.flush()

  def stop(*_, folder, **__):
    (folder / "half").write_text("written")
    os.kill(os.getpid(), signal.SIGTERM)

  with mock.patch.object(descriptors, "read", stop):
    sys.argv = [
      "evaluate",
      f"--descriptors={{folder / 'small'}}",
      f"--info_files={{folder / 'small_info'}}",
    ]
    evaluate.cli.run(evaluate.main)
"""
DIM = 4096
# Rows of the index: 8 MiB are 512 rows.
INDEX = {"small": 1100, "big": 16_000, "big.json": 4000}


def write_large(folder):
  """Writes an index of 250 MiB, and one of 60 MiB and as much text."""
  rng = np.random.default_rng(0)
  for name, size in INDEX.items():
    for split, number in (("test", 3), ("index", size)):
      file = folder / f"{name}_info" / "gldv2" / f"{split}.json"
      file.parent.mkdir(parents=True, exist_ok=True)
      entries = [
        {"path": f"{split}/{i}", "class_id": i % 7} for i in range(number)
      ]
      file.write_text(json.dumps(entries))
  for name in ("small", "big"):
    (folder / name / "gldv2").mkdir(parents=True)
    rows = np.lib.format.open_memmap(
      folder / name / "gldv2" / "index.npy", "w+", "f4", (INDEX[name], DIM)
    )
    block = rng.normal(size=(500, DIM))
    for start in range(0, len(rows), 500):
      rows[start : start + 500] = block[: len(rows) - start] + start
    np.save(folder / name / "gldv2" / "test.npy", block[:3].astype("f4"))
    del rows
  row = "[" + ",".join(["0.5"] * DIM) + "]"
  with (folder / "big.json").open("w") as file:
    file.write('{"gldv2": {"test": [' + ",".join([row] * 3) + '], "index": [')
    file.write(",".join([row] * INDEX["big.json"]) + "]}}")


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
  """Returns the folder, exit code, output and errors of ALONE."""
  folder = tmp_path_factory.mktemp("alone")
  write_large(folder)
  script = ALONE.format(libraries=["tensorflow", "tensorflow_datasets"])
  done = subprocess.run(
    [sys.executable, "-c", textwrap.dedent(script), str(folder)],
    cwd=command_lines.ROOT,
    env={**os.environ, "XLA_FLAGS": compiling.FLAGS, "JAX_PLATFORMS": "cpu"},
    capture_output=True,
    text=True,
    check=False,
  )
  return folder, done.returncode, done.stdout, done.stderr


def test_memory_is_bounded_whatever_the_form(alone):
  *_, output, text = alone
  assert output, text
  (start, _), (folder_peak, _), (json_peak, mean) = json.loads(output)
  bound, size = 2**23, INDEX["big"] * DIM * 4
  assert folder_peak - start < 8 * bound < size / 3
  assert json_peak - start < 8 * bound
  assert mean == 1 / 3  # all rows tie, and the first is of the first's class


def test_sigterm_leaves_nothing_behind(alone):
  folder, code, _, text = alone
  assert code == 143, text
  assert text.splitlines()[-1].startswith("error: stopped; no results")
  assert not list(folder.glob(".descriptors.*"))
  assert not list(folder.glob("*results.json"))
