"""Writes a run in another form, whole or not at all."""

from collections.abc import Callable, Iterator
import contextlib
import json
import logging
import os
import pathlib
import shutil

import jax
import numpy as np

from udon_jax import (
  build,
  disk,
  errors,
  official_export,
  reporting,
  restoring,
  trained,
)
from udon_jax.pretrained import augreg, flax_msgpack, official

logger = logging.getLogger("udon_jax.convert")


def to_augreg(
  workdir: str, output: pathlib.Path, *, step: int | None, overwrite: bool
) -> None:
  """Writes the backbone of a run as an AugReg file.

  Args:
    workdir: folder of the run, or of a run of the official code.
    output: the file.
    step: of the checkpoint; the best one if None.
    overwrite: whether a file that is there is replaced.

  Raises:
    UserError: the run cannot be read, AugReg has no such model, or the file
      cannot be written.
  """
  if output.suffix != ".npz":
    raise errors.UserError(
      f"--output={output}: an AugReg file ends in .npz; name one"
    )
  _check_free(output, pathlib.Path.is_file, overwrite=overwrite)
  found = trained.load(workdir, step=step, batch_size=jax.device_count())
  arrays = augreg.from_backbone(
    jax.device_get(found.params["backbone"]),
    name=found.config.model.name,
    arch=build.arch(found.config),
    key=f"--workdir={workdir}",
  )
  reporting.make_folder(output.parent, key="--output")
  num_bytes = sum(x.nbytes for x in arrays.values())
  with _replacing(output, num_bytes) as temporary, temporary.open("wb") as file:
    np.savez(file, allow_pickle=False, **arrays)
    reporting.sync(file)
  logger.info(
    "%s: the backbone of step %d, %d arrays", output, found.step, len(arrays)
  )


def to_official(
  workdir: str, output: pathlib.Path, *, step: int | None, overwrite: bool
) -> None:
  """Writes a run as a workdir of the official code.

  Args:
    workdir: folder of the run.
    output: the folder, which holds nothing else.
    step: of the checkpoint; the best one if None.
    overwrite: whether such a folder that is there is replaced.

  Raises:
    UserError: the run cannot be read, the official code has no such model, or
      the folder cannot be written.
  """
  if official.is_official(workdir):
    raise errors.UserError(
      f"--workdir={workdir} is of the official code already; copy the folder"
    )
  _check_free(output, _is_ours_to_replace, overwrite=overwrite)
  saved = restoring.restore(workdir, step=step)
  config = official_export.to_config(saved, key=f"--workdir={workdir}")
  tree = official_export.to_tree(saved)
  num_bytes = sum(x.nbytes for x in jax.tree.leaves(saved.state))
  reporting.make_folder(output.parent, key="--output")
  with _replacing(output, num_bytes) as temporary:
    temporary.mkdir()
    with (temporary / f"checkpoint_{saved.step}").open("wb") as file:
      flax_msgpack.write(file, tree)
      reporting.sync(file)
    with (temporary / official.CONFIG_FILE).open("w") as text:
      json.dump(config, text, indent=1)
      reporting.sync(text)
  logger.info(
    "%s: checkpoint_%d (%.1f MB) and %s",
    output,
    saved.step,
    num_bytes / 1e6,
    official.CONFIG_FILE,
  )
  _warn(saved)


def _warn(saved: restoring.Saved) -> None:
  """Tells what the official code would do otherwise with the run."""
  optimizer = saved.config.optimizer
  if optimizer.schedule != "constant" or optimizer.warmup_steps:
    logger.warning(
      "the official code holds the backbone's rate constant: training on there "
      "would not follow config.optimizer.schedule=%s, warmup_steps=%d",
      optimizer.schedule,
      optimizer.warmup_steps,
    )
  size = saved.config.data.crop_size
  if size != official_export.IMAGE_SIZE:
    logger.warning(
      "the official code crops to %d pixels and this model was trained on %d: "
      "change IMAGE_SIZE in its datasets.py",
      official_export.IMAGE_SIZE,
      size,
    )
  if saved.config.data.round_pixels:
    logger.warning(
      "pixels were rounded to uint8 here (config.data.round_pixels), and are "
      "float32 there: results may differ by a few tenths of a percent"
    )


def _is_ours_to_replace(path: pathlib.Path) -> bool:
  """Whether a folder holds nothing but what is written here."""
  return path.is_dir() and all(
    entry.is_file()
    and (
      entry.name == official.CONFIG_FILE or entry.name.startswith("checkpoint_")
    )
    for entry in path.iterdir()
  )


def _check_free(
  output: pathlib.Path,
  replaceable: Callable[[pathlib.Path], bool],
  *,
  overwrite: bool,
) -> None:
  """Raises a UserError if the output would take the place of something."""
  if not output.exists() and not output.is_symlink():
    return
  if not overwrite:
    raise errors.UserError(
      f"--output={output} exists; name another path, or replace it by "
      "--overwrite"
    )
  if output.is_symlink() or not replaceable(output):
    raise errors.UserError(
      f"--output={output} holds other things than are written there, which "
      "--overwrite does not replace; name another path"
    )


@contextlib.contextmanager
def _replacing(output: pathlib.Path, num_bytes: int) -> Iterator[pathlib.Path]:
  """Yields a path to write to, which takes the output's place at the end.

  Args:
    output: the path, in a folder that is there.
    num_bytes: that will be written.
  """
  disk.check_space(output.parent, num_bytes)
  temporary = output.with_name(f".{output.name}.{os.getpid()}.tmp")
  old = output.with_name(f".{output.name}.{os.getpid()}.old")
  try:
    with disk.full_disk_told(output.parent):
      yield temporary
    if not output.is_dir():
      temporary.replace(output)
      return
    output.rename(old)  # a folder cannot be replaced at once
    try:
      temporary.rename(output)
    except BaseException:
      old.rename(output)
      raise
    shutil.rmtree(old)
  finally:
    if temporary.is_dir():
      shutil.rmtree(temporary)
    temporary.unlink(missing_ok=True)
