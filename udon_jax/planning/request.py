"""From what a person asks for to a plan."""

from collections.abc import Mapping, Sequence
import dataclasses
import re

import ml_collections

from udon_jax import checks, chips, domains, errors, structs
from udon_jax import run as runs
from udon_jax.planning import absent, costs

_MESH = re.compile(r"([1-9]\d*)x([1-9]\d*)")


@dataclasses.dataclass(frozen=True)
class Counts:
  """Sizes of a domain; images are None where not known."""

  classes: int
  images: int | None


def parse_mesh(text: str | None) -> tuple[int, int]:
  """Returns devices along data and fsdp.

  Raises:
    UserError: the text is missing or no mesh.
  """
  match = _MESH.fullmatch(text or "")
  if match is None:
    what = "is missing" if text is None else f"cannot be {text!r}"
    raise errors.UserError(
      f"--mesh {what}; give devices along data and fsdp, for example --mesh=8x4"
    )
  return int(match[1]), int(match[2])


def parse_chip(text: str | None) -> str:
  """Returns the name of a chip.

  Raises:
    UserError: the text is missing or unknown.
  """
  name = (text or "").lower()
  if name not in chips.CHIPS:
    what = "is missing" if text is None else f"is unknown: {text!r}"
    raise errors.UserError(f"--chip {what}; known: {', '.join(chips.CHIPS)}")
  return name


def parse_classes(texts: Sequence[str]) -> dict[str, Counts]:
  """Returns the sizes of domains, by name.

  Args:
    texts: "NAME:CLASSES" or "NAME:CLASSES:IMAGES".

  Raises:
    UserError: one of them is neither.
  """
  found = {}
  for text in texts:
    match = re.fullmatch(r"([^:]+):([1-9]\d*)(?::([1-9]\d*))?", text.strip())
    if match is None:
      raise errors.UserError(
        f"--classes={text} must be NAME:CLASSES or NAME:CLASSES:IMAGES, with "
        "commas between domains"
      )
    images = int(match[3]) if match[3] else None
    found[match[1]] = Counts(int(match[2]), images)
  return found


def sources(
  config: ml_collections.ConfigDict, given: Mapping[str, Counts]
) -> list[structs.ToldSource]:
  """Returns the domains of a config, with what is known of them.

  Args:
    config: its `domains` are meant.
    given: sizes that are said, before those of UnED.

  Raises:
    UserError: a size is not known, or is said of no domain of the config.
  """
  checks.check(config)
  for name in given:
    if name not in config.domains:
      raise errors.UserError(
        f"--classes: {name!r} is not one of config.domains="
        f"{tuple(config.domains)}; leave it out, or name it there"
      )
  return [_source(config, name, given.get(name)) for name in config.domains]


def _source(
  config: ml_collections.ConfigDict, name: str, given: Counts | None
) -> structs.ToldSource:
  """Returns one domain."""
  known = domains.UNED.get(name)
  if given is None and known is None:
    raise errors.UserError(
      f"--classes: nothing is known of {name!r} without its data; give "
      f"--classes={name}:CLASSES"
    )
  images = given.images if given else None
  if images is None and known is not None:
    images = known.num_examples[domains.TRAIN_SPLIT]
  for key in ("num_epochs", "frozen_epochs"):
    if images is None and config[key] is not None:
      raise errors.UserError(
        f"--classes: config.{key}={config[key]} needs the images of {name!r}; "
        f"give --classes={name}:CLASSES:IMAGES"
      )
  classes = given.classes if given else known.num_classes  # type: ignore
  # Where no epoch is counted, the images decide no shape of the program.
  return structs.ToldSource(name, classes, images or classes)


def plan(
  config: ml_collections.ConfigDict,
  given: Sequence[structs.ToldSource],
  *,
  chip: str,
  data: int,
  fsdp: int,
  use_libtpu: bool,
) -> costs.Plan:
  """Plans a run.

  `absent.prepare` must have been called before JAX was used.

  Args:
    config: of the run; its mesh does not count.
    given: its domains.
    chip: a name of `chips.CHIPS`.
    data: devices along this axis of the mesh.
    fsdp: likewise.
    use_libtpu: whether TPUs have their own compiler, where it is installed.

  Raises:
    UserError: the config cannot be, or not on this mesh.
  """
  config = config.copy_and_resolve_references()
  if data * fsdp > config.batch_size:
    raise errors.UserError(
      f"--mesh={data}x{fsdp} has more devices than config.batch_size="
      f"{config.batch_size} has images; use fewer, or a larger batch"
    )
  with config.unlocked():
    config.mesh.data, config.mesh.fsdp = data, fsdp
    config.wandb.project = None  # not asked for, so not missed
  found = absent.make(chip, data * fsdp, use_libtpu=use_libtpu)
  try:
    run = runs.set_up(config, given, devices=found.devices)
  except errors.UserError as error:
    raise _of_mesh(error, data=data, fsdp=fsdp) from error
  return costs.make(
    run,
    chip=chip,
    compiler=found.compiler,
    is_estimate=found.is_estimate,
    num_classes=[source.num_classes for source in given],
  )


def _of_mesh(
  error: errors.UserError, *, data: int, fsdp: int
) -> errors.UserError:
  """Returns an error that names the flag where it is about the mesh."""
  message = str(error)
  if "config.mesh." in message or "devices" in message:
    return errors.UserError(f"--mesh={data}x{fsdp}: {message}")
  return error
