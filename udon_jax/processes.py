"""The processes of a run: how they find each other and act as one.

One process, on any machine, needs nothing of it: every function here does then
what it says without others. Several are joined by JAX's coordination service,
which process 0 runs, and which ends all of them when one is lost.
"""

from collections.abc import Callable, Iterator, Mapping
import contextlib
import dataclasses
import glob
import hashlib
import importlib.util
import json
import logging
import os
import secrets
import socket
import sys
import threading
import time
import traceback
from typing import Any, TypeVar

from absl import flags
from etils import epath
import jax
from jax.experimental import multihost_utils
import numpy as np

from udon_jax import errors

logger = logging.getLogger("udon_jax")

T = TypeVar("T")

# Bytes of a message that processes exchange.
_MESSAGE = 2048
# Seconds in which peers that fail for the same reason are expected to.
_PATIENCE = 5.0
# Where JAX finds how many tasks a launcher has started, each in its own way.
_LAUNCHERS = {
  "SLURM_NTASKS": ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_PROCID"),
  "OMPI_COMM_WORLD_SIZE": ("OMPI_COMM_WORLD_RANK",),
}
_TPU_DEVICES = ("/dev/accel[0-9]*", "/dev/vfio/[0-9]*")


@dataclasses.dataclass(frozen=True)
class Request:
  """How a process is to join others; None is what the surroundings say.

  Attributes:
    coordinator_address: HOST:PORT of process 0.
    num_processes: how many there are.
    process_id: which one this is, from 0.
    initialization_timeout: seconds to wait for all.
    heartbeat_timeout: seconds without a sign of life after which a process
      counts as lost.
  """

  coordinator_address: str | None
  num_processes: int | None
  process_id: int | None
  initialization_timeout: int
  heartbeat_timeout: int


def define_flags() -> Callable[[], Request]:
  """Defines the flags of a command line that several processes can run.

  Returns:
    What gives the request, once flags are parsed.
  """
  address = flags.DEFINE_string(
    "coordinator_address",
    None,
    "HOST:PORT of process 0, if several processes run this command.",
  )
  count = flags.DEFINE_integer("num_processes", None, "How many there are.")
  own = flags.DEFINE_integer("process_id", None, "Which one this is, from 0.")
  start = flags.DEFINE_integer(
    "initialization_timeout",
    300,
    "Seconds to wait for all of them.",
    lower_bound=1,
  )
  heartbeat = flags.DEFINE_integer(
    "heartbeat_timeout",
    100,
    "Seconds without a sign of life after which one counts as lost.",
    lower_bound=1,
  )
  return lambda: Request(
    address.value, count.value, own.value, start.value, heartbeat.value
  )


def join(request: Request, environ: Mapping[str, str] = os.environ) -> None:
  """Joins the other processes, if there are any; before any use of a device.

  What flags leave open is taken from JAX_COORDINATOR_ADDRESS,
  JAX_NUM_PROCESSES and JAX_PROCESS_ID, then from SLURM, Open MPI, GKE or the
  metadata of a TPU, as JAX reads them.

  Args:
    request: what flags say.
    environ: the environment.

  Raises:
    UserError: the values do not fit together, or others cannot be reached.
  """
  request = fill(request, environ)
  if not is_several(request, environ):
    return
  _knock(request)
  try:
    jax.distributed.initialize(
      coordinator_address=request.coordinator_address,
      num_processes=request.num_processes,
      process_id=request.process_id,
      initialization_timeout=request.initialization_timeout,
      heartbeat_timeout_seconds=request.heartbeat_timeout,
    )
  except (RuntimeError, ValueError) as error:  # JaxRuntimeError is the first
    reason = str(error).strip().splitlines()[0]
    raise errors.UserError(
      f"the other processes cannot be reached ({reason}); see that all of them "
      "are started with the same --coordinator_address, whose port is open on "
      "process 0, or wait longer with --initialization_timeout"
    ) from error
  if jax.process_index():
    _speak_less()


