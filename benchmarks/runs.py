"""Real runs without data, for benchmarks of their steps."""

from collections.abc import Sequence
import importlib
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from udon_jax import domains, partitioning, structs
from udon_jax import run as runs


def make_run(
  *,
  class_divisor: float = 1.0,
  devices: Sequence[jax.Device] | None = None,
  **changes: Any,
) -> runs.Run:
  """Returns a run of the paper's setting on UnED; nothing is compiled.

  Args:
    class_divisor: UnED's classes are divided by it.
    devices: all by default.
    **changes: values of the config, with a.b written as a__b.
  """
  config = importlib.import_module("configs.uned_vitb16").get_config()
  with config.unlocked():
    for key, value in changes.items():
      group = config
      *path, last = key.split("__")
      for name in path:
        group = group[name]
      group[last] = value
  sources = [
    structs.ToldSource(
      spec.name,
      max(8, round(spec.num_classes / class_divisor)),
      spec.num_examples["train"],
    )
    for spec in domains.UNED.values()
  ]
  return runs.set_up(config, sources, devices=devices)


def make_batch(run: runs.Run, domain: int = 0) -> structs.Batch:
  """Returns a batch of random images on the devices."""
  rng = np.random.default_rng(0)
  size, count = run.config.data.crop_size, run.config.batch_size
  images = rng.integers(0, 256, (count, size, size, 3)).astype(np.uint8)
  labels = rng.integers(0, run.layout.num_classes[domain], count)
  images, labels = partitioning.put_batch(
    (images, labels.astype(np.int32)), run.mesh
  )
  return structs.Batch(
    images, labels, partitioning.put_replicated(np.int32(domain), run.mesh)
  )


def matmul_flops(dtype: Any, *, size: int) -> float:
  """Returns operations a second of square products, in the best of some."""
  a = jnp.ones((size, size), dtype)
  product = jax.jit(lambda x: x @ a)
  jax.block_until_ready(product(a))
  best = float("inf")
  for _ in range(5):
    start = time.perf_counter()
    jax.block_until_ready(product(a))
    best = min(best, time.perf_counter() - start)
  return 2 * size**3 / best


def on_cpu() -> bool:
  """Whether the devices are this machine's processors."""
  return jax.default_backend() == "cpu"


def default(given: Any, *, cpu: Any, accelerator: Any) -> Any:
  """Returns what is given, or what suits the devices."""
  if given is not None:
    return given
  return cpu if on_cpu() else accelerator
