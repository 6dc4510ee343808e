"""Runs a command line where libraries are missing.

`python -m tests.without NAME,NAME MODULE --flags`.
"""

import runpy
import sys


def main():
  _, names, *argv = sys.argv
  for name in names.split(","):
    for loaded in [m for m in sys.modules if m.split(".")[0] == name]:
      del sys.modules[loaded]
    sys.modules[name] = None
  sys.argv = argv
  runpy.run_module(argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
  main()
