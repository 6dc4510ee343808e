"""What travels between devices, and what each holds, by devices and classes.

  python -m benchmarks.bench_scaling

The full step is compiled for 1 to 8 simulated CPU devices on several meshes,
with UnED's classes divided, and with sixteen times as many. Bytes are those of
the CPU's compiler: of collectives, whole arrays, all their rounds together;
of memory, on one device. Needs no TensorFlow.
"""

from collections.abc import Sequence

from absl import flags
import jax

from benchmarks import common, runs
from udon_jax import cli
from udon_jax.planning import programs

_HARDWARE = flags.DEFINE_string("hardware", "cpu2", "Named in the result file.")
_MODEL = flags.DEFINE_string("model", "vit_ti16", "Name of the backbone.")
_BATCH = flags.DEFINE_integer("batch_size", 64, "Images.", lower_bound=1)
_MESHES = flags.DEFINE_list(
  "meshes", ["1x1", "2x1", "4x1", "8x1", "2x4", "1x8"], "Data x fsdp."
)
_DIVISORS = flags.DEFINE_list("class_divisors", ["16", "1"], "Of the classes.")


def measure(mesh: str, divisor: float):
  """Returns a row of a mesh and a number of classes."""
  data, fsdp = map(int, mesh.split("x"))
  run = runs.make_run(
    class_divisor=divisor,
    devices=jax.devices()[: data * fsdp],
    model__name=_MODEL.value,
    batch_size=_BATCH.value,
    eval__batch_size=_BATCH.value,
    mesh__data=data,
    mesh__fsdp=fsdp,
  )
  program = programs.compile_step(run, frozen=False)
  found = program.exchanges or []
  return {
    "mesh": mesh,
    "classes": sum(run.layout.num_classes),
    "collectives": sum(x.count for x in found),
    "largest_mb": max((x.bytes for x in found), default=0) / 1e6,
    "collective_mb": sum(x.bytes * x.count for x in found) / 1e6,
    "state_and_batch_mb": program.memory.arguments / 1e6,
    "temporary_mb": program.memory.temporaries / 1e6,
  }


def main(_: Sequence[str]) -> None:
  """Measures, prints and writes the table."""
  jax.config.update("jax_num_cpu_devices", 8)
  head = common.header("jax", "flax")
  rows = [
    measure(mesh, float(divisor))
    for mesh in _MESHES.value
    for divisor in _DIVISORS.value
  ]
  print(common.markdown(rows))
  print(f"written: {common.write(f'scaling_{_HARDWARE.value}', head, rows)}")


if __name__ == "__main__":
  cli.run(main)
