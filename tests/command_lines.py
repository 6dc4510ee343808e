"""Runs command lines in processes forked from one that has imported it all.

Importing JAX and TensorFlow takes seconds; a fork of a process that has done so
starts at once. `python -m tests.command_lines` reads {name: argv} as JSON and
writes {name: [exit code, output, errors]}. Nothing may run on a device before
the fork.
"""

import importlib
import json
import os
import pathlib
import runpy
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).parent.parent
# What the command lines import, at their top or later.
_MODULES = ("udon_jax.trainer", "udon_jax.data.dataset", "udon_jax.data.layout")


def run_all(cases, **environment):
  """Runs {name: argv} in turn; returns {name: (exit code, output, errors)}."""
  done = subprocess.run(
    [sys.executable, "-m", "tests.command_lines"],
    cwd=ROOT,
    env={**os.environ, **environment},
    input=json.dumps(cases),
    stdout=subprocess.PIPE,
    text=True,
    check=True,
  )
  return {name: tuple(x) for name, x in json.loads(done.stdout).items()}


def _child(argv, output, error):
  """Becomes a command line; does not return."""
  os.dup2(output.fileno(), 1)
  os.dup2(error.fileno(), 2)
  module, *_ = sys.argv = list(argv)
  code = 0
  try:
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


def main():
  """Forks a process for each case on the standard input."""
  cases = json.load(sys.stdin)
  for name in _MODULES:
    importlib.import_module(name)
  json.dump({name: _fork(argv) for name, argv in cases.items()}, sys.stdout)


if __name__ == "__main__":
  main()
