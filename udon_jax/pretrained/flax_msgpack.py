"""Trees of arrays as Flax writes them: msgpack, read lazily, nothing executed.

A file is walked once, from header to header, which leaves the arrays where they
lie; each is read when it is asked for, through a map of the file. Only what
Flax writes is accepted: maps with names as keys, scalars, text, bytes, and
arrays as extension types.

Sources: the msgpack specification; flax, serialization.py (an array is
[shape, name of its type, bytes]; from 2**30 bytes on it lies in chunks).
"""

from collections.abc import Iterator, Mapping
import dataclasses
import math
import mmap
import struct
from typing import Any, BinaryIO, TypeAlias

from etils import epath
import jax.numpy as jnp
import msgpack
import numpy as np

from udon_jax import errors

_ARRAY, _COMPLEX, _SCALAR = 1, 2, 3  # extension types
_CHUNKED = "__msgpack_chunked_array__"
# Bytes of an array from which on it is written in chunks.
CHUNK_BYTES = 2**30
_DTYPES = {
  name: np.dtype(getattr(jnp, name, name))
  for name in (
    *("float32", "float64", "float16", "bfloat16", "bool"),
    *(f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)),
  )
}
_MAX_DEPTH = 64
# A ViT-H with eight domains and moments has a hundredth of these.
_MAX_ENTRIES = 2**18
_MAX_RANK = 8


@dataclasses.dataclass(frozen=True)
class Stored:
  """Where an array lies in a file.

  Attributes:
    dtype: type of its elements.
    shape: its shape.
    pieces: (first byte, number of bytes) of its parts, in order.
  """

  dtype: np.dtype
  shape: tuple[int, ...]
  pieces: tuple[tuple[int, int], ...]


# A dict of trees, a `Stored`, a scalar, or None for what is passed over.
Tree: TypeAlias = Any


@dataclasses.dataclass(frozen=True)
class File:
  """An open file.

  Attributes:
    path: its path, for messages.
    tree: what it holds.
    buffer: its bytes.
  """

  path: str
  tree: Mapping[str, Tree]
  buffer: Any

  def read(self, stored: Stored) -> np.ndarray:
    """Returns an array, in memory of its own."""
    parts = [
      np.frombuffer(
        self.buffer, stored.dtype, num // stored.dtype.itemsize, start
      )
      for start, num in stored.pieces
    ]
    value = parts[0].copy() if len(parts) == 1 else np.concatenate(parts)
    del parts
    if hasattr(mmap, "MADV_DONTNEED") and isinstance(self.buffer, mmap.mmap):
      # Pages that stay mapped would count as memory of this process.
      self.buffer.madvise(mmap.MADV_DONTNEED)
    return value.reshape(stored.shape)


def read(path: epath.PathLike, *, key: str) -> File:
  """Opens a file and walks through it.

  Args:
    path: the file.
    key: what the user set it with, for messages.

  Raises:
    UserError: it cannot be read, is cut off, or holds what Flax never writes.
  """
  path = epath.Path(path)
  try:
    buffer = _map(path)
  except OSError as error:
    raise errors.UserError(
      f"{key}: {path} cannot be read ({error.strerror or error}); give a "
      "checkpoint of the official code"
    ) from error
  try:
    tree = _Walk(buffer).whole()
  except (ValueError, UnicodeDecodeError) as error:
    raise errors.UserError(
      f"{key}: {path} is no whole checkpoint of Flax ({error}); copy it again"
    ) from error
  return File(str(path), tree, buffer)


def _map(path: epath.Path) -> Any:
  """Returns the bytes of a file, mapped where it is local."""
  if "://" in str(path):
    return path.read_bytes()
  with open(path, "rb") as file:
    if not file.seek(0, 2):
      return b""
    return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


