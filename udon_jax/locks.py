"""Locks that end with the process that holds them, however it ends."""

import fcntl
import logging

logger = logging.getLogger(__name__)


def take(descriptor: int, *, name: object) -> bool:
  """Locks an open file or folder; tells whether no other process holds it.

  Some file systems have no locks: then a line of the log says so.

  Args:
    descriptor: of the file; closing it frees the lock.
    name: of the file, for the log.
  """
  try:
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except BlockingIOError:
    return False
  except OSError as error:
    logger.warning("%s cannot be locked (%s)", name, error)
  return True
