"""Trains the tiny config: `python -m tests.run_fake WORKDIR SECONDS [FLAGS]`.

The flags are those of several processes and some of its own.
"""

import contextlib
import dataclasses
import sys
import time

from absl import flags
import jax

from tests import fakes
from udon_jax import checkpointing, cli, errors, processes, trainer
from udon_jax import run as runs

_JOIN = processes.define_flags()
_DEVICES = flags.DEFINE_integer("devices", None, "Of this process.")
_MESH = flags.DEFINE_list("mesh", ["-1", "1"], "Data and fsdp.")
_SEED = flags.DEFINE_integer("seed", 0, "Of the config.")
_STEPS = flags.DEFINE_integer("steps", 30, "Of the run.")
_COPY = flags.DEFINE_string(
  "copy", None, "Saves the newest checkpoint in another folder, and ends."
)
_SAVE_EVERY = flags.DEFINE_integer("save_every", 3, "Steps.")
_FAIL_AT = flags.DEFINE_integer("fail_at", 0, "Batch that cannot be read.")


@dataclasses.dataclass(frozen=True)
class Slow(fakes.Source):
  """A source that leaves time to be killed; this process's rows of it."""

  pause: float = 0.0

  def open(self, position):
    return slowly(map(own_batch, super().open(position)), self.pause)


def own_rows(x):
  rows = len(x) // jax.process_count()
  return x[jax.process_index() * rows :][:rows]


def own_batch(batch):
  return type(batch)(
    **{f.name: own_rows(getattr(batch, f.name)) for f in fields_of(batch)}
  )


def fields_of(batch):
  return dataclasses.fields(batch)


def slowly(batches, pause):
  for i, batch in enumerate(batches):
    if _FAIL_AT.value and i == _FAIL_AT.value:
      raise errors.UserError("a batch cannot be read")
    time.sleep(pause)
    yield batch


def slow_split(split, pause):
  return dataclasses.replace(
    split, open=lambda: slowly(map(own_batch, split.open()), pause)
  )


def slow_tasks(make, pause):
  """Returns a maker of tasks whose images come slowly."""
  return lambda: [
    dataclasses.replace(
      task,
      query=slow_split(task.query, pause),
      index=slow_split(task.index, pause),
    )
    for task in make()
  ]


def copy_newest(config, workdir, other):
  """Restores a checkpoint, and saves what came."""
  run = runs.set_up(config, fakes.sources(config))
  with contextlib.ExitStack() as stack:
    old, new = (
      stack.enter_context(
        contextlib.closing(
          checkpointing.Checkpointer(x, keep_latest=1, best=runs.BEST_METRIC)
        )
      )
      for x in (workdir, other)
    )
    places = {"layout": run.layout, "mesh": run.mesh}
    step = old.latest_step
    state = old.restore(step, run.abstract_state, **places)
    new.save(step, state, meta=run.meta, metrics=None, **places)


def main(workdir, pause):
  if _DEVICES.value is not None:
    jax.config.update("jax_num_cpu_devices", _DEVICES.value)
  processes.join(_JOIN())
  data, fsdp = map(int, _MESH.value)
  config = fakes.changed(
    num_train_steps=_STEPS.value,
    log_every=4,
    eval_every=10,
    checkpoint_every=_SAVE_EVERY.value,
    eval__embeddings=("student",),
    mesh__data=data,
    mesh__fsdp=fsdp,
    seed=_SEED.value,
  )
  if _COPY.value is not None:
    copy_newest(config, workdir, _COPY.value)
    return
  trainer.train(
    config,
    workdir,
    sources=[Slow(n, config.batch_size, pause=pause) for n in config.domains],
    tasks={k: slow_tasks(v, pause) for k, v in fakes.tasks(config).items()},
  )
  processes.wait_for_all("end")


if __name__ == "__main__":
  workdir, pause = sys.argv[1], float(sys.argv[2])
  del sys.argv[1:3]
  cli.run(lambda _: main(workdir, pause), leave=processes.leave)
