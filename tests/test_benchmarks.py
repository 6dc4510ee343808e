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
from udon_jax import prototypes

ROOT = pathlib.Path(__file__).parent.parent
# They measure how records are read, and so need what reads them.
OF_DATA = {"bench_extract", "bench_input", "bench_offsets"}
# Asks for the help of every module in a process of its own; what is slow to
# import is imported once, before.
HELP = """
import os, runpy, sys
sys.modules["tensorflow"] = None
import udon_jax.run, udon_jax.embedder
for name in sys.argv[1:]:
  sys.stdout.flush()
  child = os.fork()
  if not child:
    sys.argv[:] = [name, "--help"]
    try:
      runpy.run_module(f"benchmarks.{name}", run_name="__main__")
    except SystemExit as end:
      sys.stdout.flush()
      os._exit(int(bool(end.code)))
    finally:  # an error is printed, and is no success
      sys.excepthook(*sys.exc_info()) if sys.exc_info()[0] else None
      sys.stderr.flush()
      os._exit(2)
  _, status = os.waitpid(child, 0)
  print(f"== {name} {os.waitstatus_to_exitcode(status)}")
"""


def test_benchmarks_start_without_tensorflow():
  names = sorted(p.stem for p in (ROOT / "benchmarks").glob("bench_*.py"))
  names = [name for name in names if name not in OF_DATA]
  done = subprocess.run(
    [sys.executable, "-c", HELP, *names],
    cwd=ROOT,
    env={**os.environ, "XLA_FLAGS": "", "JAX_PLATFORMS": "cpu"},
    capture_output=True,
    text=True,
    timeout=120,
    check=True,
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


@pytest.mark.parametrize("domain", [0, 4])
def test_baseline_computes_our_loss_and_gradient(run, domain):
  batch, state = runs.make_batch(run, domain), run.init_state()
  tables = prototypes.unpack(jax.device_get(state.prototypes), run.layout)
  # Of parameters, without their moments.
  tables = {
    role: {name: found[:, 0] for name, found in tables[role].items()}
    for role in ("student", "teacher")
  }
  baseline = plain.Plain(run, domain)
  loss, grads = jax.jit(jax.value_and_grad(baseline.loss))(
    (state.params, tables), batch
  )
  sums = run.train_step(state, batch).meters.sums
  np.testing.assert_allclose(loss, sums["loss"][domain], rtol=1e-5)
  np.testing.assert_allclose(
    optax.tree.norm(grads[0]), sums["grad_norm"][domain], rtol=1e-4
  )


def test_baseline_writes_its_layers_out_and_compiles_once(run):
  baseline, batch = plain.Plain(run), runs.make_batch(run)
  state, first = baseline.step(baseline.make(), batch)
  _, second = baseline.step(state, batch)
  assert second < first
  assert baseline.step._cache_size() == 1
  lowered = baseline.step.lower(jax.eval_shape(baseline.make), batch)
  assert "stablehlo.while" not in lowered.as_text()
  state = run.abstract_state
  assert "stablehlo.while" in run.train_step.lower(state, batch).as_text()
