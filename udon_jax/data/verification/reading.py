"""Reads all images of some domains, with a bar that shows how far it is."""

from collections.abc import Mapping, Sequence
import logging

import tqdm
from tqdm.contrib import logging as tqdm_logging

from udon_jax import domains
from udon_jax.data import records
from udon_jax.data.verification import (
  contents,
  duplicates,
  findings,
  infos,
  leaks,
)

logger = logging.getLogger("udon_jax.data.verify")
_Key = tuple[str, str]  # (domain, split)


def check(
  specs: Sequence[domains.DomainSpec],
  splits: Mapping[_Key, infos.Split],
  opened: Mapping[_Key, records.RecordFiles | None],
  *,
  class_rule: leaks.ClassRule,
  num_workers: int,
) -> list[findings.Group]:
  """Reads every image; finds damage, and images of the same bytes.

  Args:
    specs: the domains.
    splits: their splits.
    opened: the records of splits; None where image files are read, and
      nothing where there are neither.
    class_rule: how the classes of evaluation relate to those of training.
    num_workers: threads that read and decode.
  """
  found: list[findings.Group] = []
  marked: dict[_Key, leaks.Marked] = {}
  total = sum(
    len(splits[key].paths) if files is None else len(files)
    for key, files in opened.items()
  )
  with (
    tqdm_logging.logging_redirect_tqdm([logging.getLogger("udon_jax")]),
    tqdm.tqdm(total=total, unit=" images", disable=None) as bar,
  ):
    for key, files in opened.items():
      split = splits[key]
      logger.info("%s/%s: images", *key)
      if files is None:
        read = contents.read_files(
          split, num_workers=num_workers, progress=bar.update
        )
      else:
        read = contents.read_records(
          split, files, num_workers=num_workers, progress=bar.update
        )
      found += read.found
      marked[key] = duplicates.mark(split, read.hashes, read.known)
  return found + duplicates.check(specs, marked, class_rule=class_rule)
