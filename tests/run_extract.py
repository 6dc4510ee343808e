"""Runs extract and hurts it: `python -m tests.run_extract HOW FLAGS...`.

HOW is `kill=N` (`kill -9` at its Nth use of a file of the output, counted as
the interpreter reports opening, renaming and removing), `end=N` (likewise, but
counted after the last image), `limit=N` (no file grows beyond N bytes, as on a
full disk), `term=N` (SIGTERM after N batches) or `columns=N` (no harm, but its
errors go through a terminal of N columns).
"""

import contextlib
import os
import pty
import resource
import signal
import sys
import termios
import threading

from udon_jax import cli, extract
from udon_jax.data import files
from udon_jax.extraction import job

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
      limit_files(value)
    for i, batch in enumerate(read_folder(*arguments, **options)):
      if how == "term" and i == value:
        os.kill(os.getpid(), signal.SIGTERM)
      yield batch
    if how == "end":
      kill_at(value, output)

  return read


def limit_files(size):
  _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (size, most))


@contextlib.contextmanager
def terminal(columns):
  """Puts a terminal between this process and its stderr."""
  ours, theirs = pty.openpty()
  termios.tcsetwinsize(ours, (24, columns))
  behind = os.dup(2)
  os.dup2(theirs, 2)
  os.close(theirs)

  def copy():
    with contextlib.suppress(OSError):  # the other end is closed
      while piece := os.read(ours, 4096):
        os.write(behind, piece)

  thread = threading.Thread(target=copy)
  thread.start()
  try:
    yield
  finally:
    sys.stderr.flush()
    os.dup2(behind, 2)
    thread.join()


def main(how, value):
  output = next(x for x in sys.argv if x.startswith("--output=")).split("=")[1]
  output = os.path.basename(output)
  files.read_folder = hurt(files.read_folder, how, value, output)
  job._SECONDS_BETWEEN_SAVES = 0.0
  if how == "kill":
    kill_at(value, output)

  def run(arguments):
    try:
      extract.main(arguments)
    finally:
      limit_files(resource.RLIM_INFINITY)  # this process' log is a file too

  with terminal(value) if how == "columns" else contextlib.nullcontext():
    cli.run(run)


if __name__ == "__main__":
  how, _, value = sys.argv.pop(1).partition("=")
  main(how, int(value))
