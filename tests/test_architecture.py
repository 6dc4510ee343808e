"""The plan of the rooms: who imports whom, where TensorFlow lives, sizes."""

import ast
import builtins
import dis
import graphlib
import importlib
import os
import pathlib
import subprocess
import sys
import textwrap
import types

import pytest

from tests import compiling

ROOT = pathlib.Path(__file__).parent.parent
PACKAGE = "udon_jax"
# Every room has a level, and imports from its own level or lower ones. Names
# stand for a module or for all of a folder.
LEVELS = (
  {
    "caches",
    "cpus",
    "disk",
    "errors",
    "locks",
    "structs",
    "domains",
    "own_domains",
    "own_files",
    "default_config",
    "variants",
  },
  {
    "chips",
    "compiled",
    "flops",
    "partitioning",
    "processes",
    "losses",
    "prototypes",
    "sampling",
    "optim",
    "models",
    "pretrained",
    "retrieval",
  },
  {
    "train_state",
    "train_step",
    "evaluator",
    "checkpointing",
    "reporting",
    "logs",
    "build",
    "semantics",
    "checks",
    "stopping",
    "workdirs",
  },
  {
    "run",
    "official_export",
    "official_state",
    "restoring",
    "resuming",
    "watching",
    "loop",
    "trainer",
    "warm_start",
  },
)
# What the command lines are made of, for use from Python; sees everything.
TOP = {
  "conversion",
  "embedder",
  "extraction",
  "planning",
  "report",
  "scoring",
  "trained",
  "zoo",
}
DATA = "data"
CLI = "cli"  # shared by the command lines; knows the errors alone
# Imported under data/ alone: big, slow to load, absent on many accelerators.
DATA_LIBRARIES = {
  "tensorflow",
  "tensorflow_datasets",
  "array_record",
  "apache_beam",
}
# Modules of lighter libraries that import TensorFlow by themselves.
BRINGS_TENSORFLOW = ("clu.metric_writers", "clu.periodic_actions")
MAX_FILE_LINES = 350
MAX_FUNCTION_LINES = 70


def modules():
  """Returns {dotted name: path} of every module of the package."""
  found = {}
  for path in sorted((ROOT / PACKAGE).rglob("*.py")):
    parts = path.relative_to(ROOT).with_suffix("").parts
    if parts[-1] == "__init__":
      parts = parts[:-1]
    found[".".join(parts)] = path
  return found


MODULES = modules()
TREES = {name: ast.parse(path.read_text()) for name, path in MODULES.items()}


def imports(tree, known=frozenset(MODULES)):
  """Returns the modules that a syntax tree imports, at any depth of it."""
  found = set()
  for node in ast.walk(tree):
    if isinstance(node, ast.Import):
      found |= {alias.name for alias in node.names}
    elif isinstance(node, ast.ImportFrom):
      assert node.level == 0, "import modules by their whole name"
      for alias in node.names:
        whole = f"{node.module}.{alias.name}"
        ours = node.module == PACKAGE or whole in known
        found.add(whole if ours or node.module == "clu" else node.module)
  return found


def room(name):
  """Returns the part of a dotted name below the package, "" for itself."""
  return name.removeprefix(PACKAGE).lstrip(".").split(".")[0]


def is_command_line(name):
  """Whether a module runs as `python -m`."""
  return name.endswith("__main__") or any(
    isinstance(node, ast.If)
    and ast.unparse(node.test) == "__name__ == '__main__'"
    for node in TREES[name].body
  )


def level(name):
  """Returns the level of a module; command lines see everything."""
  found = [i for i, rooms in enumerate(LEVELS) if room(name) in rooms]
  if found:
    return found[0]
  assert room(name) in {"", *TOP} or is_command_line(name), (
    f"{name} has no level: name it in LEVELS of {__file__}"
  )
  return len(LEVELS)


LEVELLED = [n for n in MODULES if room(n) in set().union(*LEVELS)]


def own_imports(name):
  return {
    m
    for m in imports(TREES[name])
    if m == PACKAGE or m.startswith(f"{PACKAGE}.")
  }


@pytest.mark.parametrize(
  "name", [n for n in MODULES if room(n) not in (DATA, CLI)]
)
def test_imports_go_down(name):
  for other in own_imports(name):
    if room(other) in (DATA, CLI):
      assert level(name) == len(LEVELS), f"{name} must not import {other}"
    else:
      assert level(other) <= level(name), f"{name} must not import {other}"


