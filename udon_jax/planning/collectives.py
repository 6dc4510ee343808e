"""What a compiled step sends between devices."""

from collections.abc import Iterator
import dataclasses
import math
import re

from udon_jax.planning import hlo

OPS = (
  "all-gather",
  "all-reduce",
  "reduce-scatter",
  "all-to-all",
  "ragged-all-to-all",
  "collective-permute",
  "collective-broadcast",
)
# In a TPU's program a reduce-scatter is a fusion around an all-reduce.
_FUSED_SCATTER = "all-reduce-scatter"
# Where bytes are sent once; an all-reduce scatters and gathers.
_TRIPS = {"all-reduce": 2}


@dataclasses.dataclass(frozen=True, order=True)
class Collective:
  """Equal exchanges between devices.

  Attributes:
    op: one of OPS.
    bytes: of the whole array that a device ends up with or hands in, whichever
      is larger, of one exchange.
    count: exchanges in a step.
    group_size: devices that take part in one.
    in_open_loop: whether they lie in a loop whose rounds data decides; one
      round is counted.
  """

  op: str
  bytes: int
  count: int
  group_size: int
  in_open_loop: bool

  @property
  def sent(self) -> float:
    """Bytes that a device sends at least, in a step."""
    others = (self.group_size - 1) / self.group_size
    if self.op.startswith("collective"):
      others = 1.0
    return self.bytes * self.count * others * _TRIPS.get(self.op, 1)


def find(text: str) -> list[Collective]:
  """Returns the collectives of a program, the most bytes first.

  Those of a single device send nothing and are left out.

  Args:
    text: of the compiled program.
  """
  module = hlo.parse(text)
  counts: dict[Collective, int] = {}
  for one in _walk(module, module.entry, times=1, is_open=False):
    key = dataclasses.replace(one, count=0)
    counts[key] = counts.get(key, 0) + one.count
  found = [
    dataclasses.replace(key, count=n)
    for key, n in counts.items()
    if key.group_size > 1
  ]
  return sorted(found, key=lambda x: (-x.bytes * x.count, x))


def _walk(
  module: hlo.Module, name: str, *, times: int, is_open: bool
) -> Iterator[Collective]:
  """Yields the collectives of a computation and of all that it calls."""
  computation = module.computations[name]
  for x in computation.instructions.values():
    op = x.opcode.removesuffix("-start")
    if op in OPS:
      if _counts(computation, x):
        is_scatter = name.startswith(_FUSED_SCATTER)
        yield Collective(
          "reduce-scatter" if is_scatter else op,
          _whole_bytes(computation, x),
          count=times,
          group_size=_group_size(x, module.num_devices),
          in_open_loop=is_open,
        )
    elif op == "while":
      rounds = hlo.num_rounds(module, computation, x)
      yield from _walk(
        module,
        x.called("body")[0],
        times=times * (1 if rounds is None else rounds),
        is_open=is_open or rounds is None,
      )
    else:
      for called in _calls(x):
        yield from _walk(module, called, times=times, is_open=is_open)


def _calls(x: hlo.Instruction) -> list[str]:
  """Returns what an instruction other than a loop runs, each once.

  Of a conditional it is every branch: at most so much is sent.
  """
  keys = {
    "fusion": ("calls",),
    "call": ("to_apply",),
    "async-start": ("calls",),
    "conditional": (
      "branch_computations",
      "true_computation",
      "false_computation",
    ),
  }
  return x.called(*keys.get(x.opcode, ()))


def _counts(where: hlo.Computation, x: hlo.Instruction) -> bool:
  """Whether an exchange starts here.

  On TPUs one that runs beside computation stands in several fusions, from its
  start to its end.
  """
  if "chain_id=" not in x.rest:
    return True
  return any(
    "AsyncCollectiveStart" in other.rest
    for other in where.instructions.values()
  )


def _whole_bytes(where: hlo.Computation, x: hlo.Instruction) -> int:
  """Returns the bytes of what goes in or of what comes out, the larger."""
  taken = sum(
    sum(hlo.array_bytes(where.instructions[name].shape)) for name in x.operands
  )
  made = hlo.array_bytes(x.shape)
  if x.opcode.endswith("-start") and x.opcode != "all-reduce-start":
    # A tuple of what goes in, what comes out, and counters of four bytes.
    counters = len(re.findall(r"u32\[\]", x.shape))
    return max(taken, sum(made) - taken - 4 * counters)
  return max(taken, sum(made))


def _group_size(x: hlo.Instruction, num_devices: int) -> int:
  """Returns how many devices exchange with each other.

  The groups are written as lists, as [groups,size]<=..., or as axes of a mesh.
  """
  if found := re.search(r"replica_groups=\[(\d+),(\d+)\]", x.rest):
    return int(found[2])
  if found := re.search(r"replica_groups=\{\{([\d,]*)\}", x.rest):
    return len(found[1].split(","))
  if found := re.search(
    r"replica_groups=mesh\[([^\]]*)\].*?\{([^}]*)\}", x.rest
  ):
    sizes = dict(re.findall(r"'([^']+)'=(\d+)", found[1]))
    axes = re.findall(r"'([^']+)'", found[2])
    return math.prod(int(sizes[axis]) for axis in axes)
  return num_devices
