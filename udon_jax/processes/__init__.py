"""The processes of a run: how they find each other, act as one, and end.

One process, on any machine, needs nothing of it: every function here does then
what it says without others.
"""

from udon_jax.processes.joining import (
  Request,
  define_flags,
  fill,
  is_several,
  join,
)
from udon_jax.processes.leaving import leave
from udon_jax.processes.together import (
  check_agreement,
  check_shared,
  decided_by_main,
  is_alone,
  is_main,
  main_first,
  wait_for_all,
)

__all__ = [
  "Request",
  "check_agreement",
  "check_shared",
  "decided_by_main",
  "define_flags",
  "fill",
  "is_alone",
  "is_main",
  "is_several",
  "join",
  "leave",
  "main_first",
  "wait_for_all",
]
