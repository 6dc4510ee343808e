"""Programs are kept where they take long to compile, and found again."""

import os
import subprocess
import sys

import pytest

from udon_jax import caches, compiled

# Counts the programs that are compiled and those that are found.
PROGRAM = """
import collections, jax
from udon_jax import compiled
compiled.keep({platform!r})
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
seen = collections.Counter()
jax.monitoring.register_event_listener(lambda name, **_: seen.update([name]))
print(jax.jit(lambda x: x * 3 + 1)(2))
print(seen["/jax/compilation_cache/cache_hits"])
"""


def start(platform, folder, **environ):
  done = subprocess.run(
    [sys.executable, "-c", PROGRAM.format(platform=platform)],
    env={
      **{k: v for k, v in os.environ.items() if k != compiled.VARIABLE},
      caches.VARIABLE: str(folder),
      **environ,
    },
    capture_output=True,
    text=True,
    check=True,
  )
  value, hits = map(int, done.stdout.split())
  assert value == 7
  return hits


def test_a_second_start_compiles_nothing(tmp_path):
  assert start("tpu", tmp_path) == 0
  assert start("tpu", tmp_path) == 1
  assert list((tmp_path / compiled.FOLDER).iterdir())


def test_programs_of_cpus_are_not_kept(tmp_path):
  start("cpu", tmp_path)
  assert not list(tmp_path.iterdir())


def test_the_variable_of_jax_holds(tmp_path):
  other = tmp_path / "other"
  environ = {compiled.VARIABLE: str(other)}
  assert start("tpu", tmp_path / "own", **environ) == 0
  assert start("tpu", tmp_path / "own", **environ) == 1
  assert not (tmp_path / "own").exists()


@pytest.mark.parametrize("what", ["file", "below a file"])
def test_where_nothing_can_be_written_nothing_is_kept(tmp_path, what):
  (tmp_path / "file").write_text("")
  place = tmp_path / "file" if what == "file" else tmp_path / "file" / "below"
  assert start("tpu", place) == 0
