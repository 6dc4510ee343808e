"""A folder of images becomes a file of embeddings, however many there are.

What is done lies in `<output>.partial` until the output takes its place: killed
and started again, an extraction goes on, and the output is the same bit for bit
(on the same devices, with the same batch size).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
import contextlib
import itertools
import logging
import pathlib
import sys
import time
from typing import Any

import numpy as np
import tqdm
from tqdm.contrib import logging as tqdm_logging

from udon_jax import (
  embedder,
  errors,
  reporting,
  stopping,
)
from udon_jax.data import files, folders
from udon_jax.extraction import embedding_files, partial

logger = logging.getLogger("udon_jax.extract")

_SECONDS_BETWEEN_SAVES = 2.0
_SECONDS_BETWEEN_LINES = 10.0


def extract(
  model: embedder.Embedder, found: folders.Found, *, output: pathlib.Path
) -> None:
  """Embeds the images of a folder and writes the file.

  Args:
    model: which embedding of which checkpoint.
    found: the images.
    output: as `embedding_files.check` allows; its folder is there.

  Raises:
    UserError: the output cannot be written, another process is at it, what is
      done there belongs to other images or another model, or no image can be
      read.
    StoppedError: SIGTERM or an interruption from the keyboard.
  """
  about = {
    "step": model.step,
    "embedding": model.embedding,
    "domain": model.domain,
    "dim": model.dim,
  }
  job = {
    "checkpoint": model.fingerprint,
    "images": f"{len(found.paths)} files, {found.fingerprint}",
    **about,
  }
  with (
    _explained(output),
    partial.opened(output, job=job, dim=model.dim) as done,
  ):
    _embed_rest(model, found, done)
    if done.num_rows:
      content = _content(found.paths, done, about)
      embedding_files.write(output, content, folder=done.folder)
    done.remove()
  if not done.num_rows:
    raise errors.UserError(
      f"--images={found.folder}: none of {done.done} images can be read, for "
      "the reasons above; replace them"
    )
  logger.info(
    "%s: %d embeddings of %d dimensions, %d files unreadable",
    output,
    done.num_rows,
    model.dim,
    done.num_unreadable,
  )


@contextlib.contextmanager
def _explained(output: pathlib.Path) -> Iterator[None]:
  """Turns a full disk and an interruption into lines for people.

  Images that cannot be read raise nothing: what fails here is writing.
  """
  try:
    yield
  except OSError as error:
    raise errors.UserError(
      f"--output={output} cannot be written ({error}); see to it (make room?), "
      "and the same command goes on where it was"
    ) from error
  except KeyboardInterrupt:
    raise errors.StoppedError(
      "interrupted; the same command goes on where it was"
    ) from None


def _embed_rest(
  model: embedder.Embedder, found: folders.Found, done: partial.Partial
) -> None:
  """Embeds what is not done yet, and says how fast."""
  total, first = len(found.paths), done.done
  if first:
    logger.info("going on after %d of %d images", first, total)
  batches = files.read_folder(
    found.folder,
    found.paths,
    start=first,
    crop_size=model.crop_size,
    round_pixels=model.round_pixels,
    exif=model.exif,
    batch_size=model.batch_size,
    num_threads=model.num_threads,
  )
  start = saved = time.monotonic()
  with (
    _progress(total, first) as show,
    stopping.noted() as stop,
    stop.deferred(),
  ):
    for rows, batch in model.stream(batches):
      for failure in batch.failures.values():
        logger.warning("unreadable: %s (%s)", failure.name, failure.reason)
      bad = list(batch.failures)
      positions = [done.done + row for row in bad]
      done.append(np.delete(rows, bad, axis=0), positions)
      show(batch.num_images)
      now = time.monotonic()
      if stop.requested or now - saved > _SECONDS_BETWEEN_SAVES:
        done.save()
        saved = now
      if stop.requested:
        raise errors.StoppedError(
          f"stopped and saved after {done.done} of {total} images; the same "
          "command goes on"
        )
  done.save()
  seconds = max(time.monotonic() - start, 1e-9)
  logger.info(
    "%d images in %s, %.1f a second",
    total - first,
    reporting.format_duration(seconds),
    (total - first) / seconds,
  )


@contextlib.contextmanager
def _progress(total: int, first: int) -> Iterator[Callable[[int], None]]:
  """Yields what to tell of images done: a bar on a terminal, else lines."""
  if sys.stderr.isatty():
    with (
      tqdm_logging.logging_redirect_tqdm([logging.getLogger("udon_jax")]),
      tqdm.tqdm(total=total, initial=first, unit=" images") as bar,
    ):
      yield bar.update
    return
  count, start = 0, time.monotonic()
  shown = start

  def show(more):
    nonlocal count, shown
    count += more
    now = time.monotonic()
    if now - shown > _SECONDS_BETWEEN_LINES:
      shown, speed = now, count / (now - start)
      logger.info("%d of %d images, %.1f a second", first + count, total, speed)

  yield show


def _content(
  paths: Sequence[str], done: partial.Partial, about: Mapping[str, Any]
) -> embedding_files.Content:
  """Returns what the output says of the images."""
  is_unreadable = np.zeros(len(paths), bool)
  is_unreadable[done.unreadable()] = True
  return embedding_files.Content(
    paths=lambda: itertools.compress(paths, ~is_unreadable),
    unreadable=lambda: itertools.compress(paths, is_unreadable),
    embeddings=done.embeddings_file,
    shape=(done.num_rows, about["dim"]),
    about=about,
  )
