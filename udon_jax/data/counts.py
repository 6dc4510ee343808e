"""Whether data has the counts of UnED's table."""

from collections.abc import Mapping, Sequence
import logging

from udon_jax import domains as domain_table
from udon_jax import errors
from udon_jax.data import layout

logger = logging.getLogger(__name__)

CHECKS = ("uned",)
# A marker of the synthetic stand-in, whose counts are never UnED's.
_SYNTHETIC = "synthetic.json"
_CLASSES = "train classes"
_MAX_SHOWN = 3


def check(
  layouts: Sequence[layout.Layout],
  *,
  num_examples: Mapping[tuple[str, str], int],
  num_classes: Mapping[str, int],
  data_check: str | None,
  key: str,
) -> None:
  """Compares counts with those of UnED; domains that it lacks are passed.

  Data that differs is told of in one line of the log, unless it is synthetic.

  Args:
    layouts: where the data lies.
    num_examples: images of every (domain, split).
    num_classes: training classes of domains.
    data_check: "uned" makes a difference an error; None allows it.
    key: what the user sets `data_check` with, for the message.

  Raises:
    UserError: a count differs and `data_check` is "uned", or it is unknown.
  """
  if data_check is not None and data_check not in CHECKS:
    raise errors.UserError(
      f"{key}={data_check} is unknown; known: {', '.join(CHECKS)}"
    )
  found = _differences(num_examples, num_classes)
  if not found:
    return
  roots = ", ".join(dict.fromkeys(str(x.root) for x in layouts))
  listed = ", ".join(found[:_MAX_SHOWN])
  if len(found) > _MAX_SHOWN:
    listed += f" and {len(found) - _MAX_SHOWN} more"
  if data_check:
    raise errors.UserError(
      f"{key}={data_check}: {roots} differs from UnED's table: {listed};"
      " complete the data, or leave the check out"
    )
  if not all((place.root / _SYNTHETIC).exists() for place in layouts):
    logger.warning(
      "data differs from UnED's table: %s; fine for your own data, %s=uned"
      " makes it an error",
      listed,
      key,
    )


def _differences(
  num_examples: Mapping[tuple[str, str], int], num_classes: Mapping[str, int]
) -> Sequence[str]:
  """Returns every count that is not UnED's, with UnED's in parentheses."""
  found = []
  for name, spec in domain_table.UNED.items():
    for split, wanted in spec.num_examples.items():
      number = num_examples.get((name, split), wanted)
      if number != wanted:
        found.append(f"{name} {split} {number:,} ({wanted:,})")
    wanted = spec.num_classes
    number = num_classes.get(name, wanted)
    if number != wanted:
      found.append(f"{name} {_CLASSES} {number:,} ({wanted:,})")
  return found