@pytest.mark.parametrize("name", [n for n in MODULES if room(n) == DATA])
def test_data_knows_only_the_ground_floor(name):
  if is_command_line(name):
    return  # these see everything
  allowed = {DATA, *LEVELS[0]}
  for other in own_imports(name):
    assert room(other) in allowed, f"{name} must not import {other}"


def test_shared_part_of_the_command_lines_knows_the_errors_alone():
  assert own_imports(f"{PACKAGE}.{CLI}") == {f"{PACKAGE}.errors"}


def test_no_module_imports_itself_in_a_circle():
  graph = {name: own_imports(name) & MODULES.keys() for name in MODULES}
  tuple(graphlib.TopologicalSorter(graph).static_order())


@pytest.mark.parametrize("name", MODULES)
def test_tensorflow_lives_under_data(name):
  for other in imports(TREES[name]):
    assert not other.startswith(BRINGS_TENSORFLOW), f"{name}: {other}"
    if room(name) != DATA:
      assert other.split(".")[0] not in DATA_LIBRARIES, f"{name}: {other}"


def test_rules_see_what_they_forbid():
  tree = ast.parse(
    "def f():\n  import tensorflow as tf\n"
    "from udon_jax import trainer, losses\n"
    "from udon_jax.data import dataset\n"
    "from clu import metric_writers\n"
    "from udon_jax.errors import UserError\n"
  )
  assert imports(tree) == {
    "tensorflow",
    "udon_jax.trainer",
    "udon_jax.losses",
    "udon_jax.data.dataset",
    "clu.metric_writers",
    "udon_jax.errors",
  }


def functions(tree):
  return [
    node
    for node in ast.walk(tree)
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
  ]


def own_lines(function):
  """Returns the lines of a function without those of functions inside it."""
  inside = {
    line
    for inner in functions(function)
    if inner is not function
    for line in range(inner.lineno, inner.end_lineno + 1)
  }
  return function.end_lineno - function.lineno + 1 - len(inside)


@pytest.mark.parametrize("name", MODULES)
def test_files_and_functions_fit_the_eye(name):
  assert len(MODULES[name].read_text().splitlines()) <= MAX_FILE_LINES
  for function in functions(TREES[name]):
    assert own_lines(function) <= MAX_FUNCTION_LINES, function.name


def codes(code):
  """Yields a code object and those of all functions in it."""
  yield code
  for const in code.co_consts:
    if isinstance(const, types.CodeType):
      yield from codes(const)


def undefined_names(path, namespace):
  """Returns the global names that a file's functions read but nobody wrote."""
  known = namespace | vars(builtins)
  return {
    instruction.argval
    for code in codes(compile(path.read_text(), str(path), "exec"))
    for instruction in dis.get_instructions(code)
    if instruction.opname == "LOAD_GLOBAL" and instruction.argval not in known
  }


@pytest.mark.parametrize("name", LEVELLED)
def test_functions_read_only_names_that_exist(name):
  """The linter cannot tell: it ignores F821 for shapes written as strings."""
  module = importlib.import_module(name)
  assert not undefined_names(MODULES[name], vars(module))


def test_rest_trains_without_tensorflow():
  """Imports L0-L3 and takes two steps where TensorFlow cannot be imported."""
  script = f"""
    import importlib, sys
    for name in {sorted(DATA_LIBRARIES | set(BRINGS_TENSORFLOW))!r}:
      sys.modules[name] = None
    for name in {LEVELLED!r}:
      importlib.import_module(name)
    from tests import fakes, training
    run = training.set_up(fakes.config())
    state, losses = training.take_steps(run, run.init_state(), (0, 2))
    loaded = sorted(m for m in sys.modules if m.startswith("udon_jax.data"))
    print(int(state.step), loaded, (losses > 0).all())
  """
  done = subprocess.run(
    [sys.executable, "-c", textwrap.dedent(script)],
    cwd=ROOT,
    env={**os.environ, "XLA_FLAGS": compiling.FLAGS, "JAX_PLATFORMS": "cpu"},
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, done.stderr
  assert done.stdout.split("\n")[-2] == "2 [] True"
