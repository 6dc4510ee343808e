"""What stands in for a cluster in test_launch.py.

A folder with a program `udon_jax.main`, and commands that come first in PATH.
The program lives without udon_jax, so that it starts in a moment; it behaves as
its --config says and keeps what it has done in STATE, as a run does in its
workdir.
"""

import os
import pathlib
import shutil
import subprocess
import sys

ROOT = pathlib.Path(__file__).parent.parent
LAUNCH = ROOT / "launch"
# What the scripts may use anywhere: no gcloud, kubectl, sbatch or docker.
_TOOLS = "awk bash cat date dirname env flock grep mkdir mktemp rm sed seq"
_TOOLS += " setsid sha256sum sleep tail tee tar timeout"

PROGRAM = '''
import os, pathlib, signal, sys, time
state = pathlib.Path(os.environ["STATE"])
flags = dict(a[2:].split("=", 1) for a in sys.argv[1:])
me = int(flags.get("process_id", os.environ.get("SLURM_PROCID", 0)))
what, *values = flags["config"].split(":")

def note(word):
  with open(state / f"process_{me}", "a") as file:
    file.write(word + "\\n")

def stop(number, frame):
  note("saved")
  sys.exit(143)

def work():
  done = state / "steps"
  for step in range(int(done.read_text() or 0) if done.exists() else 0, 10):
    time.sleep(0.1)
    done.with_suffix(".new").write_text(str(step + 1))
    done.with_suffix(".new").replace(done)
  note(f"done, device count {os.environ.get('XLA_FLAGS', '')}")

def join():
  import jax, numpy as np
  from jax.experimental import multihost_utils
  if "coordinator_address" in flags:
    jax.distributed.initialize(flags["coordinator_address"],
                               int(flags["num_processes"]), me)
  else:
    jax.distributed.initialize()
  numbers = multihost_utils.process_allgather(np.array(jax.process_index() + 1))
  print("sum", numbers.sum(), "devices", jax.device_count(),
        "local", jax.local_device_count(), flush=True)

signal.signal(signal.SIGTERM, stop)
note("started")
if what == "join":
  join()
elif what == "work":
  work()
elif what == "codes":  # one for each start
  sys.exit(int(values[(state / f"process_{me}").read_text().count("started") - 1]))
elif what == "end" and me == int(values[0]):
  while not all((state / f"process_{i}").exists() for i in range(3)):
    time.sleep(0.05)
  sys.exit(int(values[1]))
else:
  time.sleep(60)
'''


class Place:
  """A folder to launch from."""

  def __init__(self, folder):
    self.folder = folder
    self.bin = folder / "bin"
    self.bin.mkdir()
    self.state = folder / "state"
    self.state.mkdir()
    for tool in _TOOLS.split():
      (self.bin / tool).symlink_to(shutil.which(tool))
    self.shim("python", f'exec {sys.executable} "$@"')
    package = folder / "udon_jax"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "main.py").write_text(PROGRAM)
    kept = {k: v for k, v in os.environ.items() if not k.startswith("UDON")}
    kept.pop("PYTHONPATH", None)
    kept.pop("CUDA_VISIBLE_DEVICES", None)
    self.environment = {
      **kept,
      "PATH": str(self.bin),
      "STATE": str(self.state),
      "JAX_PLATFORMS": "cpu",
      "XLA_FLAGS": "",
    }

  def shim(self, name, text):
    """Puts a command in PATH."""
    file = self.bin / name
    file.unlink(missing_ok=True)
    file.write_text(f"#!/usr/bin/env bash\n{text}\n")
    file.chmod(0o755)

  def start(self, *command, **environment):
    """Starts a command in a session of its own."""
    return subprocess.Popen(
      [str(word) for word in command],
      cwd=self.folder,
      env={**self.environment, **environment},
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
      start_new_session=True,
    )

  def run(self, *command, **environment):
    """Runs a command to its end; returns (code, output, errors)."""
    process = self.start(*command, **environment)
    output, errors = process.communicate(timeout=60)
    return process.returncode, output, errors

  def words(self, process=0):
    """Returns what a process has noted."""
    file = self.state / f"process_{process}"
    return file.read_text().splitlines() if file.exists() else []

  def steps(self):
    """Returns how much work is done."""
    file = self.state / "steps"
    return int(file.read_text()) if file.exists() else 0
