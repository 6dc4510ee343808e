"""How a process that fails leaves its peers."""

import contextlib
import os
import sys
import threading
import traceback

import jax

# Seconds in which peers that fail for the same reason are expected to.
_PATIENCE = 5.0


def leave(code: int, error: BaseException | None) -> bool:
  """Ends a process that has failed, without waiting long for its peers.

  If they fail for the same reason, all part in order; otherwise their next
  exchange with this one, or a heartbeat that is missing, ends them.

  Args:
    code: of the exit.
    error: shown with its traceback, if there are peers.

  Returns:
    Whether it has peers, if it returns.
  """
  if not jax.distributed.is_initialized():
    return False
  if error is not None:
    traceback.print_exception(error)
  parting = threading.Thread(target=_part, daemon=True)
  parting.start()
  parting.join(_PATIENCE)
  if parting.is_alive():
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
  return True


def _part() -> None:
  with contextlib.suppress(Exception):
    jax.distributed.shutdown()
