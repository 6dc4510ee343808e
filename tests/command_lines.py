"""Runs command lines in processes forked from one that has imported it all.

Importing JAX and TensorFlow takes seconds; a fork of a process that has done so
starts at once. `python -m tests.command_lines [FOLDER]` reads {name: argv} as
JSON and writes {name: [exit code, output, errors, changed, added]}, the last
two being files of FOLDER. An argv is the name of a module and its flags, or
`-c` and a program. Nothing may run on a device before the fork.
"""

import hashlib
import importlib
import json
import os
import pathlib
import runpy
import subprocess
import sys
import tempfile
import typing

ROOT = pathlib.Path(__file__).parent.parent
_DIGESTS = {}  # of files that have not been touched since
# What the command lines import, at their top or later.
_MODULES = ("udon_jax.trainer", "udon_jax.data.dataset", "udon_jax.data.layout")


class Answer(typing.NamedTuple):
  """What a command line said."""

  code: int
  output: str
  errors: str


class Watched(typing.NamedTuple):
  """What a command line said, and did to a folder."""

  code: int
  output: str
  errors: str
  changed: list[str]  # files that it changed or removed
  added: list[str]


def run_all(cases, **environment):
  """Runs {name: argv} in turn; returns {name: Answer}."""
  answers = watch_all(cases, "", **environment)
  return {name: Answer(*answer[:3]) for name, answer in answers.items()}


def watch_all(cases, folder, *, cwd=ROOT, **environment):
  """Runs {name: argv} in turn; returns {name: Watched} for a folder."""
  done = subprocess.run(
    [sys.executable, "-m", "tests.command_lines", str(folder)],
    cwd=cwd,
    env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
    input=json.dumps(cases),
    stdout=subprocess.PIPE,
    text=True,
    check=True,
  )
  return {name: Watched(*x) for name, x in json.loads(done.stdout).items()}


def _snapshot(folder):
  """Returns {path: what it holds} of all files below a folder."""
  found = {}
  for place, folders, names in os.walk(folder) if folder else ():
    for name in (*folders, *names):
      path = pathlib.Path(place, name)
      if path.is_symlink():
        found[str(path.relative_to(folder))] = os.readlink(path)
      elif path.is_file():
        state = path.stat()
        key = str(path), state.st_ino, state.st_size, state.st_mtime_ns
        if key not in _DIGESTS:
          _DIGESTS[key] = hashlib.sha256(path.read_bytes()).hexdigest()
        found[str(path.relative_to(folder))] = _DIGESTS[key]
  return found


def _watch(argv, folder, before):
  """Runs a command line; returns its answer and the folder after it."""
  answer = _fork(argv)
  after = _snapshot(folder)
  changed = [path for path in before if after.get(path) != before[path]]
  added = [path for path in after if path not in before]
  return (*answer, changed, added), after


def _child(argv, output, error):
  """Becomes a command line; does not return."""
  os.dup2(output.fileno(), 1)
  os.dup2(error.fileno(), 2)
  module, *_ = sys.argv = list(argv)
  code = 0
  try:
    if module == "-c":
      exec(sys.argv[1], {"__name__": "__main__"})
    else:
      runpy.run_module(module, run_name="__main__", alter_sys=True)
  except SystemExit as end:
    code = end.code if isinstance(end.code, int) else bool(end.code)
  except BaseException:
    sys.excepthook(*sys.exc_info())
    code = 1
  sys.stdout.flush()
  sys.stderr.flush()
  os._exit(code)


def _fork(argv):
  with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
    child = os.fork()
    if child == 0:
      _child(argv, out, err)
    _, status = os.waitpid(child, 0)
    for file in (out, err):
      file.seek(0)
    return os.waitstatus_to_exitcode(status), out.read(), err.read()


def main(folder=""):
  """Forks a process for each case on the standard input."""
  cases = json.load(sys.stdin)
  for name in _MODULES:
    importlib.import_module(name)
  files = _snapshot(folder)
  answers = {}
  for name, argv in cases.items():
    answers[name], files = _watch(argv, folder, files)
  json.dump(answers, sys.stdout)


if __name__ == "__main__":
  main(*sys.argv[1:])
