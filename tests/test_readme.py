"""The README's commands exist as written, and what it names is there."""

import ast
import pathlib
import re
import shlex
import subprocess

import pytest

from tests import command_lines
from udon_jax import default_config

ROOT = command_lines.ROOT
TEXTS = {
  name: (ROOT / name).read_text(encoding="utf-8")
  for name in (
    "README.md",
    "CONTRIBUTING.md",
    "docs/from_official.md",
    "docs/uned.md",
  )
}
MAKEFILE = (ROOT / "Makefile").read_text()
SETUP = (ROOT / "setup.py").read_text()
# Commands of other programs, which come with what setup.py names or before it.
OTHERS = {
  "python3 -m venv .venv",
  "source .venv/bin/activate",
  "tensorboard --logdir=runs",
  "tfds build udon_jax/data/uned --config=cars --manual_dir=/data/uned"
  " --data_dir=/data/records",
}


def commands(text):
  """Returns the lines of all blocks marked as bash, each as written."""
  blocks = re.findall(r"^```bash\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
  lines = "".join(blocks).replace("\\\n", " ").splitlines()
  return [re.sub(r"\s+", " ", line) for line in lines if line.strip()]


COMMANDS = sorted({c for text in TEXTS.values() for c in commands(text)})
MAKES = [c for c in COMMANDS if c.startswith("make")]
MODULES = [c for c in COMMANDS if c.startswith("python -m udon_jax.")]
INSTALLS = [c for c in COMMANDS if c.startswith("pip install")]


def test_every_command_is_of_a_known_kind():
  assert set(COMMANDS) == {*MAKES, *MODULES, *INSTALLS, *OTHERS}
  assert "make quickstart" in MAKES
  assert MODULES
  assert INSTALLS


@pytest.mark.parametrize("command", MAKES)
def test_targets_exist(command):
  for word in shlex.split(command)[1:]:
    if "=" in word:
      assert re.search(rf"^{word.split('=')[0]} \?=", MAKEFILE, re.MULTILINE)
    else:
      assert re.search(rf"^{re.escape(word)}:", MAKEFILE, re.MULTILINE)


def test_make_lists_its_targets():
  done = subprocess.run(
    ["make", "--directory", ROOT],
    env={"PATH": "/usr/local/bin:/usr/bin:/bin"},
    capture_output=True,
    text=True,
    check=True,
  )
  listed = re.findall(r"^  make (\S+)", done.stdout, re.MULTILINE)
  assert set(listed) == set(re.findall(r"^\.PHONY: (\S+)", MAKEFILE, re.M))


@pytest.mark.parametrize("command", INSTALLS)
def test_extras_exist(command):
  wanted = set(re.findall(r"\[([\w,]+)\]", command)[0].split(","))
  assert wanted <= extras()
  for file in re.findall(r"--constraint (\S+)", command):
    assert (ROOT / file).exists()


def test_extras_of_the_table_exist():
  named = set(re.findall(r"`\.\[([\w,]+)\]`", TEXTS["README.md"]))
  assert named
  assert {extra for names in named for extra in names.split(",")} <= extras()


def extras():
  """Returns the names of the extras in setup.py."""
  for node in ast.walk(ast.parse(SETUP)):
    if isinstance(node, ast.keyword) and node.arg == "extras_require":
      return {key.value for key in node.value.keys}
  raise AssertionError("setup.py has no extras")


@pytest.fixture(scope="module")
def answers():
  """Returns {command: (exit code, output, errors)}, of asking for help."""

  def question(command):
    module, *flags = shlex.split(command)[2:]
    if module == "udon_jax.main":
      return [module, *flags, "--print_config"]
    source = (ROOT / module.replace(".", "/")).with_suffix(".py")
    uses_absl = source.exists() and "absl import flags" in source.read_text()
    return [module, "--helpfull" if uses_absl else "--help"]

  return command_lines.run_all({c: question(c) for c in MODULES})


@pytest.mark.parametrize("command", MODULES)
def test_modules_know_their_flags(answers, command):
  module, *flags = shlex.split(command)[2:]
  code, output, errors = answers[command]
  if module == "udon_jax.main":
    assert code == 0, errors
    assert "sampler" in output
    return
  for flag in (f for f in flags if f.startswith("--")):
    name = flag.removeprefix("--").split("=")[0]
    assert re.search(rf"--(\[no\])?{name}\b", output + errors), (flag, errors)


def test_files_named_in_the_texts_exist():
  for name, text in TEXTS.items():
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", text)
    paths = re.findall(
      r"`((?:configs|docs|tests|benchmarks|udon_jax)/[\w./]+)(?:::?\w+)?`", text
    )
    assert links or paths
    for path in paths:
      assert (ROOT / path).exists(), f"{name}: {path}"
    for link in links:
      assert ((ROOT / name).parent / link).exists(), f"{name}: {link}"


def differences():
  """Returns the rows of the table of differences, without its head."""
  table = TEXTS["README.md"].split("<!-- differences: begin -->")[1]
  table = table.split("<!-- differences: end -->")[0].strip()
  return [row.strip("|").split("|") for row in table.splitlines()[2:]]


@pytest.mark.parametrize("row", differences(), ids=lambda row: row[0].strip())
def test_differences_are_pinned(row):
  *_, how, test = (cell.strip() for cell in row)
  path, name = re.fullmatch(r"`(tests/\w+\.py)::(\w+)`", test).groups()
  tree = ast.parse(pathlib.Path(ROOT / path).read_text())
  names = {x.name for x in ast.walk(tree) if isinstance(x, ast.FunctionDef)}
  assert name in names
  key = re.match(r"`([\w.]+)", how)
  assert key or how == "no"
  if key:
    value = default_config.get_config()
    for part in key[1].split("."):
      assert part in value
      value = value[part]


def test_configs_of_the_paper_are_listed():
  for path in (ROOT / "configs").glob("uned_*.py"):
    assert f"| `configs/{path.name}` |" in TEXTS["README.md"]
