"""Stand-ins for what pickles of numpy name: types, arrays, their makers.

Nothing here calls what a pickle asks for: a stand-in keeps the parts that
numpy's own function would get, after checking that they fit.

Source: numpy, multiarray.py and descriptor.c.
"""

from collections.abc import Callable
import dataclasses
import math
import re
from typing import Any, BinaryIO

import numpy as np

_MOST_DIMS = 32


@dataclasses.dataclass(frozen=True)
class Span:
  """Bytes that stay in the file; as text, each is a character of it."""

  start: int
  size: int
  text: bool


class Dtype:
  """Stands for a numpy.dtype."""

  def __init__(self, name: Any, *_: Any):
    if not re.fullmatch(r"[fiubO]\d{1,2}", as_name(name), re.ASCII):
      raise ValueError(f"holds arrays of type {as_name(name)!r}")
    self.dtype = np.dtype(as_name(name))

  def build(self, state: Any) -> None:
    """Takes what numpy tells after the name: above all the byte order."""
    _, order, *rest = state
    order = as_name(order)
    if order not in ("<", ">", "|", "=") or rest[:3] != [None] * 3:
      raise ValueError("holds arrays of records")
    self.dtype = self.dtype.newbyteorder(order)  # type: ignore[arg-type]


class Array:
  """Stands for a numpy.ndarray or a scalar of numpy."""

  def __init__(self):
    self.dtype = np.dtype(object)
    self.shape: tuple[int, ...] = ()
    self.order = "C"
    self.data: Any = None

  def build(self, state: Any) -> None:
    """Takes what numpy tells of an array."""
    _, shape, dtype, fortran, data = state
    self.fill(data, dtype, shape, "F" if fortran else "C")

  def fill(self, data: Any, dtype: Any, shape: Any, order: str) -> None:
    """Takes the parts of an array, after checking that they fit.

    Raises:
      ValueError: they do not.
    """
    if not isinstance(dtype, Dtype) or not isinstance(shape, tuple):
      raise ValueError("holds an array without type or shape")
    if len(shape) > _MOST_DIMS or not all(
      type(x) is int and x >= 0 for x in shape
    ):
      raise ValueError("holds an array of an impossible shape")
    self.dtype, self.shape, self.order = dtype.dtype, shape, order
    self.data = data
    if self.dtype.hasobject:
      return
    if not isinstance(data, bytes | Span):
      raise ValueError("holds an array without bytes")
    size = data.size if isinstance(data, Span) else len(data)
    text = isinstance(data, Span) and data.text  # of unknown size
    if not text and size != math.prod(shape) * self.dtype.itemsize:
      raise ValueError("holds an array whose bytes do not fit its shape")

  def read(self, file: BinaryIO) -> np.ndarray:
    """Returns the array."""
    if isinstance(self.data, Span) and not self.data.text:
      value = np.empty(math.prod(self.shape), self.dtype)
      file.seek(self.data.start)
      if file.readinto(value.view(np.uint8)) != value.nbytes:  # type: ignore[attr-defined]
        raise EOFError("the file ends early")
    else:
      data = self.data
      if isinstance(data, Span):
        file.seek(data.start)
        data = file.read(data.size).decode().encode("latin1")
      value = np.frombuffer(data, self.dtype)
    return value.reshape(self.shape, order=self.order)  # type: ignore[call-overload]


def as_name(value: Any) -> str:
  """Returns a short text; Python 2 wrote it as bytes."""
  if isinstance(value, bytes):
    value = value.decode("ascii")
  if not isinstance(value, str):
    raise ValueError(f"holds a {type(value).__name__} for a name")
  return value


def _reconstruct(kind: Any, *_: Any) -> Array:
  if kind is not _ndarray:
    raise ValueError("holds an array of a class of its own")
  return Array()


def _scalar(dtype: Any, data: Any) -> Array:
  result = Array()
  result.fill(data, dtype, (), "C")
  return result


def _frombuffer(data: Any, dtype: Any, shape: Any, order: Any) -> Array:
  if order not in ("C", "F"):
    raise ValueError("holds an array of unknown order")
  result = Array()
  result.fill(data, dtype, shape, order)
  return result


def _ndarray(*_: Any) -> Any:
  raise ValueError("calls numpy.ndarray")


def _encode(text: Any, encoding: Any) -> bytes | Span:
  """Stands for how protocol 2 writes bytes: as text of latin1."""
  if encoding != "latin1":
    raise ValueError("calls _codecs.encode with another encoding than latin1")
  if isinstance(text, Span) and text.text:
    return text
  return as_name(text).encode("latin1")


# What may be named; calls of these alone are recognised.
KNOWN: dict[str, Callable[..., Any]] = {
  "numpy._core.multiarray._reconstruct": _reconstruct,
  "numpy._core.multiarray.scalar": _scalar,
  "numpy._core.numeric._frombuffer": _frombuffer,
  "numpy.ndarray": _ndarray,
  "numpy.dtype": Dtype,
  "_codecs.encode": _encode,
  "__builtin__.bytes": lambda: b"",  # how protocol 2 writes no bytes
  "collections.OrderedDict": lambda: {},
}
