"""What a run runs on: environment.json.

No names of machines or people.
"""

from collections.abc import Sequence
import datetime
import hashlib
import importlib.metadata
import pathlib
import platform
import subprocess
from typing import Any

import jax
from jax.sharding import Mesh

# What decides numbers and speed; those that are installed are named.
PACKAGES = (
  "jax",
  "jaxlib",
  "flax",
  "optax",
  "orbax-checkpoint",
  "numpy",
  "tensorflow",
  "tensorflow-cpu",
  "simplejpeg",
  "opencv-python-headless",
  "udon_jax",
)
_GIT_SECONDS = 10


def code_digest() -> str:
  """Returns a short hash of the source files of the package."""
  root = pathlib.Path(__file__).parent.parent
  digest = hashlib.sha256()
  for path in sorted(root.rglob("*.py")):
    digest.update(str(path.relative_to(root)).encode())
    digest.update(path.read_bytes())
  return digest.hexdigest()[:12]


def describe(mesh: Mesh) -> dict[str, Any]:
  """Returns what this process runs on, as values for JSON.

  Args:
    mesh: of the run.

  Returns:
    {"started": UTC time, "python", "platform", "packages": {name: version},
    "git_commit": None if the package is no checkout, "git_changed": whether
    the checkout differs from its commit, "device_kind", "num_devices",
    "num_processes", "mesh": {axis: devices}}.
  """
  started = datetime.datetime.now(datetime.UTC)
  commit = git_commit(pathlib.Path(__file__).parent)
  return {
    "started": started.isoformat(timespec="seconds"),
    "python": platform.python_version(),
    "platform": platform.platform(),
    "packages": versions(PACKAGES),
    "git_commit": commit and commit.removesuffix("-dirty"),
    "git_changed": commit and commit.endswith("-dirty"),
    "device_kind": mesh.devices.flat[0].device_kind,
    "num_devices": mesh.size,
    "num_processes": jax.process_count(),
    "mesh": dict(mesh.shape),
  }


def versions(packages: Sequence[str]) -> dict[str, str]:
  """Returns the versions of those packages that are installed."""
  found = {}
  for name in packages:
    try:
      found[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
      continue
  return found


def git_commit(folder: pathlib.Path) -> str | None:
  """Returns the commit that a package was checked out at.

  Args:
    folder: of the package.

  Returns:
    The commit's hash, with "-dirty" if tracked files differ from it; None if
    git does not track the package: it may be installed in an environment that
    lies in the checkout of another project.
  """
  if _git(folder, "ls-files", "--error-unmatch", "__init__.py") is None:
    return None
  return _git(
    folder, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"
  )


def _git(folder: pathlib.Path, *command: str) -> str | None:
  """Returns what git says, None if it fails or is not there."""
  try:
    done = subprocess.run(
      ["git", "-C", str(folder), *command],
      capture_output=True,
      text=True,
      check=True,
      timeout=_GIT_SECONDS,
    )
  except (OSError, subprocess.SubprocessError):
    return None
  return done.stdout.strip()