def _knock(request: Request) -> None:
  """Waits for process 0, if its address is known: JAX would abort in the end.

  Raises:
    UserError: it does not answer in time.
  """
  address, seconds = request.coordinator_address, request.initialization_timeout
  if address is None or request.process_id is None:
    return
  if not request.process_id:
    logger.info(
      "waiting at %s for %s processes, at most %d s",
      address,
      request.num_processes or "all",
      seconds,
    )
    return
  host, _, port = address.rpartition(":")
  deadline = time.monotonic() + seconds
  while True:
    try:
      socket.create_connection((host.strip("[]"), int(port)), timeout=2).close()
    except OSError as error:
      if time.monotonic() > deadline:
        raise errors.UserError(
          f"--coordinator_address={address} does not answer in {seconds} s "
          f"({error}); see that process 0 runs there and that its port is "
          "open, or wait longer with --initialization_timeout"
        ) from error
      time.sleep(0.2)
    else:
      return


def fill(request: Request, environ: Mapping[str, str]) -> Request:
  """Returns a request with what the environment adds, checked.

  Raises:
    UserError: a value cannot be, or is missing.
  """

  if request.num_processes == 1:
    return dataclasses.replace(request, coordinator_address=None)

  def number(given, flag, key):
    if given is not None or not environ.get(key):
      return given
    try:
      return int(environ[key])
    except ValueError as error:
      raise errors.UserError(
        f"{key}={environ[key]!r} is no integer; unset it or give --{flag}"
      ) from error

  address = request.coordinator_address or environ.get(
    "JAX_COORDINATOR_ADDRESS"
  )
  count = number(request.num_processes, "num_processes", "JAX_NUM_PROCESSES")
  own = number(request.process_id, "process_id", "JAX_PROCESS_ID")
  filled = dataclasses.replace(
    request,
    coordinator_address=address,
    num_processes=count,
    process_id=own,
  )
  if count is not None and count < 1:
    raise errors.UserError(f"--num_processes={count} must be at least 1")
  if own is not None and not 0 <= own < (count or own + 1):
    raise errors.UserError(
      f"--process_id={own} must be from 0 to --num_processes={count} less 1"
    )
  if address is not None and not address.rpartition(":")[2].isdigit():
    raise errors.UserError(
      f"--coordinator_address={address} must be HOST:PORT, as all processes "
      "reach process 0"
    )
  if count == 1 or find_cluster(environ) is not None:
    return filled
  values = {
    "--coordinator_address": address,
    "--num_processes": count,
    "--process_id": own,
  }
  missing = [name for name, value in values.items() if value is None]
  if missing and len(missing) < len(values):
    raise errors.UserError(
      f"{' and '.join(missing)} must be given too: several processes need "
      "--coordinator_address, --num_processes and --process_id, by flag or "
      "environment"
    )
  return filled


def is_several(request: Request, environ: Mapping[str, str]) -> bool:
  """Whether there are other processes, as far as a filled request tells.

  A TPU tells it in its metadata alone, which JAX reads.
  """
  if request.num_processes is not None:
    return request.num_processes > 1
  return find_cluster(environ) is not None


def find_cluster(environ: Mapping[str, str]) -> str | None:
  """Returns what has started several processes that JAX can find, if any."""
  for size, others in _LAUNCHERS.items():
    if all(key in environ for key in (size, *others)):
      return size if int(environ[size]) > 1 else None
  if "," in environ.get("TPU_WORKER_HOSTNAMES", ""):
    return "TPU_WORKER_HOSTNAMES"
  if int(environ.get("MEGASCALE_NUM_SLICES") or 1) > 1:
    return "MEGASCALE_NUM_SLICES"
  on_tpu = any(map(glob.glob, _TPU_DEVICES))
  skips = "TPU_SKIP_MDS_QUERY" in environ or "TPU_WORKER_HOSTNAMES" in environ
  if on_tpu and not skips and importlib.util.find_spec("libtpu"):
    return "TPU metadata"
  return None


def _speak_less() -> None:
  """Lets this process log warnings alone, with its number."""
  logger.setLevel(logging.WARNING)
  for handler in logger.handlers:
    handler.setFormatter(
      logging.Formatter(f"process {jax.process_index()}: %(message)s")
    )


def is_main() -> bool:
  """Whether this is the process that writes: process 0."""
  return jax.process_index() == 0


