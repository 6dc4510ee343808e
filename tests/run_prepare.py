"""Prepares with small pieces, slowly: a process for tests to kill.

python -m tests.run_prepare DIR STORE IMAGES_PER_PIECE
"""

import sys
import time

from tests import data_files
from udon_jax.data import writer


def main():
  """Prepares a data directory, a few milliseconds an image."""
  root, store, per_piece = sys.argv[1:]
  writer._IMAGES_PER_PIECE = int(per_piece)
  real = writer.read_image

  print("begun", flush=True)

  def read(job, number):
    time.sleep(0.002)
    return real(job, number)

  writer.read_image = read
  data_files.prepare(root, store=store, num_shards=None)


if __name__ == "__main__":
  main()
