"""Named arrays of a pickled dict in a .npy file, read without unpickling.

`np.save(path, {name: array})` pickles the dict. A pickle is a program for a
machine with a stack, and may call any function. The machine here knows the
instructions that dicts of arrays need; calls are recognised by their name and
never made, and everything else is refused. Bytes of arrays stay in the file
until they are asked for.

Sources: CPython, Lib/pickletools.py; numpy, format.py and multiarray.py.
"""

from collections.abc import Callable
import pickletools
import struct
from typing import Any, BinaryIO

from etils import epath
import numpy as np

from udon_jax import errors
from udon_jax.pretrained import arrays, standins

# Bounds of what a hostile file can ask for: a CLIP of any size takes some
# 10,000 steps, and its names are short.
_MOST_STEPS = 500_000
_LONGEST_NAME = 1024

_OPCODES = {op.code.encode("latin1"): op.name for op in pickletools.opcodes}
_NUMBERS = {"BININT": "<i", "BININT1": "<B", "BININT2": "<H", "BINFLOAT": ">d"}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_EMPTY = {"EMPTY_TUPLE": tuple, "EMPTY_LIST": list, "EMPTY_DICT": dict}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
# How the length before bytes or text is written.
_BYTES = {
  "SHORT_BINBYTES": "<B",
  "BINBYTES": "<I",
  "BINBYTES8": "<Q",
  "BYTEARRAY8": "<Q",
  "SHORT_BINSTRING": "<B",
  "BINSTRING": "<i",
}
_TEXT = {"SHORT_BINUNICODE": "<B", "BINUNICODE": "<I", "BINUNICODE8": "<Q"}
_PUTS = {"BINPUT": "<B", "LONG_BINPUT": "<I"}
_GETS = {"BINGET": "<B", "LONG_BINGET": "<I"}
_HINTS = {"PROTO": "<B", "FRAME": "<Q"}  # mean nothing here


class _Machine:
  """Runs a pickle of arrays."""

  def __init__(self, file: BinaryIO, size: int):
    self.file, self.size = file, size
    self.stack: list[Any] = []
    self.marks: list[int] = []
    self.memo: dict[int, Any] = {}

  def run(self) -> Any:
    """Returns what the pickle stands for.

    Raises:
      ValueError: it asks for what arrays do not need.
    """
    for _ in range(_MOST_STEPS):
      code = self.file.read(1)
      if not code:
        raise EOFError("ends early")
      name = _OPCODES.get(code)
      if name is None:
        raise ValueError(f"holds the unknown instruction {code!r}")
      if name == "STOP":
        return self.stack.pop()
      if not (self._push(name) or self._keep(name)):
        self._combine(name)
    raise ValueError(f"takes more than {_MOST_STEPS} steps")

  def _number(self, form: str) -> Any:
    return struct.unpack(form, self.file.read(struct.calcsize(form)))[0]

  def _take(self, size: int, *, text: bool) -> Any:
    """Returns the next bytes, or where they lie if they are many."""
    start = self.file.tell()
    if not 0 <= size <= self.size - start:
      raise EOFError("ends early")
    if size > _LONGEST_NAME:
      self.file.seek(start + size)
      return standins.Span(start, size, text)
    data = self.file.read(size)
    return data.decode("utf-8", "surrogatepass") if text else data

  def _push(self, name: str) -> bool:
    """Does an instruction that adds to the stack; returns whether it is one."""
    if name in _NUMBERS:
      value = self._number(_NUMBERS[name])
    elif name in _CONSTANTS:
      value = _CONSTANTS[name]
    elif name in _EMPTY:
      value = _EMPTY[name]()
    elif name in _BYTES:
      value = self._take(self._number(_BYTES[name]), text=False)
    elif name in _TEXT:
      value = self._take(self._number(_TEXT[name]), text=True)
    elif name in _GETS:
      value = self.memo[self._number(_GETS[name])]
    elif name == "LONG1":
      value = int.from_bytes(
        self.file.read(self._number("<B")), "little", signed=True
      )
    elif name == "GLOBAL":
      lines = [self.file.readline(_LONGEST_NAME) for _ in range(2)]
      value = self._global(*(x.decode().removesuffix("\n") for x in lines))
    else:
      return False
    self.stack.append(value)
    return True

  def _keep(self, name: str) -> bool:
    """Does an instruction that leaves the stack; returns whether it is one."""
    if name in _PUTS:
      self.memo[self._number(_PUTS[name])] = self.stack[-1]
    elif name == "MEMOIZE":
      self.memo[len(self.memo)] = self.stack[-1]
    elif name in _HINTS:
      self._number(_HINTS[name])
    elif name == "MARK":
      self.marks.append(len(self.stack))
    else:
      return False
    return True

  def _combine(self, name: str) -> None:
    """Does an instruction on what lies on the stack."""
    stack = self.stack
    if name in _TUPLES:
      stack.append(tuple(self._pop(len(stack) - _TUPLES[name])))
    elif name == "TUPLE":
      stack.append(tuple(self._pop(self.marks.pop())))
    elif name in ("APPEND", "APPENDS"):
      many = name == "APPENDS"
      items = self._pop(self.marks.pop() if many else len(stack) - 1)
      self._last(list).extend(items)
    elif name in ("SETITEM", "SETITEMS"):
      many = name == "SETITEMS"
      items = self._pop(self.marks.pop() if many else len(stack) - 2)
      names = map(standins.as_name, items[::2])
      self._last(dict).update(zip(names, items[1::2], strict=True))
    elif name == "STACK_GLOBAL":
      stack.append(
        self._global(*map(standins.as_name, self._pop(len(stack) - 2)))
      )
    elif name == "REDUCE":
      function, arguments = self._pop(len(stack) - 2)
      if function not in standins.KNOWN.values() or not isinstance(
        arguments, tuple
      ):
        raise ValueError("calls what is no function")
      stack.append(function(*arguments))
    elif name == "BUILD":
      (state,) = self._pop(len(stack) - 1)
      self._last((standins.Array, standins.Dtype)).build(state)
    else:
      raise ValueError(f"holds the instruction {name}")

  def _pop(self, start: int) -> list[Any]:
    """Returns what lies on the stack from a height on, and takes it off."""
    if not 0 <= start <= len(self.stack):
      raise ValueError("takes more than there is")
    items = self.stack[start:]
    del self.stack[start:]
    return items

  def _last(self, kind: Any) -> Any:
    if not self.stack or not isinstance(self.stack[-1], kind):
      raise ValueError("changes what is no array, list or dict")
    return self.stack[-1]

  def _global(self, module: str, name: str) -> Callable[..., Any]:
    # numpy 2 put an underscore before its core.
    new = module.replace("numpy.core.", "numpy._core.", 1)
    if f"{new}.{name}" not in standins.KNOWN:
      whole = f"{module}.{name}"[:200]
      raise ValueError(f"names {whole!r}, which could run code")
    return standins.KNOWN[f"{new}.{name}"]


