"""Descriptors as JSON text, read a row at a time.

Either `{domain: {split: [[...], ...]}}` or
`{domain: {split: {embedding: [[...], ...]}}}`. UnED's are of hundreds of
gigabytes as Python lists, so nothing but a row is ever held.
"""

from collections.abc import Callable, Collection, Iterator
import contextlib
import itertools
import pathlib
from typing import Any, BinaryIO

import ijson

from udon_jax import errors

_BUFFER_BYTES = 2**16
_STARTS = ("start_map", "start_array")
_ENDS = ("end_map", "end_array")
# By a word in what the parser says; the last one fits all.
_CURES = {
  "EOF": "the file was cut off; write it again",
  "trailing": "delete what follows the end of the object",
  "": "correct the text there; JSON has neither NaN nor Infinity",
}
_NAMES = {"start_map": "an object", "start_array": "a list", "null": "null"}


class Reader:
  """Walks through one file; knows where it is, for messages."""

  def __init__(self, path: pathlib.Path, file: BinaryIO):
    """Starts reading a file that was opened."""
    self._path = path
    self._keys_above: list[str] = []
    self._detail = ""
    self._events = ijson.basic_parse(
      file, use_float=True, buf_size=_BUFFER_BYTES
    )

  def entries(
    self, splits_of: Callable[[str], Collection[str]]
  ) -> Iterator[tuple[str, str, str | None, Iterator[list[float]]]]:
    """Yields (domain, split, embedding or None, rows), in the file's order.

    Rows must be read before the next entry.

    Args:
      splits_of: the splits that are wanted of a domain; others are skipped.

    Raises:
      UserError: the text is no JSON, or of another form.
    """
    self._expect("start_map", "an object of domains")
    for domain in self._keys():
      wanted = splits_of(domain)
      event, value = self._next()
      if not wanted:
        self._skip(event)
        continue
      if event != "start_map":
        raise self._unexpected(event, value, "an object of splits")
      for split in self._keys():
        event, value = self._next()
        if split not in wanted:
          self._skip(event)
        elif event == "start_array":
          yield domain, split, None, self._rows()
        elif event == "start_map":
          for name in self._keys():
            self._expect("start_array", "a list of vectors")
            yield domain, split, name, self._rows()
        else:
          raise self._unexpected(event, value, "a list of vectors")
    with self._explained():
      next(self._events, None)  # what follows the end is an error

  def _keys(self) -> Iterator[str]:
    """Yields the keys of an object; its values are read in between."""
    while True:
      event, value = self._next()
      if event == "end_map":
        return
      self._keys_above.append(value)
      yield value
      self._keys_above.pop()

  def _rows(self) -> Iterator[list[float]]:
    """Yields the rows of a list, the start of which was read."""
    for number in itertools.count():
      self._detail = f" row {number}"
      event, value = self._next()
      if event == "end_array":
        self._detail = ""
        return
      if event != "start_array":
        raise self._unexpected(event, value, "a list of numbers")
      row: list[float] = []
      append = row.append
      with self._explained():
        for event, value in self._events:
          if event == "number":
            append(value)
          elif event == "end_array":
            break
          else:
            self._detail += f" entry {len(row)}"
            raise self._unexpected(event, value, "a number")
      yield row

  def _skip(self, event: str) -> None:
    """Reads to the end of a value, the first event of which was read."""
    depth = int(event in _STARTS)
    if not depth:
      return
    with self._explained():
      for inner, _ in self._events:
        if inner == "number":
          continue
        depth += (inner in _STARTS) - (inner in _ENDS)
        if not depth:
          return

  def _expect(self, wanted: str, what: str) -> None:
    event, value = self._next()
    if event != wanted:
      raise self._unexpected(event, value, what)

  def _next(self) -> tuple[str, Any]:
    """Returns the next event and its value."""
    with self._explained():
      return next(self._events)

  @contextlib.contextmanager
  def _explained(self) -> Iterator[None]:
    """Turns what the parser raises into a message for people."""
    try:
      yield
    except ijson.JSONError as error:
      text = error.args[0] if error.args else ""
      text = text.decode(errors="replace") if isinstance(text, bytes) else text
      reason = text.strip().split("\n")[0].rstrip(".")
      cure = next(cure for word, cure in _CURES.items() if word in reason)
      raise errors.UserError(f"{self._where()}: {reason}; {cure}") from None

  def _where(self) -> str:
    place = "/".join(self._keys_above) + self._detail
    return f"{self._path}: {place}" if place else f"{self._path}"

  def _unexpected(
    self, event: str, value: Any, wanted: str
  ) -> errors.UserError:
    """Returns the error of a value of another kind."""
    found = _NAMES.get(event, repr(value))
    return errors.UserError(
      f"{self._where()} is {found[:80]}; expected {wanted}, as in "
      "{domain: {split: [[0.6, 0.8], ...]}} or "
      "{domain: {split: {embedding: [[0.6, 0.8], ...]}}}"
    )
