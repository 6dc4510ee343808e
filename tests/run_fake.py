"""Trains the tiny config: `python -m tests.run_fake WORKDIR SECONDS_A_STEP`."""

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
    for batch in super().open(position):
      time.sleep(self.pause)
      yield batch


def main(workdir, pause):
  config = fakes.changed(
    num_train_steps=30,
    log_every=4,
    eval_every=10,
    checkpoint_every=3,
    eval__embeddings=("student",),
  )
  sources = [Slow(n, config.batch_size, pause=pause) for n in config.domains]
  trainer.train(config, workdir, sources=sources, tasks=fakes.tasks(config))


if __name__ == "__main__":
  workdir, pause = sys.argv[1], float(sys.argv[2])
  sys.argv = sys.argv[:1]
  cli.run(lambda _: main(workdir, pause))