def open_npy(path: epath.PathLike, *, key: str) -> arrays.Arrays:
  """Returns the arrays of a pickled dict; nothing in it is executed.

  Args:
    path: what `np.save(path, {name: array})` wrote, by numpy 1 or 2.
    key: what the user set it with, for messages.

  Raises:
    UserError: the file cannot be read, or holds more than named arrays.
  """
  path = epath.Path(path)
  try:
    file = path.open("rb")
    found = _named(file, path.stat().length)
  except (
    *(OSError, EOFError, ValueError, TypeError, KeyError, IndexError),
    *(struct.error, AttributeError, OverflowError, SyntaxError),
  ) as error:
    raise errors.UserError(
      f"{key}: {path} cannot be read as a .npy of named arrays ({error}); give "
      "the whole file that np.save wrote from a dict of arrays"
    ) from error
  return arrays.Arrays(
    str(path),
    key,
    {name: value.shape for name, value in found.items()},
    lambda name: _read(found[name], file),
  )


def _read(value: Any, file: BinaryIO) -> np.ndarray:
  return value.read(file) if isinstance(value, standins.Array) else value


def _named(file: BinaryIO, size: int) -> dict[str, Any]:
  """Returns the arrays of a file by name."""
  shape, dtype = arrays.read_header(file)
  if shape != () or not dtype.hasobject:
    raise ValueError(f"it holds one array {shape} of {dtype}, no names")
  root = _Machine(file, size).run()
  items = root.data if isinstance(root, standins.Array) else None
  if not isinstance(items, list) or len(items) != 1:
    raise ValueError("it holds no pickled dict")
  if not isinstance(items[0], dict):
    raise ValueError("it holds no pickled dict")
  found: dict[str, Any] = {}
  for name, value in items[0].items():
    if isinstance(value, bool | int | float):
      found[name] = np.asarray(value)
    elif isinstance(value, standins.Array) and value.dtype.kind in "fiub":
      found[name] = value
    else:
      what = getattr(value, "dtype", type(value).__name__)
      raise ValueError(f"it holds {name[:80]!r} of {what}, no array of numbers")
  return found
