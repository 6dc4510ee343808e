"""Devices that are not there, for a compiler to compile for.

TPUs by a description of their slice, with the compiler that training on them
uses, where libtpu is installed; all others by simulated CPU devices.
"""

from collections.abc import Sequence
import dataclasses
import importlib.metadata
import importlib.util
import logging
import math
import os

import jax
from jax.experimental import topologies

from udon_jax import chips, errors

logger = logging.getLogger(__name__)

INSTALL = "pip install --editable '.[tpu]' --constraint constraints.txt"
CPU_ESTIMATE = "CPU estimate"
_TPU_EXTRA = "libtpu"

# {chip: (name of its slices, largest number of chips, axes of a slice)}. Slices
# of two axes double from 1 (2 x 2 on v2 and v3) to a whole pod; those of three
# grow by cubes of 4 x 4 x 4. Source: cloud.google.com/tpu/docs, the page of
# each version, "configurations".
_SLICES = {
  "v2": ("v2", 256, 2),
  "v3": ("v3", 1024, 2),
  "v4": ("v4", 4096, 3),
  "v5e": ("v5e", 256, 2),
  "v5p": ("v5p", 4096, 3),
  "v6e": ("v6e", 256, 2),
  "v7x": ("tpu7x", 4096, 3),
}
# The cores of a chip as one device, as JAX sees them there.
_MEGACORE = ("v4", "v5p")


@dataclasses.dataclass(frozen=True)
class Absent:
  """Devices to compile for.

  Attributes:
    devices: of all hosts.
    compiler: which compiles for them, in words.
    is_estimate: whether it is not the compiler of these devices, so that bytes
      are those that a CPU would need.
  """

  devices: Sequence[jax.Device]
  compiler: str
  is_estimate: bool


def prepare() -> None:
  """Keeps JAX away from the accelerators of this machine.

  A training may hold them. Must come before anything runs on a device.
  """
  # libtpu takes a lock by which a second process cannot use the TPUs; one that
  # only compiles needs none, and must not disturb one that trains.
  os.environ["ALLOW_MULTIPLE_LIBTPU_LOAD"] = "1"
  os.environ["TPU_SKIP_MDS_QUERY"] = "1"  # no cloud is asked where this runs
  # Of this machine's own TPUs, unused, but missed with noise.
  os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-8")
  os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
  os.environ.setdefault("TPU_STDERR_LOG_LEVEL", "3")
  os.environ.setdefault("TPU_MIN_LOG_LEVEL", "3")
  os.environ["JAX_PLATFORMS"] = "cpu"
  jax.config.update("jax_platforms", "cpu")


def make(chip: str, num_devices: int, *, use_libtpu: bool) -> Absent:
  """Returns devices to compile for.

  Args:
    chip: a name of `chips.CHIPS`.
    num_devices: how many JAX should see.
    use_libtpu: whether TPUs are described to their own compiler, if installed.

  Raises:
    UserError: there are no slices of so many TPUs.
  """
  is_tpu = chips.CHIPS[chip].is_tpu
  topology = _topology(chip, num_devices) if is_tpu else ""
  if is_tpu and use_libtpu:
    if importlib.util.find_spec(_TPU_EXTRA):
      return Absent(
        _describe(chip, topology),
        f"TPU, libtpu {importlib.metadata.version(_TPU_EXTRA)}",
        is_estimate=False,
      )
    logger.info("with libtpu, bytes would be those of a TPU: %s", INSTALL)
  jax.config.update("jax_num_cpu_devices", num_devices)
  return Absent(jax.devices("cpu"), CPU_ESTIMATE, is_estimate=True)


def _describe(chip: str, topology: str) -> Sequence[jax.Device]:
  """Returns the devices of a slice, for the compiler of TPUs alone."""
  name = _SLICES[chip][0]
  options: dict[str, object] = {}
  if chip in _MEGACORE:
    options["chip_config_name"] = "megacore"
  if topology == "1x1":
    options["chips_per_host_bounds"] = [1, 1, 1]
  try:
    return topologies.get_topology_desc(
      platform="tpu", topology_name=f"{name}:{topology}", **options
    ).devices
  except (jax.errors.JaxRuntimeError, RuntimeError) as error:
    first = str(error).splitlines()[0]
    raise errors.UserError(
      f"--chip={chip}: libtpu cannot describe {name}:{topology} ({first}); "
      "leave it out by --nolibtpu"
    ) from error


def _topology(chip: str, num_devices: int) -> str:
  """Returns the shape of the slice that has so many devices.

  Raises:
    UserError: there is none.
  """
  shapes = slices(chip)
  if num_devices not in shapes:
    sizes = ", ".join(str(n) for n in shapes)
    raise errors.UserError(
      f"--mesh: there are no slices of {num_devices} {chip} devices; there are "
      f"those of {sizes}"
    )
  return "x".join(str(n) for n in shapes[num_devices])


def slices(chip: str) -> dict[int, tuple[int, ...]]:
  """Returns {devices: shape in chips} of the slices of a TPU."""
  _, most, num_axes = _SLICES[chip]
  per_chip = chips.CHIPS[chip].devices
  shape = [1, 1] if chip in ("v5e", "v6e") else [2, 2]
  if num_axes == 3:
    shape = [2, 2, 1]
  found = {}
  while math.prod(shape) <= most:
    found[math.prod(shape) * per_chip] = tuple(shape)
    shape = _next(shape)
  return found


def _next(shape: Sequence[int]) -> list[int]:
  """Returns the next larger shape, the last axis the longest."""
  if list(shape) == [1, 1]:
    return [2, 2]
  grown = list(shape)
  smallest = min(grown)
  index = max(i for i, n in enumerate(grown) if n == smallest)
  grown[index] *= 2
  return sorted(grown) if len(grown) == 2 or smallest > 1 else grown
