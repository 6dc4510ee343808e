"""What a chip can do at most, by the name under which JAX reports it."""

import dataclasses
import re

# (pattern of jax.Device.device_kind, operations a second of one JAX device);
# the first match counts. Dense bfloat16 products as the vendors state them;
# float16 where a chip has no bfloat16. Sources: cloud.google.com/tpu/docs,
# "system architecture", divided by the devices that JAX sees on a chip (two on
# v2, v3 and 7x); NVIDIA's data sheets, which often show twice as much, for
# sparse matrices.
_PEAK_FLOPS = (
  (r"^TPU v2$", 46e12 / 2),
  (r"^TPU v3$", 123e12 / 2),
  (r"^TPU v4$", 275e12),
  (r"^TPU v4 lite$", 137e12),
  (r"^TPU v5( lite|e|litepod)$", 197e12),
  (r"^TPU v5p?$", 459e12),
  (r"^TPU v6( lite|e)$", 918e12),
  (r"^TPU7x$", 2307e12 / 2),
  (r"\bB200\b", 2250e12),
  (r"\bH200 NVL\b", 835.5e12),
  (r"\bG?H200\b", 989.4e12),
  (r"\bH100 PCIe\b", 756e12),
  (r"\bH100 NVL\b", 835.5e12),
  (r"\bH100\b", 989.4e12),
  (r"\bA100\b", 312e12),
  (r"\bA40\b", 149.7e12),
  (r"\bA30\b", 165e12),
  (r"\bA10\b", 125e12),
  (r"\bL40S\b", 362e12),
  (r"\bL40\b", 181e12),
  (r"\bL4\b", 121e12),
  (r"\bT4\b", 65e12),
  (r"\bV100S\b", 130e12),
  (r"\bV100-PCIE\b", 112e12),
  (r"\bV100\b", 125e12),
)
_MIB, _GIB = 2**20, 2**30
# JAX takes so much of a GPU's memory and no more, unless
# XLA_PYTHON_CLIENT_MEM_FRACTION says otherwise.
GPU_SHARE = 0.75


def peak_flops(device_kind: str) -> float | None:
  """Returns the peak of one device, or None where it is not known.

  Args:
    device_kind: as a `jax.Device` names it. A part of a GPU (MIG) is not known.
  """
  if "MIG" in device_kind:
    return None
  return next(
    (peak for kind, peak in _PEAK_FLOPS if re.search(kind, device_kind)), None
  )


@dataclasses.dataclass(frozen=True)
class Chip:
  """What one JAX device of a kind of chip has.

  Attributes:
    kind: as a `jax.Device` names it.
    devices: that JAX sees on a chip.
    memory: bytes that a program can use.
    memory_bandwidth: bytes a second from and to it.
    link_bandwidth: bytes a second that it can send to its neighbours, over all
      links.
  """

  kind: str
  devices: int
  memory: float
  memory_bandwidth: float
  link_bandwidth: float

  @property
  def is_tpu(self) -> bool:
    """Whether it is a TPU."""
    return self.kind.startswith("TPU")

  @property
  def peak_flops(self) -> float:
    """Operations a second of one device."""
    peak = peak_flops(self.kind)
    assert peak is not None
    return peak


def _tpu(kind, gib, gigabytes, gigabits, *, devices=1):
  """Describes a TPU by what one chip has; `gib` alone is a device's."""
  return Chip(
    kind,
    devices,
    gib * _GIB,
    gigabytes * 1e9 / devices,
    gigabits * 1e9 / 8 / devices,
  )


def _gpu(kind, mib, gigabytes, link_gigabytes):
  return Chip(
    kind, 1, GPU_SHARE * mib * _MIB, gigabytes * 1e9, link_gigabytes * 1e9
  )


# By the name that `--chip` takes.
# TPUs: the memory is what the compiler of libtpu 0.0.41 allows (it says so
# where a program needs more; a part is reserved). Bandwidths are those of
# cloud.google.com/tpu/docs, "system architecture"; links of v2 and v3 those of
# "A domain-specific supercomputer for training deep neural networks" (CACM
# 63.7, 2020); all in one direction.
# GPUs: the memory that nvidia-smi shows as total; bandwidths of NVIDIA's data
# sheets, for links in one direction: NVLink, else PCIe.
CHIPS = {
  "v2": _tpu("TPU v2", 7.48, 700, 4 * 496, devices=2),
  "v3": _tpu("TPU v3", 15.48, 900, 4 * 656, devices=2),
  "v4": _tpu("TPU v4", 30.75, 1228, 2400),
  "v5e": _tpu("TPU v5 lite", 15.75, 819, 1600),
  "v5p": _tpu("TPU v5", 95.74, 2765, 4800),
  "v6e": _tpu("TPU v6 lite", 31.25, 1640, 3584),
  "v7x": _tpu("TPU7x", 94.75, 7380, 4800, devices=2),
  "v100": _gpu("Tesla V100-SXM2-16GB", 16160, 900, 150),
  "v100-32gb": _gpu("Tesla V100-SXM2-32GB", 32510, 900, 150),
  "t4": _gpu("Tesla T4", 15360, 300, 16),
  "a10": _gpu("NVIDIA A10", 23028, 600, 32),
  "a100": _gpu("NVIDIA A100-SXM4-40GB", 40960, 1555, 300),
  "a100-80gb": _gpu("NVIDIA A100-SXM4-80GB", 81920, 2039, 300),
  "l4": _gpu("NVIDIA L4", 23034, 300, 32),
  "l40s": _gpu("NVIDIA L40S", 46068, 864, 32),
  "h100": _gpu("NVIDIA H100 80GB HBM3", 81559, 3350, 450),
  "h200": _gpu("NVIDIA H200", 143771, 4800, 450),
  "b200": _gpu("NVIDIA B200", 183359, 8000, 900),
}