# By the first byte: how the number that follows it is written.
_NUMBERS = {
  **{0xCA: ">f", 0xCB: ">d"},
  **{0xCC: ">B", 0xCD: ">H", 0xCE: ">I", 0xCF: ">Q"},
  **{0xD0: ">b", 0xD1: ">h", 0xD2: ">i", 0xD3: ">q"},
}
_CONSTANTS = {0xC0: None, 0xC2: False, 0xC3: True}
_TEXT = {0xD9: ">B", 0xDA: ">H", 0xDB: ">I"}
_BYTES = {0xC4: ">B", 0xC5: ">H", 0xC6: ">I"}
_LISTS = {0xDC: ">H", 0xDD: ">I"}
_MAPS = {0xDE: ">H", 0xDF: ">I"}
_EXTENSIONS = {0xC7: ">B", 0xC8: ">H", 0xC9: ">I"}


class _Walk:
  """A walk through the bytes of a file; raises ValueError where they end."""

  def __init__(self, buffer: Any):
    self._buffer = buffer
    self._at = 0
    self._entries = 0

  def whole(self) -> dict[str, Tree]:
    """Returns the map that the file is."""
    tree = self._value(0)
    if not isinstance(tree, dict):
      raise ValueError("it is no map of names")
    if self._at != len(self._buffer):
      raise ValueError(f"it goes on after its end at byte {self._at}")
    return tree

  def _take(self, count: int) -> int:
    """Passes some bytes, returns where they start."""
    start, self._at = self._at, self._at + count
    if self._at > len(self._buffer):
      raise ValueError(f"it is cut off at byte {len(self._buffer)}")
    return start

  def _number(self, form: str) -> Any:
    start = self._take(struct.calcsize(form))
    return struct.unpack_from(form, self._buffer, start)[0]

  def _value(self, depth: int) -> Tree:
    """Returns the next value."""
    self._entries += 1
    if depth > _MAX_DEPTH or self._entries > _MAX_ENTRIES:
      raise ValueError("it is nested too deep or has too many entries")
    head = self._number(">B")
    if head < 0xA0 or head in _MAPS or head in _LISTS:
      return self._small(head, depth)
    if head < 0xC0 or head in _TEXT:
      return self._text(head)
    if head in _CONSTANTS or head >= 0xE0:
      return _CONSTANTS.get(head, head - 0x100)
    if head in _NUMBERS:
      return self._number(_NUMBERS[head])
    return self._data(head)

  def _small(self, head: int, depth: int) -> Tree:
    """Returns a number below 128, a map or a list."""
    if head < 0x80:
      return head
    if head < 0x90 or head in _MAPS:
      count = head & 0x0F if head < 0x90 else self._number(_MAPS[head])
      return self._map(count, depth)
    count = head & 0x0F if head < 0xA0 else self._number(_LISTS[head])
    return [self._value(depth + 1) for _ in range(count)]

  def _data(self, head: int) -> Tree:
    """Returns bytes, or what an extension holds."""
    if head in _BYTES:
      size = self._number(_BYTES[head])
      return Stored(_DTYPES["uint8"], (size,), ((self._take(size), size),))
    return self._extension(head)

  def _text(self, head: int) -> str:
    size = head & 0x1F if head < 0xC0 else self._number(_TEXT[head])
    start = self._take(size)
    return bytes(self._buffer[start : start + size]).decode()

  def _map(self, count: int, depth: int) -> Tree:
    """Returns a map, or the array whose chunks it holds."""
    tree: dict[str, Tree] = {}
    for _ in range(count):
      name = self._value(_MAX_DEPTH)
      if not isinstance(name, str) or "/" in name or name in tree:
        raise ValueError(f"{str(name)[:40]!r} is no name, or comes twice")
      tree[name] = self._value(depth + 1)
    return _join_chunks(tree) if _CHUNKED in tree else tree

  def _extension(self, head: int) -> Tree:
    """Returns an array, or None for a number that nothing here is made of."""
    if 0xD4 <= head <= 0xD8:
      size = 2 ** (head - 0xD4)
    elif head in _EXTENSIONS:
      size = self._number(_EXTENSIONS[head])
    else:
      raise ValueError(f"there is no value of type {head:#x}")
    kind = self._number(">b")
    start = self._take(size)
    end, self._at = self._at, start
    if kind in (_ARRAY, _SCALAR):
      stored = _check(self._value(_MAX_DEPTH - 2))
      if self._at == end:
        return stored
    elif kind == _COMPLEX:
      self._at = end
      return None
    raise ValueError(f"the extension of type {kind} at byte {start} is damaged")


