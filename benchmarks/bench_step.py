"""How fast steps are, full and frozen, and what they need.

  python -m benchmarks.bench_step

On an accelerator ViT-B/16 with a batch of 128 in bfloat16 and with UnED's
classes; on a CPU something smaller. The baseline `plain` is the official
formulation (benchmarks/plain.py): its step is the same while the backbone is
frozen. MFU is the share of the fastest square product of the same precision
that was measured in this run. Needs no TensorFlow.
"""

from collections.abc import Callable, Sequence
from typing import Any

from absl import flags
import jax

from benchmarks import common, plain, runs
from udon_jax import cli
from udon_jax.planning import programs

_HARDWARE = flags.DEFINE_string("hardware", "cpu2", "Named in the result file.")
_REPEATS = flags.DEFINE_integer("repeats", 5, "Rounds.", lower_bound=1)
_MODELS = flags.DEFINE_list("models", None, "Names of backbones.")
_DTYPES = flags.DEFINE_list("dtypes", None, "Precisions.")
_REMATS = flags.DEFINE_list("remats", ["None"], "Of config.model.remat.")
_UNROLLS = flags.DEFINE_list("unrolls", ["1"], "Layers written out.")
_BATCH = flags.DEFINE_integer("batch_size", None, "Images.", lower_bound=1)
_DIVISOR = flags.DEFINE_float("class_divisor", None, "Of UnED's classes.")
_PLAIN = flags.DEFINE_bool("plain", True, "Whether the baseline runs too.")


class Stepper:
  """Takes steps, each from the state of the last."""

  def __init__(self, step: Callable[..., Any], state: Any, batch: Any):
    self._step, self._state, self._batch = step, state, batch

  def __call__(self) -> None:
    """Takes a step, and waits for it."""
    state = self._step(self._state, self._batch)
    self._state = state[0] if isinstance(state, tuple) else state
    jax.block_until_ready(self._state)


def measure(model: str, dtype: str, remat: str | None, unroll: int):
  """Returns rows of one setting."""
  run = runs.make_run(
    class_divisor=runs.default(_DIVISOR.value, cpu=64.0, accelerator=1.0),
    devices=jax.devices()[:1],
    batch_size=runs.default(_BATCH.value, cpu=16, accelerator=128),
    model__name=model,
    model__dtype=dtype,
    model__remat=remat,
    model__unroll=unroll,
  )
  batch = runs.make_batch(run)
  steppers: dict[str, Callable[[], None]] = {
    "full": Stepper(run.train_step, run.init_state(), batch),
    "frozen": Stepper(run.frozen_step, run.init_state(), batch),
  }
  work = run.count_work()
  flops = {"full": work.full_step, "frozen": work.frozen_step}
  if _PLAIN.value:
    baseline = plain.Plain(run)
    steppers["plain"] = Stepper(baseline.step, baseline.make(), batch)
    flops["plain"] = work.full_step
  seconds = common.interleave(steppers, repeats=_REPEATS.value)
  size = runs.default(None, cpu=2048, accelerator=8192)
  peak = runs.matmul_flops(dtype, size=size)
  for name, found in seconds.items():
    memory = None
    if name != "plain":
      program = programs.compile_step(run, frozen=name == "frozen")
      memory = program.memory.temporaries / 2**20
    yield {
      "model": model,
      "dtype": dtype,
      "remat": str(remat),
      "unroll": unroll,
      "batch": run.config.batch_size,
      "step": name,
      "ms": 1000 * found["wall_s"],
      "images_per_s": run.config.batch_size / found["wall_s"],
      "mfu": flops[name] / found["wall_s"] / peak,
      "temporary_mb": memory,
      "speed_to_full": seconds["full"]["wall_s"] / found["wall_s"],
    }


def main(_: Sequence[str]) -> None:
  """Measures, prints and writes the tables."""
  head = common.header("jax", "flax")
  models = runs.default(
    _MODELS.value, cpu=["vit_ti16", "vit_s16"], accelerator=["vit_b16"]
  )
  dtypes = runs.default(
    _DTYPES.value, cpu=["float32"], accelerator=["bfloat16"]
  )
  rows = [
    row
    for model in models
    for dtype in dtypes
    for remat in _REMATS.value
    for unroll in map(int, _UNROLLS.value)
    for row in measure(model, dtype, None if remat == "None" else remat, unroll)
  ]
  print(common.markdown(rows))
  print(f"written: {common.write(f'step_{_HARDWARE.value}', head, rows)}")


if __name__ == "__main__":
  cli.run(main)
