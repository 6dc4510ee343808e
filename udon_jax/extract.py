"""Embeds a folder: `python -m udon_jax.extract --workdir=DIR --images=DIR ...`.

Writes `paths` (relative to --images), `embeddings` [n, 64] float32 at unit
length, and the paths that are `unreadable`, as .npz.
"""

from collections.abc import Iterator, Sequence
import io
import logging
import os
import time

from absl import flags
from etils import epath
import numpy as np

from udon_jax import cli, errors, reporting

logger = logging.getLogger("udon_jax.extract")  # also when run by `-m`

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run.")
_IMAGES = flags.DEFINE_string("images", None, "Folder, searched recursively.")
_OUTPUT = flags.DEFINE_string("output", None, "File to write, .npz.")
_STEP = flags.DEFINE_integer("step", None, "Checkpoint; the best by default.")
_EMBEDDING = flags.DEFINE_string(
  "embedding", "student", "student, teacher or backbone."
)
_DOMAIN = flags.DEFINE_string("domain", None, "Whose teacher, for teacher.")

_SECONDS_BETWEEN_LINES = 5.0


def main(_: Sequence[str]) -> None:
  """Embeds as the flags say."""
  workdir, folder, output = (
    _required(flag) for flag in (_WORKDIR, _IMAGES, _OUTPUT)
  )
  if output.suffix != ".npz":
    raise errors.UserError(f"--output={output} must end in .npz")
  reporting.make_folder(output.parent, key="--output")
  from udon_jax import embedder
  from udon_jax.data import files

  paths = files.find(folder)
  model = embedder.load(
    workdir,
    step=_STEP.value,
    embedding=_EMBEDDING.value,
    domain=_DOMAIN.value,
  )
  full = (folder / path for path in _watched(paths))
  embeddings, failed = model.embed_readable(full)
  for position in failed:
    logger.warning("unreadable: %s", paths[position])
  unreadable = [paths[position] for position in failed]
  left_out = set(failed)
  _write(
    output,
    paths=[p for i, p in enumerate(paths) if i not in left_out],
    embeddings=embeddings,
    unreadable=unreadable,
  )
  logger.info(
    "%s: %d embeddings of %d dimensions, %d files unreadable",
    output,
    *embeddings.shape,
    len(unreadable),
  )


def _required(flag: flags.FlagHolder) -> epath.Path:
  """Returns the path that a flag must name."""
  if flag.value is None:
    raise errors.UserError(
      f"--{flag.name} is missing; --workdir=RUN --images=FOLDER "
      "--output=FILE.npz are needed"
    )
  return epath.Path(flag.value)


def _watched(paths: Sequence[str]) -> Iterator[str]:
  """Yields paths, and says from time to time how far they are."""
  start = shown = time.monotonic()
  for done, path in enumerate(paths):
    yield path
    now = time.monotonic()
    if now - shown > _SECONDS_BETWEEN_LINES:
      shown = now
      speed = (done + 1) / (now - start)
      logger.info("%d of %d images, %.0f a second", done + 1, len(paths), speed)


def _write(output, *, paths, embeddings, unreadable):
  """Replaces the file at once."""
  buffer = io.BytesIO()
  np.savez(
    buffer,
    paths=np.array(paths, dtype=np.str_),
    embeddings=embeddings.astype(np.float32),
    unreadable=np.array(unreadable, dtype=np.str_),
  )
  temporary = output.with_name(f".{output.name}.{os.getpid()}.tmp")
  temporary.write_bytes(buffer.getvalue())
  temporary.replace(output)


if __name__ == "__main__":
  cli.run(main)
