"""Image files that info files list and that are not there."""

from concurrent import futures
import os

import numpy as np

from udon_jax.data import image_files
from udon_jax.data.verification import findings, infos

_CHUNK = 4096


def check(split: infos.Split, *, num_workers: int) -> list[findings.Group]:
  """Finds the images of a split that have no file in images/.

  Args:
    split: the split.
    num_workers: threads that look for files.
  """
  images = split.place.images
  root = os.fspath(images)
  is_local = "://" not in root

  def look(start):
    return [
      row
      for row in range(start, min(start + _CHUNK, len(split.paths)))
      # The system's own way is ten times as fast, and nearly all are there.
      if not (is_local and os.path.exists(f"{root}/{split.paths[row]}"))
      and image_files.find(images, split.paths[row]) is None
    ]

  with futures.ThreadPoolExecutor(num_workers) as pool:
    try:
      parts = list(pool.map(look, range(0, len(split.paths), _CHUNK)))
    except BaseException:
      pool.shutdown(cancel_futures=True)
      raise
  rows = np.array([row for part in parts for row in part], np.int64)
  return tell(split, rows)


def tell(split: infos.Split, rows: np.ndarray) -> list[findings.Group]:
  """Returns the findings about entries whose image is missing."""
  return findings.of_entries(
    findings.MISSING,
    split,
    rows,
    says=lambda _: f"is not in {split.place.images}",
  )
