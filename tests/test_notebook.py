"""The notebook runs from start to end, and is kept without its outputs."""

import json
import os
import runpy
import subprocess
import sys
import types
from unittest import mock

import nbclient
import nbformat
import numpy as np
import pytest

from tests import command_lines, compiling, small_run
from udon_jax.retrieval import table

pytestmark = pytest.mark.slow

FILE = command_lines.ROOT / "notebooks" / "udon_colab.ipynb"
NOTEBOOK = nbformat.reads(FILE.read_text(encoding="utf-8"), as_version=4)
CODE = {c.id: c.source for c in NOTEBOOK.cells if c.cell_type == "code"}
# Stands after the cell that is tagged for it, and overrides it.
FLAGS = [x for x in small_run.TINY[1:] if "num_train_steps" not in x]
PARAMETERS = f"SIZE, STEPS, FLAGS = 'smoke', 8, {FLAGS}"
# What a reader of the last cell has at hand.
KEEP = "np.savez('kept.npz', own=own, scores=scores, nearest=nearest)"


def test_kept_without_outputs_and_noise():
  text = FILE.read_text(encoding="utf-8")
  raw = json.loads(text)
  assert text == json.dumps(raw, indent=1, ensure_ascii=False) + "\n"
  nbformat.validate(raw)
  assert raw["metadata"] == {
    "kernelspec": {
      "display_name": "Python 3",
      "language": "python",
      "name": "python3",
    }
  }
  for cell in raw["cells"]:
    tags = ["parameters"] if cell["id"] == "parameters" else None
    assert cell["metadata"] == ({"tags": tags} if tags else {})
    if cell["cell_type"] == "code":
      assert cell["outputs"] == []
      assert cell["execution_count"] is None
      assert len(cell["source"]) <= 40


def install(folder, monkeypatch, *, repository="", colab=True, loaded=False):
  """Runs the first cells without udon_jax; returns the commands they start."""
  script = folder / "install.py"
  code = f"{CODE['call']}\n{CODE['install']}"
  assert code.startswith('REPOSITORY = ""')
  script.write_text(code.replace('""', repr(repository), 1))
  modules = {x: m for x, m in sys.modules.items() if x not in ("jax", "numpy")}
  if colab:
    modules["google.colab"] = types.ModuleType("google.colab")
  if loaded:
    modules["numpy"] = np
  start = mock.MagicMock()
  done = start.return_value.__enter__.return_value
  done.stdout, done.returncode = ["said\n"], 0
  with monkeypatch.context() as patch:
    patch.chdir(folder)
    patch.setenv("PYTHONUNBUFFERED", "")  # the cell sets it
    patch.setattr(subprocess, "Popen", start)
    patch.setattr("importlib.util.find_spec", lambda name: None)
    patch.setattr("shutil.which", lambda name: None)
    patch.setattr(sys, "modules", modules)
    runpy.run_path(str(script))
  return [" ".join(call.args[0]) for call in start.call_args_list]


def test_colab_clones_and_installs(tmp_path, monkeypatch):
  clone, remove, add = install(tmp_path, monkeypatch, repository="https://x/y")
  assert clone == "git clone --depth=1 https://x/y udon"
  assert "pip uninstall" in remove
  assert add.endswith(" .[data,viz] --constraint constraints.txt")


@pytest.mark.parametrize(
  "how, words",
  [
    ({"repository": ""}, "set REPOSITORY"),
    ({"repository": "https://x/y", "colab": False}, "README"),
    ({"repository": "https://x/y", "loaded": True}, "Restart session"),
  ],
)
def test_installation_that_cannot_go_on_says_what_to_do(
  tmp_path, monkeypatch, how, words
):
  with pytest.raises(RuntimeError, match=words):
    install(tmp_path, monkeypatch, **how)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """Returns a folder with the notebook and the configs."""
  folder = tmp_path_factory.mktemp("clone")
  (folder / "notebooks").mkdir()
  (folder / "configs").symlink_to(command_lines.ROOT / "configs")
  return folder


@pytest.fixture(scope="module")
def executed(folder):
  """Returns {cell: its outputs} of the notebook at its smallest."""
  book = nbformat.reads(FILE.read_text(encoding="utf-8"), as_version=4)
  (position,) = (i for i, c in enumerate(book.cells) if "tags" in c.metadata)
  book.cells.insert(position + 1, nbformat.v4.new_code_cell(PARAMETERS))
  book.cells.append(nbformat.v4.new_code_cell(KEEP))
  environment = {
    "XLA_FLAGS": compiling.FLAGS,
    "JAX_PLATFORMS": "cpu",
    "PYTHONPATH": str(command_lines.ROOT),
  }
  with mock.patch.dict(os.environ, environment):
    nbclient.NotebookClient(
      book,
      timeout=300,
      kernel_name="python3",
      resources={"metadata": {"path": str(folder / "notebooks")}},
    ).execute()
  return {c.id: c.outputs for c in book.cells if c.cell_type == "code"}


def printed(outputs):
  return "".join(x.text for x in outputs if x.output_type == "stream")


def pictures(outputs):
  return sum("image/png" in x.get("data", {}) for x in outputs)


def test_trains_and_prints_the_results(executed, folder):
  run = folder / "runs" / "quickstart"
  results = json.loads((run / "results.json").read_text())
  assert set(results["student"]) == {"merged", "separate"}
  assert printed(executed["table"]) == table.format_table(results) + "\n"
  assert "step 8/8" in printed(executed["train"])


def test_draws(executed):
  counts = {name: pictures(outputs) for name, outputs in executed.items()}
  drawn = {name: count for name, count in counts.items() if count}
  assert drawn == {"sheet": 1, "curves": 1, "gallery": 2, "neighbours": 1}
  (report,) = executed["report"]
  assert report.data["text/html"].startswith("<iframe srcdoc=")


def test_embeds(executed, folder):
  del executed
  kept = np.load(folder / "kept.npz")
  index = np.load(folder / "runs" / "quickstart" / "embeddings.npz")
  rows = kept["own"]
  assert rows.shape == (8, 64)
  np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, rtol=1e-5)
  # Every image of the data set finds itself.
  np.testing.assert_allclose(kept["scores"].max(axis=1), 1, rtol=1e-5)
  assert kept["scores"].shape == (8, len(index["paths"]))


def test_a_command_that_fails_stops_the_notebook(capsys, monkeypatch):
  monkeypatch.setenv("PYTHONUNBUFFERED", "")
  names = {}
  exec(CODE["call"], names)
  with pytest.raises(RuntimeError, match="exit code 2: error: --workdir"):
    names["call"](sys.executable, "-m", "udon_jax.report")
  shown = capsys.readouterr().out.splitlines()
  assert shown[0] == "$ python -m udon_jax.report"
  assert shown[-1].startswith("error: --workdir is missing")
