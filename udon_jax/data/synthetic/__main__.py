"""Command line: draws mini-UnED.

python -m udon_jax.data.synthetic --output=DIR --size=small --seed=0
"""

import argparse
import sys
import time

from absl import logging

from udon_jax import errors
from udon_jax.data import synthetic


def main(argv: list[str] | None = None) -> int:
  """Draws a set; returns the exit code."""
  parser = argparse.ArgumentParser(
    prog="python -m udon_jax.data.synthetic",
    description="Draws mini-UnED, a small synthetic stand-in for UnED.",
  )
  parser.add_argument("--output", required=True, help="directory to write")
  parser.add_argument(
    "--size", default="small", help=f"one of {', '.join(synthetic.SIZES)}"
  )
  parser.add_argument("--seed", type=int, default=0)
  parser.add_argument(
    "--num_workers", type=int, help="processes; default: one per core"
  )
  args = parser.parse_args(argv)
  logging.set_verbosity(logging.INFO)
  start = time.monotonic()
  try:
    summary = synthetic.generate(
      args.output,
      size=args.size,
      seed=args.seed,
      num_workers=args.num_workers,
    )
  except errors.UserError as e:
    sys.stderr.write(f"error: {e}\n")
    return 2
  sys.stdout.write(_table(summary))
  seconds = time.monotonic() - start
  sys.stdout.write(f"{args.output}: complete, {seconds:.0f} s\n")
  return 0


def _table(summary):
  """The counts, a line for each domain."""
  lines = []
  for domain, counts in summary["domains"].items():
    cells = ", ".join(f"{name} {count}" for name, count in counts.items())
    lines.append(f"{domain:8s}{cells}\n")
  return "".join(lines)


if __name__ == "__main__":
  sys.exit(main())