def _check(payload: Tree) -> Stored:
  """Returns the array of an extension, whose numbers must agree."""
  match payload:
    case [[*shape], str() as name, Stored() as data] if name in _DTYPES:
      dtype = _DTYPES[name]
      if (
        _is_shape(shape) and math.prod(shape) * dtype.itemsize == data.shape[0]
      ):
        return Stored(dtype, tuple(shape), data.pieces)
  raise ValueError(
    "an array's shape, type and size do not agree, or its type is none of "
    f"{', '.join(_DTYPES)}"
  )


def _is_shape(shape: list[Any]) -> bool:
  return len(shape) <= _MAX_RANK and all(
    isinstance(n, int) and not isinstance(n, bool) and 0 <= n < 2**40
    for n in shape
  )


def _join_chunks(tree: dict[str, Tree]) -> Stored:
  """Returns the array that a map of chunks describes."""

  def values(name):
    found = tree.get(name)
    if not isinstance(found, dict):
      raise ValueError(f"an array in chunks lacks its {name}")
    try:
      return [found[str(i)] for i in range(len(found))]
    except KeyError as error:
      raise ValueError(f"an array in chunks lacks one of its {name}") from error

  shape, chunks = values("shape"), values("chunks")
  if (
    not chunks
    or not all(isinstance(c, Stored) for c in chunks)
    or len({c.dtype for c in chunks}) > 1
    or not _is_shape(shape)
    or math.prod(shape) != sum(math.prod(c.shape) for c in chunks)
  ):
    raise ValueError("the chunks of an array do not make its shape")
  pieces = tuple(piece for c in chunks for piece in c.pieces)
  return Stored(chunks[0].dtype, tuple(shape), pieces)


def flatten(
  tree: Mapping[str, Tree], prefix: str = ""
) -> Iterator[tuple[str, Tree]]:
  """Yields ("a/b/c", value) of all that is no map; empty maps have none."""
  for name, value in tree.items():
    if isinstance(value, Mapping):
      yield from flatten(value, f"{prefix}{name}/")
    else:
      yield f"{prefix}{name}", value


def write(file: BinaryIO, tree: Mapping[str, Any]) -> None:
  """Writes a tree as Flax does, an array at a time.

  Args:
    file: open for writing.
    tree: dicts with names as keys; leaves are arrays, functions that return
      one (called when it is written), or Python's scalars.
  """
  file.write(msgpack.Packer().pack_map_header(len(tree)))
  for name, value in tree.items():
    file.write(msgpack.packb(name))
    if isinstance(value, Mapping):
      write(file, value)
    elif callable(value) or isinstance(value, np.ndarray):
      _write_array(file, np.asarray(value() if callable(value) else value))
    else:
      file.write(msgpack.packb(value))


def _write_array(file: BinaryIO, array: np.ndarray) -> None:
  """Writes an array, in chunks where it is large."""
  if array.nbytes <= CHUNK_BYTES:
    payload = msgpack.packb((array.shape, array.dtype.name, array.tobytes()))
    file.write(msgpack.packb(msgpack.ExtType(_ARRAY, payload)))
    return
  count = max(1, CHUNK_BYTES // array.dtype.itemsize)
  flat = array.reshape(-1)
  chunks = [flat[i : i + count] for i in range(0, flat.size, count)]
  write(
    file,
    {
      _CHUNKED: True,
      "shape": {str(i): n for i, n in enumerate(array.shape)},
      "chunks": {str(i): chunk for i, chunk in enumerate(chunks)},
    },
  )
