"""Starts the tiny run on several real processes of this machine."""

import contextlib
import os
import pathlib
import signal
import socket
import subprocess
import sys
import tempfile
import time

from tests import compiling

ROOT = pathlib.Path(__file__).parent.parent
HEARTBEAT = 10
# What one start has compiled, the next one of the same tests need not.
_CACHE = tempfile.TemporaryDirectory()


def free_port():
  with socket.socket() as found:
    found.bind(("localhost", 0))
    return found.getsockname()[1]


class Processes:
  """Some processes, what they have said, and how they ended."""

  def __init__(self, commands, **environ):
    self._files = [
      tempfile.TemporaryFile("w+")  # noqa: SIM115 (closed with the object)
      for _ in commands
    ]
    environ = {
      **os.environ,
      "PYTHONPATH": str(ROOT),
      "XLA_FLAGS": compiling.FLAGS,
      "TF_CPP_MIN_LOG_LEVEL": "3",
      "JAX_COMPILATION_CACHE_DIR": _CACHE.name,
      "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
      "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "0",
      **environ,
    }
    self.children = [
      subprocess.Popen(
        command, cwd=ROOT, env=environ, stdout=file, stderr=file, text=True
      )
      for command, file in zip(commands, self._files, strict=True)
    ]

  def said(self, i):
    self._files[i].seek(0)
    return self._files[i].read()

  def wait(self, seconds=300):
    """Returns the exit codes of all."""
    deadline = time.monotonic() + seconds
    return [
      child.wait(max(0.1, deadline - time.monotonic()))
      for child in self.children
    ]

  def wait_for_step(self, workdir, step, seconds=120):
    """Returns when a checkpoint of a step or a later one is there."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
      folder = pathlib.Path(workdir) / "checkpoints"
      names = os.listdir(folder) if folder.is_dir() else []
      if any(name.isdigit() and int(name) >= step for name in names):
        return
      assert all(child.poll() is None for child in self.children), self.said(0)
      time.sleep(0.05)
    raise AssertionError(f"no step {step}: {self.said(0)}")

  def send(self, i, number=signal.SIGTERM):
    self.children[i].send_signal(number)

  def stop(self):
    for child in self.children:
      if child.poll() is None:
        child.kill()
      child.wait()


@contextlib.contextmanager
def started(workdir, count, *flags, devices, pause=0.0, own=None):
  """Starts the run; ends what is left of it.

  Args:
    workdir: of the run.
    count: of processes.
    *flags: of `tests.run_fake`, of all.
    devices: of each process.
    pause: seconds before every batch.
    own: {process: its flags}.
  """
  command = ["tests.run_fake", str(workdir), str(pause)]
  command += [f"--devices={devices}", "--steps=12", *flags]
  with running(command, count, own=own) as processes:
    yield processes


@contextlib.contextmanager
def running(command, count, *, own=None, **environ):
  """Starts a module with its arguments, as several processes or one."""
  common = [sys.executable, "-m", *command]
  if count > 1:
    common += [
      f"--coordinator_address=localhost:{free_port()}",
      f"--num_processes={count}",
      f"--heartbeat_timeout={HEARTBEAT}",
      "--initialization_timeout=60",
    ]
  own = own or {}
  processes = Processes(
    [
      [*common, *([f"--process_id={i}"] if count > 1 else []), *own.get(i, [])]
      for i in range(count)
    ],
    **environ,
  )
  try:
    yield processes
  finally:
    processes.stop()
