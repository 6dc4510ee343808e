"""Writes a run in another form: `python -m udon_jax.convert --workdir=DIR ...`.

`--to=augreg --output=FILE.npz` writes the backbone under AugReg's names;
`--to=official --output=DIR` writes a workdir of the official code, with
weights, prototypes, moments and config. What is written appears whole or not at
all.
"""

from collections.abc import Sequence
import os
import pathlib

from absl import flags

from udon_jax import cli, conversion, errors, stopping

_WORKDIR = flags.DEFINE_string(
  "workdir", None, "Folder of the run, or of a run of the official code."
)
_TO = flags.DEFINE_enum("to", None, ["augreg", "official"], "Form to write.")
_OUTPUT = flags.DEFINE_string(
  "output", None, "What to write: FILE.npz for augreg, a folder for official."
)
_STEP = flags.DEFINE_integer("step", None, "Checkpoint; the best by default.")
_OVERWRITE = flags.DEFINE_bool(
  "overwrite", False, "Replaces what was written there before."
)


def main(_: Sequence[str]) -> None:
  """Converts as the flags say."""
  for flag in (_WORKDIR, _TO, _OUTPUT):
    if flag.value is None:
      raise errors.UserError(
        f"--{flag.name} is missing; --workdir=RUN --to=augreg|official "
        "--output=PATH are needed"
      )
  write = {"augreg": conversion.to_augreg, "official": conversion.to_official}
  with stopping.noted("stopped; nothing was written"):
    write[str(_TO.value)](
      os.path.expanduser(str(_WORKDIR.value)),
      pathlib.Path(str(_OUTPUT.value)).expanduser().absolute(),
      step=_STEP.value,
      overwrite=_OVERWRITE.value,
    )


if __name__ == "__main__":
  cli.run(main)
