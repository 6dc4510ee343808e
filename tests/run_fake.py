"""Trains the tiny config: `python -m tests.run_fake WORKDIR SECONDS`."""

import dataclasses
import sys
import time

from tests import fakes
from udon_jax import cli, trainer


@dataclasses.dataclass(frozen=True)
class Slow(fakes.Source):
  """A source that leaves time to be killed."""

  pause: float = 0.0

  def open(self, position):
    return slowly(super().open(position), self.pause)


def slowly(batches, pause):
  for batch in batches:
    time.sleep(pause)
    yield batch


def slow_split(split, pause):
  return dataclasses.replace(split, open=lambda: slowly(split.open(), pause))


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


def main(workdir, pause):
  config = fakes.changed(
    num_train_steps=30,
    log_every=4,
    eval_every=10,
    checkpoint_every=3,
    eval__embeddings=("student",),
  )
  trainer.train(
    config,
    workdir,
    sources=[Slow(n, config.batch_size, pause=pause) for n in config.domains],
    tasks={k: slow_tasks(v, pause) for k, v in fakes.tasks(config).items()},
  )


if __name__ == "__main__":
  workdir, pause = sys.argv[1], float(sys.argv[2])
  sys.argv = sys.argv[:1]
  cli.run(lambda _: main(workdir, pause))
