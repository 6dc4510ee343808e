"""Peaks of chips, by the names that JAX reports."""

import jax
import pytest

from udon_jax import chips


@pytest.mark.parametrize(
  "kind, teraflops",
  [
    ("TPU v2", 23),
    ("TPU v3", 61.5),
    ("TPU v4", 275),
    ("TPU v5 lite", 197),
    ("TPU v5e", 197),
    ("TPU v5", 459),
    ("TPU v5p", 459),
    ("TPU v6 lite", 918),
    ("TPU v6e", 918),
    ("NVIDIA H100 80GB HBM3", 989.4),
    ("NVIDIA H100 PCIe", 756),
    ("NVIDIA H100 NVL", 835.5),
    ("NVIDIA H200", 989.4),
    ("NVIDIA GH200 480GB", 989.4),
    ("NVIDIA A100-SXM4-40GB", 312),
    ("NVIDIA A100 80GB PCIe", 312),
    ("NVIDIA A10", 125),
    ("NVIDIA L40S", 362),
    ("NVIDIA L40", 181),
    ("NVIDIA L4", 121),
    ("Tesla T4", 65),
    ("Tesla V100-SXM2-16GB", 125),
    ("Tesla V100-PCIE-32GB", 112),
  ],
)
def test_known(kind, teraflops):
  assert chips.peak_flops(kind) == teraflops * 1e12


@pytest.mark.parametrize(
  "kind",
  [
    "cpu",
    "",
    "TPU v9",
    "NVIDIA A10G",
    "NVIDIA GeForce RTX 4090",
    "NVIDIA A100-SXM4-40GB MIG 1g.5gb",
  ],
)
def test_unknown(kind):
  assert chips.peak_flops(kind) is None


@pytest.mark.parametrize("name", chips.CHIPS)
def test_chips_of_plans_are_whole(name):
  chip = chips.CHIPS[name]
  assert chip.peak_flops == chips.peak_flops(chip.kind)
  assert chip.is_tpu == name.startswith("v") ^ name.startswith("v100")
  # None reads its memory in less than 1 ms or more than 100.
  assert 1e-3 < chip.memory / chip.memory_bandwidth < 0.1
  assert chip.link_bandwidth < chip.memory_bandwidth


def test_numbers_of_plans_are_those_of_one_device():
  v5e, v3, h100 = (chips.CHIPS[name] for name in ("v5e", "v3", "h100"))
  assert (v5e.memory, v5e.devices) == (15.75 * 2**30, 1)
  assert (v5e.memory_bandwidth, v5e.link_bandwidth) == (819e9, 200e9)
  assert (v3.devices, v3.peak_flops) == (2, 61.5e12)
  assert v3.memory_bandwidth == 450e9
  assert h100.memory == 0.75 * 81559 * 2**20


def test_this_machine():
  assert chips.peak_flops(jax.devices("cpu")[0].device_kind) is None
