"""Which domain each step trains: the state and the policies that read it.

A policy splits a run into windows and plans one at a time. `windows` holds
ours, `official` that of the official code.
"""

from udon_jax.sampling.official import Official
from udon_jax.sampling.state import (
  STRATEGIES,
  Policy,
  SamplerState,
  init,
  initial_weights,
  record,
  shares,
)
from udon_jax.sampling.windows import (
  ROUNDINGS,
  Windows,
  enter_window,
  quotas,
  reweight,
)

__all__ = [
  "ROUNDINGS",
  "STRATEGIES",
  "Official",
  "Policy",
  "SamplerState",
  "Windows",
  "enter_window",
  "init",
  "initial_weights",
  "quotas",
  "record",
  "reweight",
  "shares",
]
