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


def test_this_machine():
  assert chips.peak_flops(jax.devices("cpu")[0].device_kind) is None
