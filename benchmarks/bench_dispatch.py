"""What the host does for a step besides waiting for images.

  python -m benchmarks.bench_dispatch

`dispatch` is how long a call of the compiled step takes to come back, of a tiny
model whose step the device ends in the meantime. `policy` is what deciding on
the domains of a window costs a step, ours planned a window at a time. `sync` is
the official way: the domain of every step is read from an array on the device,
behind the step before. Needs no TensorFlow.
"""

from collections.abc import Sequence
import statistics
import time

from absl import flags
import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import common, runs
from udon_jax import cli, partitioning

_HARDWARE = flags.DEFINE_string("hardware", "cpu2", "Named in the result file.")
_STEPS = flags.DEFINE_integer("steps", 200, "Timed steps.", lower_bound=1)
_MODEL = flags.DEFINE_string("model", "vit_mu16", "Name of the backbone.")
_BATCH = flags.DEFINE_integer("batch_size", 2, "Images.", lower_bound=1)


def dispatch(run) -> list[float]:
  """Returns seconds of every call, the device idle before it."""
  state, batch = run.init_state(), runs.make_batch(run)
  found = []
  for _ in range(_STEPS.value + 10):
    jax.block_until_ready(state)
    start = time.perf_counter()
    state = run.train_step(state, batch)
    found.append(time.perf_counter() - start)
  jax.block_until_ready(state)
  return found[10:]


def window(run, length: int) -> list[float]:
  """Returns seconds of planning a window and reading the plan."""
  sampler, found = run.init_state().sampler, []
  for number in range(1, 22):
    index = partitioning.put_replicated(np.int32(number), run.mesh)
    start = time.perf_counter()
    new, plan = run.policy.enter(sampler, index)
    np.asarray(partitioning.fetch((new.weights, plan))[1])
    found.append((time.perf_counter() - start) / length)
    sampler = new
  return found[1:]


def sync(run) -> tuple[list[float], list[float]]:
  """Returns seconds of reading a domain, and of such steps as a whole."""
  schedule = jnp.zeros(_STEPS.value + 10, jnp.int32)
  state, batch = run.init_state(), runs.make_batch(run)
  waits, steps = [], []
  for i in range(_STEPS.value + 10):
    start = time.perf_counter()
    int(schedule[i])
    waits.append(time.perf_counter() - start)
    state = run.train_step(state, batch)
    steps.append(time.perf_counter() - start)
  jax.block_until_ready(state)
  return waits[10:], steps[10:]


def main(_: Sequence[str]) -> None:
  """Measures, prints and writes the table."""
  head = common.header("jax", "flax")
  run = runs.make_run(
    class_divisor=1e9,
    devices=jax.devices()[:1],
    model__name=_MODEL.value,
    batch_size=_BATCH.value,
    data__crop_size=32,
    data__resize_size=32,
    sampler__update_every=1000,
  )
  calls = dispatch(run)
  plans = window(run, 1000)
  waits, _steps = sync(run)
  rows = [
    {
      "model": _MODEL.value,
      "what": what,
      "us_a_step": 1e6 * statistics.median(found),
      "us_best": 1e6 * min(found),
    }
    for what, found in (
      ("dispatch", calls),
      ("policy, a window of 1000", plans),
      ("sync, the official way", waits),
    )
  ]
  print(common.markdown(rows))
  print(f"written: {common.write(f'dispatch_{_HARDWARE.value}', head, rows)}")


if __name__ == "__main__":
  cli.run(main)
