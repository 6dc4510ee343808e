"""What it costs to compile the steps of eight domains.

  python -m benchmarks.bench_compile

Ours is one program for all domains, and one more for the frozen phase. The
baseline `plain` (benchmarks/plain.py) is a program for every domain with its
layers written out, as the official code compiles them. Seconds are of this
process's processors, all threads together; nothing is kept between programs.
Needs no TensorFlow.
"""

from collections.abc import Callable, Sequence
import functools
import resource
from typing import Any

from absl import flags
import jax

from benchmarks import common, plain, runs
from udon_jax import cli
from udon_jax.planning import programs

_HARDWARE = flags.DEFINE_string("hardware", "cpu2", "Named in the result file.")
_MODEL = flags.DEFINE_string("model", "vit_s16", "Name of the backbone.")
_BATCH = flags.DEFINE_integer("batch_size", 16, "Images.", lower_bound=1)
_SIZE = flags.DEFINE_integer("image_size", 224, "Side of images, in pixels.")
_DOMAINS = flags.DEFINE_integer(
  "domains", 8, "Of the baseline that are compiled; the rest is extrapolated."
)
DEPTH = 12


def cpu_seconds(work: Callable[[], Any]) -> float:
  """Returns seconds of processors that some work takes."""

  def used() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime

  start = used()
  work()
  return used() - start


def _compile(lower: Callable[[], Any]) -> None:
  lower().compile()


def make(unroll: int):
  """Returns a run with layers written out."""
  return runs.make_run(
    class_divisor=64.0,
    devices=jax.devices()[:1],
    batch_size=_BATCH.value,
    model__name=_MODEL.value,
    model__unroll=unroll,
    data__crop_size=_SIZE.value,
    data__resize_size=_SIZE.value,
  )


def main(_: Sequence[str]) -> None:
  """Measures, prints and writes the tables."""
  jax.config.update("jax_enable_compilation_cache", False)
  head = common.header("jax", "flax")
  run = make(1)
  num_domains = len(run.layout.names)
  jax.block_until_ready(jax.jit(lambda x: x + 1)(1))  # starts the backend
  ours = {
    name: cpu_seconds(
      functools.partial(programs.compile_step, run, frozen=name == "frozen")
    )
    for name in ("full", "frozen")
  }
  written_out = make(DEPTH)
  batch = programs.abstract_batch(written_out)
  baseline = []
  for domain in range(min(_DOMAINS.value, num_domains)):
    step = plain.Plain(written_out, domain)
    lower = functools.partial(step.step.lower, jax.eval_shape(step.make), batch)
    baseline.append(cpu_seconds(functools.partial(_compile, lower)))
  total = sum(baseline) / len(baseline) * num_domains
  rows: list[dict[str, Any]] = [
    {
      "model": _MODEL.value,
      "what": "plain, all domains",
      "programs": num_domains,
      "compiled": len(baseline),
      "cpu_s": total,
      "share_of_plain": 1.0,
    },
    {
      "model": _MODEL.value,
      "what": "ours, full",
      "programs": 1,
      "compiled": 1,
      "cpu_s": ours["full"],
      "share_of_plain": ours["full"] / total,
    },
    {
      "model": _MODEL.value,
      "what": "ours, full and frozen",
      "programs": 2,
      "compiled": 2,
      "cpu_s": sum(ours.values()),
      "share_of_plain": sum(ours.values()) / total,
    },
  ]
  print(common.markdown(rows))
  print(f"written: {common.write(f'compile_{_HARDWARE.value}', head, rows)}")


if __name__ == "__main__":
  cli.run(main)
