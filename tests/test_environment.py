"""Laws of what a run tells of its machine."""

import json
import subprocess

import jax
import numpy as np

from udon_jax import partitioning
from udon_jax.logs import environment


def git(folder, *command):
  return subprocess.run(
    ["git", "-C", folder, "-c", "user.name=x", "-c", "user.email=x", *command],
    capture_output=True,
    text=True,
    check=True,
  ).stdout.strip()


def package(folder):
  """Makes a folder look like a package."""
  folder.mkdir()
  (folder / "__init__.py").write_text("")
  return folder


def test_commit_is_that_of_the_checkout(tmp_path):
  folder = package(tmp_path / "package")
  git(tmp_path, "init")
  git(tmp_path, "add", ".")
  git(tmp_path, "commit", "-m", "first")
  git(tmp_path, "tag", "v1", "-m", "a tag is not what is asked for")
  commit = git(tmp_path, "rev-parse", "HEAD")
  assert environment.git_commit(folder) == commit
  (tmp_path / "new.txt").write_text("tracked by nobody")
  assert environment.git_commit(folder) == commit
  (folder / "__init__.py").write_text("changed = True")
  assert environment.git_commit(folder) == f"{commit}-dirty"
  # An installed copy inside the checkout is not what was checked out.
  (tmp_path / ".gitignore").write_text(".venv\n")
  assert environment.git_commit(package(tmp_path / ".venv")) is None


def test_there_may_be_no_checkout_and_no_git(tmp_path, monkeypatch):
  folder = package(tmp_path / "package")
  monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
  assert environment.git_commit(folder) is None
  monkeypatch.setenv("PATH", "")
  assert environment.git_commit(folder) is None


def test_describes_the_mesh_and_what_is_installed():
  mesh = partitioning.make_mesh(data=4, fsdp=2)
  described = environment.describe(mesh)
  assert json.loads(json.dumps(described)) == described
  assert described["mesh"] == {"data": 4, "fsdp": 2}
  assert described["num_devices"] == 8
  assert described["num_processes"] == 1
  assert described["packages"]["jax"] == jax.__version__
  assert described["packages"]["numpy"] == np.__version__
  assert environment.versions(["no-such-package", "numpy"]) == {
    "numpy": np.__version__
  }
