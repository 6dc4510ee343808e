"""Makes the records of all splits that are not done.

The command line is `prepare`; what is to be done is found by `jobs`, and one
split is written by `writer`.
"""

from collections.abc import Mapping, Sequence
from concurrent import futures
import contextlib
import logging
import sys
import types

import numpy as np
import tqdm
from tqdm.contrib import logging as tqdm_logging

from udon_jax import disk, errors, own_domains
from udon_jax.data import jobs, layout, replacing, stores, writer

_LOGGER = logging.getLogger("udon_jax.data.prepare")
_MAX_SHOWN = 20
# Looked at to tell how much will be written.
_FILES_LOOKED_AT = 500
_FILES_RESIZED = 16
_RECORD_BYTES = 200  # labels, key and framing


def prepare(
  place: layout.Layout,
  *,
  domain_names: Sequence[str] | None,
  options: jobs.Options,
  own: Mapping[str, own_domains.OwnDomain] = types.MappingProxyType({}),
) -> None:
  """Makes the records of all splits that are not done.

  Args:
    place: where the data lies.
    domain_names: domains to prepare; None for all that have info files.
    options: how.
    own: domains that the user described, by name; their info files are made
      first.

  Raises:
    UserError: a source or info file is wrong, images are missing or damaged,
      or the disk has no room.
  """
  if options.store is not None:
    stores.parse(options.store, exif=True, key="--store")
  todo = list[tuple[layout.Layout, writer.Job]]()
  for where, domain, split in jobs.find_splits(place, domain_names, own):
    job = jobs.make(where, domain, split, options)
    if job is not None:
      todo.append((where, job))
  missing = [
    (job, path)
    for _, job in todo
    for path, file in zip(job.images.paths, job.files, strict=True)
    if file is None
  ]
  folders = ", ".join(sorted({str(job.folder) for job, _ in missing}))
  _fail_if_any(
    [f"{job.name}: {job.folder / path}" for job, path in missing],
    "missing",
    f"add them to {folders} or drop their entries",
  )
  _check_room(place, todo)
  with contextlib.ExitStack() as locks:
    # Others may prepare other domains at the same time.
    for folder in sorted({where.tfds / job.domain for where, job in todo}):
      locks.enter_context(replacing.alone(folder))
    problems = _write_all(todo, options)
  _fail_if_any(
    problems, "unusable", "replace them or drop their entries in info_files"
  )


def _write_all(
  todo: Sequence[tuple[layout.Layout, writer.Job]], options: jobs.Options
) -> list[str]:
  """Writes splits with a bar of their images; returns the problems."""
  problems = []
  with (
    tqdm_logging.logging_redirect_tqdm([logging.getLogger("udon_jax")]),
    tqdm.tqdm(
      total=sum(len(job.files) for _, job in todo),
      unit=" images",
      mininterval=0.5 if sys.stderr.isatty() else 10.0,
      disable=not todo,
    ) as bar,
    futures.ThreadPoolExecutor(options.num_workers) as pool,
  ):
    for where, job in todo:
      # Refreshed at once, a log would get a line for every split.
      bar.set_description(job.name, refresh=sys.stderr.isatty())
      new = writer.write_split(
        where,
        job,
        num_shards=options.num_shards,
        pool=pool,
        num_workers=options.num_workers,
        seed=options.seed,
        on_image=bar.update,
      )
      if not new:
        _LOGGER.info("%s: done, %d images", job.name, len(job.files))
      problems += new
  return problems


def _check_room(
  place: layout.Layout, todo: Sequence[tuple[layout.Layout, writer.Job]]
) -> None:
  """Says how much will be written, and raises if the disk has no room."""
  if not todo:
    return
  num_bytes = 0
  for where, job in todo:
    num_bytes += max(0, _estimate(job) - _num_there(where, job))
  _LOGGER.info(
    "%s images to write, about %.1f GB, into %s",
    f"{sum(len(job.files) for _, job in todo):,}",
    num_bytes / 1e9,
    place.tfds,
  )
  folder = place.tfds
  while not folder.exists() and folder != folder.parent:
    folder = folder.parent
  disk.check_space(folder, num_bytes)


def _num_there(place: layout.Layout, job: writer.Job) -> int:
  """Returns the bytes that a killed preparation left: kept, or making room."""
  folder = replacing.temporary_of(place.records(job.domain, job.split))
  try:
    return sum(file.stat().length for file in folder.iterdir())
  except (
    FileNotFoundError,
    NotADirectoryError,
  ):  # nothing, or another process writes it right now
    return 0


def _estimate(job: writer.Job) -> int:
  """Returns about how many bytes the records of a split take."""
  total = len(job.files)
  rng = np.random.default_rng(0)
  if job.store.format is None:
    some = rng.integers(0, total, min(total, _FILES_LOOKED_AT))
    sizes = [(job.folder / str(job.files[i])).stat().length for i in some]
  else:
    some = rng.integers(0, total, min(total, _FILES_RESIZED))
    found = [writer.read_image(job, int(i)) for i in some]
    sizes = [len(data) for data, problem in found if not problem] or [0]
  return int(total * (np.mean(sizes) + _RECORD_BYTES))


def _fail_if_any(problems: list[str], what: str, cure: str) -> None:
  """Lists problems and raises a `UserError` that counts them."""
  if not problems:
    return
  for problem in problems[:_MAX_SHOWN]:
    _LOGGER.error("%s", problem)
  if len(problems) > _MAX_SHOWN:
    _LOGGER.error("... and %d more", len(problems) - _MAX_SHOWN)
  raise errors.UserError(
    f"{len(problems)} images are {what}, the first is {problems[0]}; {cure},"
    " then run the same command again"
  )
