"""How long a save holds up training, and a restore its start.

  python -m benchmarks.bench_checkpoint

The state of ViT-B/16 with the class prototypes and all AdamW moments of UnED,
2.2 GB, is saved in turn as we do (Orbax, in the background) and by the
baseline: `flax.serialization` to msgpack and one file, during which the loop
stands still, as in the official code. Needs no TensorFlow, 14 GB of memory and
10 GB of disk.
"""

from collections.abc import Sequence
import pathlib
import shutil
import statistics
import tempfile
import time

from absl import flags
from flax import serialization
import jax
import jax.numpy as jnp

from benchmarks import common, runs
from udon_jax import checkpointing, cli
from udon_jax import run as udon_run

_HARDWARE = flags.DEFINE_string("hardware", "cpu2", "Named in the result file.")
_REPEATS = flags.DEFINE_integer("repeats", 3, "Rounds.", lower_bound=1)
_MODEL = flags.DEFINE_string("model", "vit_b16", "Name of the backbone.")
_FOLDER = flags.DEFINE_string("folder", None, "Where to save; a temporary one.")


def make_state(run: udon_run.Run):
  """Returns a state whose every float is another, as after many steps."""

  def draw(tree):
    leaves, structure = jax.tree.flatten(tree)
    keys = jax.random.split(jax.random.key(0), len(leaves))
    drawn = [
      jax.random.normal(key, x.shape) * 1e-2 if x.dtype == jnp.float32 else x
      for key, x in zip(keys, leaves, strict=True)
    ]
    return jax.tree.unflatten(structure, drawn)

  zeros = jax.tree.map(
    lambda x: jnp.zeros(x.shape, x.dtype), run.abstract_state
  )
  return jax.jit(draw, donate_argnums=0)(zeros)


def save_msgpack(state, path: pathlib.Path) -> None:
  """Saves as the baseline does."""
  path.write_bytes(serialization.to_bytes(jax.device_get(state)))


def measure(run: udon_run.Run, state, folder: pathlib.Path, repeats: int):
  """Returns seconds of every round by what they are of."""
  seconds: dict[str, list[float]] = {}

  def timed(name, function):
    start = time.perf_counter()
    result = function()
    seconds.setdefault(name, []).append(time.perf_counter() - start)
    return result

  checkpointer = checkpointing.Checkpointer(
    folder, keep_latest=1, best=udon_run.BEST_METRIC
  )
  layout, mesh = run.layout, run.mesh
  for step in range(1, repeats + 2):
    if step == 2:  # one round for what is compiled once
      seconds.clear()
    start = time.perf_counter()
    timed(
      "save_blocks",
      lambda step=step: checkpointer.save(
        step, state, layout=layout, mesh=mesh, meta=run.meta, metrics=None
      ),
    )
    checkpointer.wait()
    seconds.setdefault("save_is_on_disk", []).append(
      time.perf_counter() - start
    )
    timed(
      "msgpack_blocks", lambda: save_msgpack(state, folder / "baseline.msgpack")
    )
    back = timed(
      "restore",
      lambda step=step: jax.block_until_ready(
        checkpointer.restore(step, run.abstract_state, layout=layout, mesh=mesh)
      ),
    )
    del back
  checkpointer.close()
  return seconds


def main(_: Sequence[str]) -> None:
  """Measures, prints and writes the report."""
  run = runs.make_run(model__name=_MODEL.value)
  state = jax.block_until_ready(make_state(run))
  size = sum(x.nbytes for x in jax.tree.leaves(state))
  folder = pathlib.Path(_FOLDER.value or tempfile.mkdtemp())
  try:
    seconds = measure(run, state, folder, _REPEATS.value)
  finally:
    if _FOLDER.value is None:
      shutil.rmtree(folder)
  medians = {name: statistics.median(s) for name, s in seconds.items()}
  rows = [
    {"model": _MODEL.value, "state_gb": size / 1e9, "what": name, "seconds": s}
    for name, s in medians.items()
  ]
  ratio = medians["save_blocks"] / medians["msgpack_blocks"]
  rows.append({"ratio": "save_blocks / msgpack_blocks", "value": ratio})
  head = common.header("jax", "flax", "orbax-checkpoint")
  path = common.write(f"checkpoint_{_HARDWARE.value}", head, rows)
  print(common.markdown(rows))
  print(f"written to {path}")


if __name__ == "__main__":
  cli.run(main)
