"""How tests have XLA compile: in two thirds of the time, to slower programs.

Whole runs are short, and much of what tests do is compiling. `make test-all`
sets UDON_TEST_OPTIMIZED, and compiles as users do.
"""

import os

_IS_OPTIMIZED = os.environ.get("UDON_TEST_OPTIMIZED")
# XLA_FLAGS of a process with one device.
FLAGS = "" if _IS_OPTIMIZED else "--xla_backend_optimization_level=0"
