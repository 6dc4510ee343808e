"""What the README says of a finished run, run as it is written there."""

import json
import re
import shlex

import numpy as np
import pytest

from tests import command_lines, compiling, small_run

README = (command_lines.ROOT / "README.md").read_text(encoding="utf-8")
SECTIONS = (
  "What a run writes",
  "Evaluate",
  "Use",
  "Pretrained weights",
  "Coming from the official code",
)
# What a reader brings, and what stands for it here.
GIVEN = {
  "/data/uned": "data/mini_uned",
  "/data/official_run": "runs/theirs",
  "/data/B_16-i21k.npz": "runs/theirs.npz",
  "/data/tfds": "data/mini_uned/tfds",
  "/data/info_files": "data/mini_uned/info_files",
}
# These need a server that waits, an installation, a training of minutes.
LEFT_OUT = ("tensorboard", "pip install", "python -m udon_jax.main")
DOMAINS = ("cars", "rp2k")  # of the README's descriptors
# Where a command writes that is not told.
DEFAULTS = {
  "udon_jax.evaluate": "results.json",
  "udon_jax.report": "report.html",
}
CONVERT = ("udon_jax.convert", "--workdir=runs/quickstart")
TRAIN = (*small_run.TINY, f"--config.domains={DOMAINS}")


def blocks(section):
  """Returns (language, text) of every block of a section."""
  (text,) = re.findall(
    rf"^## {section}\n(.*?)^## ", README, re.MULTILINE | re.DOTALL
  )
  return re.findall(r"^```(\w+)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def steps():
  """Returns {text: argv} of all that these sections run, in order."""
  found = {}
  for language, text in (b for name in SECTIONS for b in blocks(name)):
    if language == "python":
      found[text] = ["-c", text]
      continue
    for line in text.replace("\\\n", "").splitlines():
      if not line.startswith(LEFT_OUT):
        python, m, *argv = shlex.split(line)
        assert (python, m) == ("python", "-m"), line
        for theirs, ours in GIVEN.items():
          argv = [word.replace(theirs, ours) for word in argv]
        found[line] = argv
  return found


STEPS = steps()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """Returns a folder as the README's first commands leave it."""
  folder = tmp_path_factory.mktemp("readme")
  (folder / "configs").symlink_to(command_lines.ROOT / "configs")
  return folder


@pytest.fixture(scope="module")
def answers(folder):
  """Returns {text: what it did} of all steps."""
  data = "data/mini_uned"
  names = ",".join(DOMAINS)
  before = {
    "draw": [small_run.SYNTHETIC, "--size=smoke", f"--output={data}"],
    "prepare": [small_run.PREPARE, f"--data_dir={data}", f"--domains={names}"],
    "train": [small_run.MAIN, *TRAIN, "--workdir=runs/quickstart"],
    "official": [*CONVERT, "--to=official", "--output=runs/theirs"],
    "augreg": [*CONVERT, "--to=augreg", "--output=runs/theirs.npz"],
    "other": [
      "-c",
      "import shutil; shutil.copytree('runs/quickstart', 'runs/cosface')",
    ],
  }
  answers = command_lines.watch_all(
    before | STEPS,
    folder,
    cwd=folder,
    XLA_FLAGS=compiling.FLAGS,
    JAX_PLATFORMS="cpu",
  )
  for name in before:
    assert answers[name].code == 0, answers[name].errors
  return answers


def test_the_sections_hold_what_they_are_about():
  modules = [argv[0].removeprefix("udon_jax.") for argv in STEPS.values()]
  assert set(modules) == {"report", "evaluate", "extract", "convert", "-c"}
  assert modules.count("-c") == 3  # descriptors, neighbours, embed


@pytest.mark.parametrize("text", STEPS, ids=lambda text: text.split("\n")[0])
def test_runs_as_written(answers, text):
  answer = answers[text]
  assert answer.code == 0, answer.errors
  module, *flags = STEPS[text]
  if module in DEFAULTS and not any("--output" in flag for flag in flags):
    assert f"{DEFAULTS[module]}" in answer.errors
  wrote = {*answer.changed, *answer.added}
  for name in re.findall(r'(?:--output=|savez\(")([\w./]+)', text):
    assert any(x == name or x.startswith(f"{name}/") for x in wrote)
  for name in re.findall(r"--per_query=([\w./]+)", text):
    assert any(x.startswith(f"{name}/") for x in wrote)


def test_what_the_files_hold(answers, folder):
  del answers
  found = np.load(folder / "runs" / "embeddings.npz")
  images = folder / "data" / "mini_uned" / "images"
  pictures = {str(p.relative_to(images)) for p in images.rglob("*.jpg")}
  assert pictures <= set(found["paths"])
  assert found["embeddings"].shape == (len(found["paths"]), 64)
  of_run = json.loads((folder / "runs/quickstart/results.json").read_text())
  of_rows = json.loads((folder / "runs" / "rows.json").read_text())
  # The same model on the same images, once through files of its vectors.
  assert of_rows["descriptors"]["merged"] == of_run["student"]["merged"]


def test_what_the_programs_print(answers):
  printed = {t: answers[t].output for t, a in STEPS.items() if a[0] == "-c"}
  (nearest,) = [out for t, out in printed.items() if "nearest" in t]
  assert len(re.findall(r"'[^']+\.(?:jpg|png)'", nearest)) == 5
  (shape,) = [out for t, out in printed.items() if "model.dim" in t]
  assert shape.split() == ["(4,", "64)", "64", "4"]
