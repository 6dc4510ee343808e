"""Command line: draws mini-UnED.

  python -m udon_jax.data.synthetic --output=DIR --size=small --seed=0

A size of "smoke" takes seconds, "small" about a minute on two cores.  Run
again with the same arguments, it finishes an interrupted set or does nothing.
"""

from collections.abc import Sequence
import sys
import time

from absl import flags

from udon_jax import cli
from udon_jax.data import synthetic

_OUTPUT = flags.DEFINE_string(
  "output", None, "Directory to write.", required=True
)
_SIZE = flags.DEFINE_string(
  "size", "small", f"How much to draw: {', '.join(synthetic.SIZES)}."
)
_SEED = flags.DEFINE_integer("seed", 0, "Another seed draws other classes.")
_NUM_WORKERS = flags.DEFINE_integer(
  "num_workers", None, "Processes; default: one per core."
)


def main(argv: Sequence[str]) -> None:
  """Draws a set and says what it holds."""
  del argv
  start = time.monotonic()
  summary = synthetic.generate(
    _OUTPUT.value,
    size=_SIZE.value,
    seed=_SEED.value,
    num_workers=_NUM_WORKERS.value,
  )
  sys.stdout.write(_table(summary))
  seconds = time.monotonic() - start
  sys.stdout.write(f"{_OUTPUT.value}: complete, {seconds:.0f} s\n")


def _table(summary):
  """The counts, a line for each domain."""
  lines = []
  for domain, counts in summary["domains"].items():
    cells = ", ".join(f"{name} {count}" for name, count in counts.items())
    lines.append(f"{domain:8s}{cells}\n")
  return "".join(lines)


if __name__ == "__main__":
  cli.run(main)
