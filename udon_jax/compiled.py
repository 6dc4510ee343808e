"""Compiled programs that outlive a process, so that restarts are quick."""

import logging
import os

import jax

from udon_jax import caches

logger = logging.getLogger(__name__)

VARIABLE = "JAX_COMPILATION_CACHE_DIR"
FOLDER = "compiled"


def keep(platform: str) -> None:
  """Lets JAX keep programs in the cache of this machine, where that is useful.

  What JAX_COMPILATION_CACHE_DIR says holds. Otherwise programs of accelerators,
  which take minutes to compile, are kept; those of CPUs are not, as JAX warns
  at length of machines that differ whenever it reads one.

  Args:
    platform: of the devices, such as "tpu".
  """
  if os.environ.get(VARIABLE) or platform == "cpu":
    return
  folder = caches.folder() / FOLDER
  try:
    folder.mkdir(parents=True, exist_ok=True)
    if not os.access(folder, os.W_OK):
      raise PermissionError(f"{folder} is read-only")
  except OSError as error:
    logger.info(
      "compiled programs are not kept (%s); %s names another folder",
      error,
      caches.VARIABLE,
    )
    return
  jax.config.update("jax_compilation_cache_dir", str(folder))
