"""Hashes of training data, by which a run knows its own.

They cover names and sizes of the training records, which hold the order of the
images, and the training info files; neither the place of the data, nor what
is kept beside the records, nor the evaluation splits.
"""

from collections.abc import Mapping, Sequence
import hashlib
import json
from typing import Any

from etils import epath

from udon_jax import domains
from udon_jax.data import info, layout


def of_domain(
  place: layout.Layout, domain: str, files: Sequence[epath.Path]
) -> str:
  """Returns a hash of one domain's training data.

  Args:
    place: where the data lies.
    domain: name of the domain.
    files: its training records.

  Raises:
    UserError: the info file is missing.
  """
  info_file = place.info_file(domain, domains.TRAIN_SPLIT)
  sizes = [(file.name, file.stat().length) for file in files]
  return _hash([info.fingerprint(info_file), sizes])


def of_all(
  files: Mapping[str, tuple[layout.Layout, Sequence[epath.Path]]],
) -> str:
  """Returns a hash of the training data of some domains; see `of_domain`."""
  return _hash(
    {
      domain: of_domain(place, domain, found)
      for domain, (place, found) in files.items()
    }
  )


def _hash(value: Any) -> str:
  """Returns a short hash of plain values."""
  text = json.dumps(value, sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()[:16]
