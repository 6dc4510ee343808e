"""Embeds a folder: `python -m udon_jax.extract --workdir=DIR --images=DIR ...`.

Writes `paths` (relative to --images), `embeddings` [n, d] float32 at unit
length, and the paths that are `unreadable`. What is done lies in
`<output>.partial` until the output takes its place: killed and started again,
the command goes on, and the output is the same bit for bit.
"""

from collections.abc import Callable, Iterator, Sequence
import contextlib
import itertools
import logging
import pathlib
import sys
import time
from typing import TYPE_CHECKING

from absl import flags
import numpy as np

from udon_jax import (
  cli,
  embedding_files,
  errors,
  partial,
  reporting,
  stopping,
)

if TYPE_CHECKING:
  from udon_jax import embedder
  from udon_jax.data import folders

logger = logging.getLogger("udon_jax.extract")  # also when run by `-m`

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run.")
_IMAGES = flags.DEFINE_string("images", None, "Folder, searched recursively.")
_OUTPUT = flags.DEFINE_string(
  "output", None, "File to write: .npz, or .npy with a .json beside it."
)
_STEP = flags.DEFINE_integer("step", None, "Checkpoint; the best by default.")
_EMBEDDING = flags.DEFINE_string(
  "embedding", "student", "student, teacher or backbone."
)
_DOMAIN = flags.DEFINE_string("domain", None, "Whose teacher, for teacher.")
_BATCH_SIZE = flags.DEFINE_integer(
  "batch_size",
  None,
  "Images embedded at a time; as in the run's evaluation by default.",
  lower_bound=1,
)
_NUM_THREADS = flags.DEFINE_integer(
  "num_threads",
  None,
  "Threads that read images; as in the run by default.",
  lower_bound=1,
)

_SECONDS_BETWEEN_SAVES = 2.0
_SECONDS_BETWEEN_LINES = 10.0


def main(_: Sequence[str]) -> None:
  """Embeds as the flags say."""
  workdir, folder, name = _required()
  output = embedding_files.check(name)
  if _DOMAIN.value is not None and _EMBEDDING.value != "teacher":
    raise errors.UserError(
      f"--domain={_DOMAIN.value} chooses a teacher; add --embedding=teacher or "
      "leave it out"
    )
  reporting.make_folder(output.parent, key="--output")
  from udon_jax import embedder
  from udon_jax.data import folders

  found = folders.find(folder)
  model = embedder.load(
    workdir,
    step=_STEP.value,
    embedding=_EMBEDDING.value,
    domain=_DOMAIN.value,
    batch_size=_BATCH_SIZE.value,
    num_threads=_NUM_THREADS.value,
  )
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
    _embed_rest(model, folder, found, done)
    if done.num_rows:
      content = _content(found.paths, done, about)
      embedding_files.write(output, content, folder=done.folder)
    done.remove()
    if not done.num_rows:
      raise errors.UserError(
        f"--images={folder}: none of {done.done} images can be read, for the "
        "reasons above; replace them"
      )
  logger.info(
    "%s: %d embeddings of %d dimensions, %d files unreadable",
    output,
    done.num_rows,
    model.dim,
    done.num_unreadable,
  )


def _required() -> list[str]:
  """Returns the paths that the flags must name."""
  given = []
  for flag in (_WORKDIR, _IMAGES, _OUTPUT):
    if flag.value is None:
      raise errors.UserError(
        f"--{flag.name} is missing; --workdir=RUN --images=FOLDER "
        "--output=FILE.npz are needed"
      )
    given.append(flag.value)
  return given


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
  model: "embedder.Embedder",
  folder: str,
  found: "folders.Found",
  done: partial.Partial,
) -> None:
  """Embeds what is not done yet, and says how fast."""
  from udon_jax.data import files

  total, first = len(found.paths), done.done
  if first:
    logger.info("going on after %d of %d images", first, total)
  batches = files.read_folder(
    folder,
    found.paths,
    start=first,
    crop_size=model.crop_size,
    batch_size=model.batch_size,
    num_threads=model.num_threads,
  )
  start = saved = time.monotonic()
  with _progress(total, first) as show, stopping.noted() as stop:
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
  import tqdm
  from tqdm.contrib import logging as tqdm_logging

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
  paths: Sequence[str], done: partial.Partial, about: dict
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


if __name__ == "__main__":
  cli.run(main)
