"""What processes do as one; a process alone does it without others."""

from collections.abc import Callable, Iterator, Mapping
import contextlib
import hashlib
import json
import secrets
import time
from typing import Any

from etils import epath
import jax
from jax.experimental import multihost_utils
import numpy as np

from udon_jax import errors

# Bytes of a message that processes exchange.
_MESSAGE = 2048
# Seconds in which a file that one writes is seen by all.
_PATIENCE = 5.0


def is_alone() -> bool:
  """Whether there are no other processes."""
  return jax.process_count() == 1


def is_main() -> bool:
  """Whether this is the process that writes: process 0."""
  return jax.process_index() == 0


def wait_for_all(name: str) -> None:
  """Returns when all processes have come to the same place."""
  if not is_alone():
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
  if is_alone():
    return decide()
  own = _to_bytes(decide() if is_main() else "")
  return _to_text(multihost_utils.broadcast_one_to_all(own))


def check_shared(folder: epath.Path, *, name: str) -> None:
  """Raises a UserError on all processes unless they share a folder.

  Args:
    folder: that exists.
    name: what the user knows it by.
  """
  if is_alone():
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
  if is_alone():
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
