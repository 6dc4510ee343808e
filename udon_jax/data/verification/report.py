"""Findings as text for people and as JSON for programs."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
import contextlib
import dataclasses
import itertools
import json
import os

from etils import epath

from udon_jax import errors
from udon_jax.data.verification import findings, infos, whole

_HEAD = (
  *("domain", "split", "images", "classes"),
  *("fewest", "median", "most", "singletons"),
)
_EXPLANATION = (
  "fewest, median and most images of a class; singletons are classes of one"
)


def count(found: Iterable[findings.Group]) -> int:
  """Returns the number of findings."""
  return sum(group.count for group in found)


def to_text(result: whole.Result, *, max_shown: int) -> str:
  """Returns a report: the table, findings by kind, and a last line of counts.

  Args:
    result: what was found.
    max_shown: findings of a kind that are shown; the others are counted.
  """
  parts = [_table(result.rows)] if result.rows else []
  parts += _by_kind(result.found, findings.KINDS, max_shown=max_shown)
  for part in _by_kind(result.notes, findings.NOTES, max_shown=max_shown):
    parts.append(f"note: {part}")
  kinds = len({group.kind for group in result.found})
  number = count(result.found)
  last = "no findings"
  if number:
    last = (
      f"{number:,} finding{'s' * (number > 1)} in {kinds}"
      f" kind{'s' * (kinds > 1)}"
    )
  return "\n\n".join([*parts, last])


def _table(rows: Sequence[infos.Row]) -> str:
  cells = [_HEAD, *(tuple(map(_cell, dataclasses.astuple(r))) for r in rows)]
  widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
  lines = [
    "  ".join(
      cell.ljust(width) if i < 2 else cell.rjust(width)
      for i, (cell, width) in enumerate(zip(row, widths, strict=True))
    )
    for row in cells
  ]
  return "\n".join([*lines, _EXPLANATION])


def _cell(value: str | int | float) -> str:
  if isinstance(value, str):
    return value
  return f"{value:,.1f}".removesuffix(".0")


def _by_kind(
  found: Sequence[findings.Group],
  meanings: Mapping[str, str],
  *,
  max_shown: int,
) -> Iterator[str]:
  """Yields a paragraph for each kind, in the order of their meanings."""
  for kind, meaning in meanings.items():
    groups = [group for group in found if group.kind == kind]
    if not groups:
      continue
    number = count(groups)
    members = itertools.chain.from_iterable(groups)
    shown = list(itertools.islice(members, max_shown))
    lines = [f"{kind} ({number:,}): {meaning}"]
    lines += [f"  {finding.message}" for finding in shown]
    if number > len(shown):
      lines.append(f"  ... and {number - len(shown):,} more")
    yield "\n".join(lines)


def check_output(path: epath.Path) -> None:
  """Raises a UserError if a report cannot be written there."""
  _write(path, None)


def write_json(path: epath.Path, result: whole.Result) -> None:
  """Writes all findings, in the place of a file that may be there, at once.

  Raises:
    UserError: it cannot be written.
  """
  by_kind: dict[str, int] = {}
  for group in result.found:
    by_kind[group.kind] = by_kind.get(group.kind, 0) + group.count
  value = {
    "num_findings": count(result.found),
    "num_by_kind": by_kind,
    "splits": [dataclasses.asdict(row) for row in result.rows],
    "findings": [one.to_json() for group in result.found for one in group],
    "notes": [one.to_json() for group in result.notes for one in group],
  }
  _write(path, json.dumps(value, indent=1) + "\n")


def _write(path: epath.Path, text: str | None) -> None:
  """Writes a file beside its place and puts it there; None only tries."""
  temporary = path.parent / f".{path.name}.{os.getpid()}.tmp"
  try:
    if path.is_dir():
      raise IsADirectoryError(0, "it is a folder")
    temporary.write_text(text or "")
    if text is not None:
      temporary.replace(path)
  except OSError as error:
    raise errors.UserError(
      f"--output={path} cannot be written ({error.strerror or error}); name a"
      " file in a folder that you may write to"
    ) from None
  finally:
    with contextlib.suppress(OSError):
      temporary.unlink(missing_ok=True)
