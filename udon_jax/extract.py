"""Embeds a folder: `python -m udon_jax.extract --workdir=DIR --images=DIR ...`.

Writes `paths` (relative to --images), `embeddings` [n, d] float32 at unit
length, and the paths that are `unreadable`. Killed and started again, the
command goes on; see `extraction.job`.
"""

from collections.abc import Sequence

from absl import flags

from udon_jax import cli, errors, reporting
from udon_jax.extraction import embedding_files

_WORKDIR = flags.DEFINE_string(
  "workdir", None, "Folder of the run, ours or of the official code."
)
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


def main(_: Sequence[str]) -> None:
  """Embeds as the flags say."""
  workdir, images, name = _required()
  output = embedding_files.check(name)
  if _DOMAIN.value is not None and _EMBEDDING.value != "teacher":
    raise errors.UserError(
      f"--domain={_DOMAIN.value} chooses a teacher; add --embedding=teacher or "
      "leave it out"
    )
  reporting.make_folder(output.parent, key="--output")
  from udon_jax import embedder
  from udon_jax.data import folders
  from udon_jax.extraction import job

  found = folders.find(images)
  model = embedder.load(
    workdir,
    step=_STEP.value,
    embedding=_EMBEDDING.value,
    domain=_DOMAIN.value,
    batch_size=_BATCH_SIZE.value,
    num_threads=_NUM_THREADS.value,
  )
  job.extract(model, found, output=output)


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


if __name__ == "__main__":
  cli.run(main)
