"""Benchmarks start, and their baseline computes what we compute."""

import os
import pathlib
import subprocess
import sys

import jax
import numpy as np
import optax
import pytest

from benchmarks import plain, runs
from tests import compiling
from udon_jax import prototypes

ROOT = pathlib.Path(__file__).parent.parent
# They measure how records are read, and so need what reads them.
OF_DATA = {"bench_extract", "bench_input", "bench_offsets", "bench_prepare"}
# Asks for the help of every module in a process of its own; what is slow to
# import is imported once, before.
HELP = """
import os, runpy, sys, traceback
sys.modules["tensorflow"] = None
import udon_jax.run
for name in sys.argv[1:]:
  sys.stdout.flush()
  child = os.fork()
  if not child:
    code = 2
    sys.argv[:] = [name, "--help"]
    try:
      runpy.run_module(
        f"benchmarks.{name}", run_name="__main__", alter_sys=True
      )
    except SystemExit as end:
      code = int(bool(end.code))
    except BaseException:
      traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
  _, status = os.waitpid(child, 0)
  print(f"== {name} {os.waitstatus_to_exitcode(status)}")
"""


@pytest.mark.slow
def test_benchmarks_start_without_tensorflow():
  names = sorted(p.stem for p in (ROOT / "benchmarks").glob("bench_*.py"))
  names = [name for name in names if name not in OF_DATA]
  done = subprocess.run(
    [sys.executable, "-c", HELP, *names],
    cwd=ROOT,
    env={**os.environ, "XLA_FLAGS": compiling.FLAGS, "JAX_PLATFORMS": "cpu"},
    capture_output=True,
    text=True,
    timeout=120,
    check=False,
  )
  for name in names:
    assert f"== {name} 0\n" in done.stdout, done.stderr
    assert f"python -m benchmarks.{name}" in done.stdout


@pytest.fixture(scope="module")
def run():
  return runs.make_run(
    class_divisor=512.0,
    devices=jax.devices()[:1],
    batch_size=8,
    model__name="vit_mu16",
    data__crop_size=32,
    data__resize_size=32,
    prototypes__block_rows=64,
  )


@pytest.mark.slow
def test_baseline_takes_our_steps_in_the_official_form(run):
  domain = run.layout.names.index("met")  # of several blocks
  batch = runs.make_batch(run, domain)
  baseline = plain.Plain(run, domain)
  trained, moments = baseline.make()
  tables = prototypes.unpack(
    jax.device_get(run.init_state().prototypes), run.layout
  )
  for role, by_name in trained[1].items():
    for name in by_name:  # the first of three is the parameter
      by_name[name] = jax.device_put(
        tables[role][name][:, 0], by_name[name].sharding
      )
  state, loss = baseline.step((trained, moments), batch)
  sums = run.train_step(run.init_state(), batch).meters.sums
  np.testing.assert_allclose(loss, sums["loss"][domain], rtol=1e-5)
  # Adam's first moment is a tenth of the first gradient.
  norm = 10 * optax.tree.norm(state[1][0].mu[0])
  np.testing.assert_allclose(norm, sums["grad_norm"][domain], rtol=1e-4)
  _, second = baseline.step(state, batch)
  assert second < loss
  assert baseline.step._cache_size() == 1
  lowered = baseline.step.lower(jax.eval_shape(baseline.make), batch)
  assert "stablehlo.while" not in lowered.as_text()
  lowered = run.train_step.lower(run.abstract_state, batch)
  assert "stablehlo.while" in lowered.as_text()
