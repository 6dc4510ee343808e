"""Runs extract and hurts it: `python -m tests.run_extract HOW FLAGS...`.

HOW is `kill=N` (`kill -9` at its Nth use of a file of the output, counted as
the interpreter reports opening, renaming and removing), `end=N` (likewise, but
counted after the last image), `limit=N` (no file grows beyond N bytes, as on a
full disk) or `term=N` (SIGTERM after N batches).
"""

import os
import resource
import signal
import sys

from udon_jax import cli, extract
from udon_jax.data import files

_EVENTS = {"open", "os.rename", "os.remove", "shutil.rmtree", "os.mkdir"}


def kill_at(number, output):
  """Kills this process at the Nth use of a file from now on."""
  left = number

  def hook(event, arguments):
    nonlocal left
    if event in _EVENTS and output in str(arguments[0]):
      left -= 1
      if not left:
        os.kill(os.getpid(), signal.SIGKILL)

  sys.addaudithook(hook)


def hurt(read_folder, how, value, output):
  """Returns what reads a folder, and does harm meanwhile."""

  def read(*arguments, **options):
    if how == "limit":
      resource.setrlimit(resource.RLIMIT_FSIZE, (value, value))
    for i, batch in enumerate(read_folder(*arguments, **options)):
      if how == "term" and i == value:
        os.kill(os.getpid(), signal.SIGTERM)
      yield batch
    if how == "end":
      kill_at(value, output)

  return read


def main(how, value):
  output = next(x for x in sys.argv if x.startswith("--output=")).split("=")[1]
  output = os.path.basename(output)
  files.read_folder = hurt(files.read_folder, how, value, output)
  extract._SECONDS_BETWEEN_SAVES = 0.0
  if how == "kill":
    kill_at(value, output)
  cli.run(extract.main)


if __name__ == "__main__":
  how, _, value = sys.argv.pop(1).partition("=")
  main(how, int(value))
