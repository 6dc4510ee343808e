"""Eight simulated devices for every test; set before JAX starts.

What one test compiled, others and the processes that they start find in a
cache.
"""

import os
import pathlib

import pytest

from tests import compiling

NUM_DEVICES = 8
_DEVICES = f"--xla_force_host_platform_device_count={NUM_DEVICES}"
_FLAGS = (os.environ.get("XLA_FLAGS", ""), compiling.FLAGS, _DEVICES)
os.environ["XLA_FLAGS"] = " ".join(filter(None, _FLAGS))
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # as udon_jax does

_CACHE = pathlib.Path(__file__).parents[1] / ".pytest_cache" / "jax"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(_CACHE))
# Where records are read-only; never the one of whoever runs the tests.
_OFFSETS = pathlib.Path(__file__).parents[1] / ".pytest_cache" / "udon_jax"
os.environ["UDON_JAX_CACHE"] = str(_OFFSETS)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory):
  """Returns the workdir of a run of two steps of the tiny config."""
  # Not before the variables above are set.
  from tests import fakes  # noqa: PLC0415
  from udon_jax import trainer  # noqa: PLC0415

  path = tmp_path_factory.mktemp("run")
  config = fakes.changed(
    num_train_steps=2, eval__embeddings=("student",), log_every=2
  )
  trainer.train(
    config, path, sources=fakes.sources(config), tasks=fakes.tasks(config)
  )
  return path
