"""What stands in the text of a compiled program."""

import math
import re

COLLECTIVES = (
  "all-gather",
  "all-reduce",
  "all-to-all",
  "collective-permute",
  "reduce-scatter",
)


def _sizes(text, operations):
  """Returns the elements of every array that some operations give back."""
  pattern = rf"= (.*?) ({'|'.join(operations)})(-start)?\("
  return [
    math.prod(int(x) for x in dims.split(",") if x)
    for line in text.splitlines()
    if (match := re.search(pattern, line))
    for dims in re.findall(r"\[([\d,]*)\]", match[1])
  ]


def collective_sizes(text):
  """Returns the elements of every array that travels between devices."""
  return _sizes(text, COLLECTIVES)


def copied_sizes(text):
  """Returns the elements of every array that is copied as a whole."""
  return _sizes(text, ["copy"])
