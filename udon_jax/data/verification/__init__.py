"""Whether data is sound: what `python -m udon_jax.data.verify` looks at."""

from udon_jax.data.verification.leaks import Classes, of_uned
from udon_jax.data.verification.whole import Result, verify

__all__ = ["Classes", "Result", "of_uned", "verify"]