def wait_for_all(name: str) -> None:
  """Returns when all processes have come to the same place."""
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices(name)


@contextlib.contextmanager
def main_first(name: str) -> Iterator[None]:
  """Lets process 0 do the body before the others, who find what it left."""
  if not is_main():
    wait_for_all(name)
  yield
  if is_main():
    wait_for_all(name)


def decided_by_main(decide: Callable[[], str]) -> str:
  """Returns a short text that process 0 finds, on all processes."""
  if jax.process_count() == 1:
    return decide()
  own = _to_bytes(decide() if is_main() else "")
  return _to_text(multihost_utils.broadcast_one_to_all(own))


def check_shared(folder: epath.Path, *, name: str) -> None:
  """Raises a UserError on all processes unless they share a folder.

  Args:
    folder: that exists.
    name: what the user knows it by.
  """
  if jax.process_count() == 1:
    return
  token = decided_by_main(lambda: secrets.token_hex(8))
  mark = folder / f".shared.{token}"
  if is_main():
    mark.touch()
  wait_for_all("folder")
  deadline = time.monotonic() + _PATIENCE  # file systems may be slow to tell
  while not (seen := mark.exists()) and time.monotonic() < deadline:
    time.sleep(0.1)
  found = multihost_utils.process_allgather(np.bool_(seen))
  if is_main():
    mark.unlink()
  if not np.all(found):
    blind = np.flatnonzero(~np.asarray(found)).tolist()
    raise errors.UserError(
      f"{name}={folder} is not the same folder on all processes: {blind} do "
      "not see what process 0 writes; use a file system that all share, or gs://"
    )


def _to_bytes(text: str) -> np.ndarray:
  data = text.encode()[:_MESSAGE]
  return np.frombuffer(data.ljust(_MESSAGE, b"\0"), np.uint8)


def _to_text(data: Any) -> str:
  return (
    np.asarray(data, np.uint8).tobytes().rstrip(b"\0").decode(errors="ignore")
  )


def check_agreement(facts: Mapping[str, Any]) -> None:
  """Raises the same UserError on all processes if their facts differ.

  The error names the processes whose facts are not those of most, and what is
  otherwise there.

  Args:
    facts: values that JSON can hold, by key.
  """
  count = jax.process_count()
  if count == 1:
    return
  own = json.dumps(facts, sort_keys=True, default=str)
  digests = multihost_utils.process_allgather(_digest(own))
  groups: dict[bytes, list[int]] = {}
  for process, digest in enumerate(np.asarray(digests)):
    groups.setdefault(digest.tobytes(), []).append(process)
  if len(groups) == 1:
    return
  usual = max(groups.values(), key=lambda found: (len(found), -found[0]))[0]
  source = jax.process_index() == usual
  length = multihost_utils.broadcast_one_to_all(
    np.int32(len(own.encode())), is_source=source
  )
  data = np.zeros(int(length), np.uint8)
  if source:
    data = np.frombuffer(own.encode(), np.uint8)
  data = multihost_utils.broadcast_one_to_all(data, is_source=source)
  reference = json.loads(np.asarray(data, np.uint8).tobytes())
  message = _differences(json.loads(own), reference, usual=usual)
  messages = map(
    _to_text, multihost_utils.process_allgather(_to_bytes(message))
  )
  told = "; ".join(filter(None, messages))
  raise errors.UserError(
    f"the processes disagree: {told}; start all of them with the same command, "
    "code and data"
  )


def _digest(text: str) -> np.ndarray:
  return np.frombuffer(hashlib.sha256(text.encode()).digest(), np.uint8)


def _differences(
  own: Mapping[str, Any], reference: Mapping[str, Any], *, usual: int
) -> str:
  """Returns what is otherwise on this process, on a line."""
  process = jax.process_index()
  differing = [
    f"{key} is {own.get(key)} on process {process} and {reference.get(key)} on "
    f"process {usual}"
    for key in sorted({*own, *reference})
    if own.get(key) != reference.get(key)
  ]
  shown = ", ".join(differing[:3])
  more = len(differing) - 3
  return f"{shown} and {more} more" if more > 0 else shown


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
