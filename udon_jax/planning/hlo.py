"""Reads the text of a compiled program: computations and their instructions.

Source of the form: openxla.org/xla, "operation semantics" and "HLO text".
"""

import dataclasses
import math
import re

# Bits of a value of each element type.
_BITS = {"pred": 8, "token": 0, "opaque": 0, "c64": 64, "c128": 128}
_ARRAY = re.compile(r"\b([a-z][a-z0-9]*)\[([0-9,<=]*)\]")
_HEAD = re.compile(r"^(ENTRY\s+)?%?([\w.\-]+)\s.*\{\s*$")
_NAME = re.compile(r"^\s+(ROOT\s+)?%?([\w.\-]+)\s+=\s+")
_OPCODE = re.compile(r"\s*([a-z][\w\-]*)\(")
_OPEN, _CLOSE = "([{", ")]}"


@dataclasses.dataclass(frozen=True)
class Instruction:
  """One line of a computation.

  Attributes:
    name: of the instruction.
    shape: of its result, as written.
    opcode: what it does.
    operands: names of what it reads.
    rest: what follows the operands.
    literal: what stands between the parentheses, for constants.
    is_root: whether its result is the computation's.
  """

  name: str
  shape: str
  opcode: str
  operands: tuple[str, ...]
  rest: str
  literal: str
  is_root: bool

  def called(self, *keys: str) -> list[str]:
    """Returns the names of computations under such keys ("calls", "body")."""
    found = []
    for key in keys:
      for names in re.findall(rf"\b{key}=(\{{[^}}]*\}}|%?[\w.\-]+)", self.rest):
        found += re.findall(r"[\w.\-]+", names.replace("%", ""))
    return found


@dataclasses.dataclass(frozen=True)
class Computation:
  """A function of a program; instructions by name, in their order."""

  name: str
  instructions: dict[str, Instruction]

  @property
  def root(self) -> Instruction:
    """What gives the result."""
    return next(x for x in self.instructions.values() if x.is_root)


@dataclasses.dataclass(frozen=True)
class Module:
  """A program.

  Attributes:
    computations: by name.
    entry: name of the one that runs first.
    num_devices: that run it together.
  """

  computations: dict[str, Computation]
  entry: str
  num_devices: int


def parse(text: str) -> Module:
  """Reads the text that `jax.stages.Compiled.as_text` gives."""
  computations: dict[str, Computation] = {}
  entry, current = "", None
  for line in text.splitlines():
    if not line.startswith(" "):
      head = _HEAD.match(line)
      current = None
      if head and not line.startswith("HloModule"):
        current = Computation(head[2], {})
        computations[head[2]] = current
        entry = head[2] if head[1] else entry
    elif current is not None:
      found = _instruction(line)
      if found is not None:
        current.instructions[found.name] = found
  counts = re.findall(r"(?:num_partitions|replica_count)=(\d+)", text[:100_000])
  return Module(computations, entry, math.prod(int(n) for n in counts))


def _instruction(line: str) -> Instruction | None:
  """Reads a line of a computation; None for other lines."""
  name = _NAME.match(line)
  if name is None:
    return None
  rest = line[name.end() :]
  end = _span(rest) if rest.startswith("(") else rest.find(" ")
  opcode = _OPCODE.match(rest, end)
  if opcode is None:
    return None
  start = opcode.end() - 1
  stop = start + _span(rest[start:])
  inside = rest[start + 1 : stop - 1]
  return Instruction(
    name=name[2],
    shape=rest[:end],
    opcode=opcode[1],
    operands=tuple(re.findall(r"%([\w.\-]+)", inside)),
    rest=rest[stop:],
    literal=inside,
    is_root=bool(name[1]),
  )


def _span(text: str) -> int:
  """Returns the length of the bracket that a text starts with."""
  depth = 0
  for i, letter in enumerate(text):
    depth += (letter in _OPEN) - (letter in _CLOSE)
    if depth == 0:
      return i + 1
  return len(text)


def array_bytes(shape: str) -> list[int]:
  """Returns the bytes of every array of a shape, of a tuple's in turn."""
  return [
    math.prod(int(n.strip("<=")) for n in sizes.split(",") if n)
    * _bits(kind)
    // 8
    for kind, sizes in _ARRAY.findall(_without_layouts(shape))
  ]


def _without_layouts(shape: str) -> str:
  """Returns a shape without {...}, in which tiles look like sizes."""
  return re.sub(r"\{[^}]*\}", "", re.sub(r"/\*.*?\*/", "", shape))


def _bits(kind: str) -> int:
  """Returns the bits of a value of an element type such as "bf16"."""
  if kind in _BITS:
    return _BITS[kind]
  width = re.match(r"(?:bf|f|s|u)(\d+)", kind)
  return int(width[1]) if width else 32


def num_rounds(module: Module, where: Computation, loop: Instruction):
  """Returns how often a `while` runs its body; None where data decides.

  The compiler for CPUs and GPUs writes it down. In a TPU's program it is the
  constant that a counter from 0 by 1, as all of JAX's scans have, is compared
  with.

  Args:
    module: the program.
    where: the computation that holds the loop.
    loop: the `while`.
  """
  known = re.search(r'known_trip_count":\{"n":"(\d+)"', loop.rest)
  if known:
    return int(known[1])
  condition = module.computations.get(loop.called("condition")[0])
  if condition is None or condition.root.opcode != "compare":
    return None
  root = condition.root
  left, right = (condition.instructions[name] for name in root.operands)
  if (
    "direction=LT" not in root.rest
    or left.opcode != "get-tuple-element"
    or right.opcode != "constant"
  ):
    return None
  index = re.search(r"index=(\d+)", left.rest)
  start = _element(where, loop.operands[0], int(index[1])) if index else None
  if start is None or start.opcode != "constant" or start.literal != "0":
    return None
  return int(right.literal)


def _element(where: Computation, name: str, index: int) -> Instruction | None:
  """Returns what a tuple holds at a place, seen through copies."""
  found = where.instructions.get(name)
  if found is None or found.opcode != "tuple":
    return None
  found = where.instructions.get(found.operands[index])
  while found is not None and found.opcode in ("copy", "bitcast"):
    found = where.instructions.get(found.operands[0])
  return found
