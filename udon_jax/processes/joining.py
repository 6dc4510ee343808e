"""How the processes of a run find each other.

They are joined by JAX's coordination service, which process 0 runs, and which
ends all of them when one is lost.
"""

from collections.abc import Callable, Mapping
import dataclasses
import glob
import importlib.util
import logging
import os
import socket
import time

from absl import flags
import jax

from udon_jax import errors
from udon_jax.processes.together import wait_for_all

logger = logging.getLogger("udon_jax")

# Where JAX finds how many tasks a launcher has started, each in its own way.
_LAUNCHERS = {
  "SLURM_NTASKS": ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_PROCID"),
  "OMPI_COMM_WORLD_SIZE": ("OMPI_COMM_WORLD_RANK", "OMPI_MCA_orte_hnp_uri"),
}
# A shell within an allocation of SLURM has its variables, and is one task.
_STEP_TASKS = "SLURM_STEP_NUM_TASKS"
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
  # Connections between devices are made now, not when some wait for others.
  wait_for_all("joined")


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
      if size == "SLURM_NTASKS" and environ.get(_STEP_TASKS) == "1":
        return None
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
