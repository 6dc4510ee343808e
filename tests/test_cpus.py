"""Threads are as many as the processors that a process was given."""

import os
import subprocess
import sys

import pytest

from tests import fakes
from udon_jax import cpus, trained


@pytest.mark.skipif(
  not hasattr(os, "sched_setaffinity"), reason="nothing assigns processors"
)
def test_processors_of_others_are_not_counted():
  program = """if True:
    import os
    from udon_jax import cpus
    given = sorted(os.sched_getaffinity(0))
    assert cpus.count() == len(given)
    os.sched_setaffinity(0, given[:1])
    print(cpus.count())
  """
  done = subprocess.run(
    [sys.executable, "-c", program], capture_output=True, text=True, check=True
  )
  assert done.stdout == "1\n"


def test_where_nothing_assigns_processors_all_count(monkeypatch):
  monkeypatch.delattr(os, "sched_getaffinity", raising=False)
  monkeypatch.setattr(os, "cpu_count", lambda: 7)
  assert cpus.count() == 7
  assert trained.num_threads(fakes.config()) == 7
  assert trained.num_threads(fakes.changed(data__num_threads=3)) == 3
  monkeypatch.setattr(os, "cpu_count", lambda: None)
  assert cpus.count() == 1
