"""What a chip can do at most, by the name under which JAX reports it."""

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
