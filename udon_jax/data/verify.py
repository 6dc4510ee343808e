"""Tells whether data is sound, before anybody trains on it.

  python -m udon_jax.data.verify --config=configs/X.py [--config.data_dir=DIR]
  python -m udon_jax.data.verify --data_dir=DIR [--domains=cars,sop] [--images]

Prints counts and findings. Exit code 0 if nothing was found, 1 if something
was, 2 for bad usage. Without --images, no image is read.
"""

from collections.abc import Mapping, Sequence
import functools

from absl import flags
from etils import epath
from ml_collections import config_flags

from udon_jax import (
  build,
  checks,
  cli,
  cpus,
  domains,
  errors,
  own_domains,
  trained,
)
from udon_jax.data import layout, notes, places, verification
from udon_jax.data.verification import report

_CONFIG = config_flags.DEFINE_config_file(
  "config", None, "A file of configs/, which tells data and domains."
)
_DATA_DIR = flags.DEFINE_string(
  "data_dir", None, "A data directory, or its tfds/ folder; without --config."
)
_INFO_FILES = flags.DEFINE_string(
  "info_files", None, "Folder of the info files, if not in --data_dir."
)
_DOMAINS = flags.DEFINE_list(
  "domains", None, "Domains to verify; all with info files by default."
)
_UNED = flags.DEFINE_bool(
  "uned", False, "Makes other counts than those of UnED's table a finding."
)
_IMAGES = flags.DEFINE_bool(
  "images", False, "Also reads, decodes and compares all images."
)
_NUM_WORKERS = flags.DEFINE_integer(
  "num_workers",
  None,
  "Threads that read; one for each CPU by default.",
  lower_bound=1,
)
_OUTPUT = flags.DEFINE_string(
  "output", None, "A JSON file for all findings, replaced if it is there."
)
_MAX_SHOWN = flags.DEFINE_integer(
  "max_shown", 5, "Findings of a kind to print.", lower_bound=0
)


def main(_: Sequence[str]) -> int:
  """Verifies as the flags say; returns 0 if the data is sound, 1 if not."""
  own: Mapping[str, own_domains.OwnDomain] = {}
  if _CONFIG.value is None:
    found = _of_flags()
  else:
    found, own = _of_config()
  output = _OUTPUT.value and epath.Path(_OUTPUT.value).expanduser()
  if output:
    report.check_output(output)
  result = verification.verify(
    [(place.spec, place.layout) for place in found],
    class_rule=functools.partial(_class_rule, _made(found, own)),
    uned=_UNED.value,
    images=_IMAGES.value,
    num_workers=_NUM_WORKERS.value or cpus.count(),
  )
  print(report.to_text(result, max_shown=_MAX_SHOWN.value))  # noqa: T201
  if output:
    report.write_json(output, result)
  return int(bool(result.found))


def _of_config() -> tuple[
  list[places.Place], Mapping[str, own_domains.OwnDomain]
]:
  """Returns the domains of --config, and those that it describes."""
  for flag in (_DATA_DIR, _INFO_FILES, _DOMAINS):
    if flag.present:
      raise errors.UserError(
        f"--{flag.name} does not go with --config; override the config's own"
        " value, such as --config.data_dir=DIR"
      )
  config = build.with_own_file(_CONFIG.value)
  checks.check(config)
  return trained.find_places(config), trained.own(config)


def _of_flags() -> list[places.Place]:
  """Returns the domains of --data_dir."""
  if _DATA_DIR.value is None:
    raise errors.UserError(
      "--data_dir is missing; give the folder that holds info_files/ and tfds/,"
      " or --config=configs/X.py"
    )
  place = layout.find(
    _DATA_DIR.value, info_files=_INFO_FILES.value, key="--data_dir"
  )
  root = place.info_files
  try:
    known = sorted(path.name for path in root.iterdir() if path.is_dir())
  except OSError:  # none there, or closed to us
    known = []
  if not known:
    raise errors.UserError(
      f"{root} holds no <domain>/<split>.json that can be read; copy the info"
      " files of the data set there, or name their folder: --info_files=DIR"
    )
  names = known if _DOMAINS.value is None else _DOMAINS.value
  if not names or len(set(names)) != len(names):
    raise errors.UserError(
      f"--domains={','.join(names)} must name at least one domain, each once"
    )
  for name in names:
    if name not in known:
      raise errors.UserError(
        f"--domains: {root / name} is missing; domains with info files:"
        f" {', '.join(known)}"
      )
  return places.find(
    _DATA_DIR.value,
    domains=names,
    own={},
    info_files=_INFO_FILES.value,
    key="--data_dir",
  )


def _made(
  found: Sequence[places.Place], own: Mapping[str, own_domains.OwnDomain]
) -> dict[str, str | None]:
  """Returns what splits were made by, by the name of the domain."""
  made = {}
  for place in found:
    described = own[place.name].splits if place.name in own else None
    kept = notes.splits_by(place.layout.info_files, place.name)
    made[place.name] = described.by if described else kept
  return made


def _class_rule(
  made: Mapping[str, str | None], spec: domains.DomainSpec
) -> verification.Classes:
  """Returns how classes of training and evaluation relate.

  Args:
    made: what splits were made by, by the name of the domain; None if not
      by us.
    spec: the domain.
  """
  by = made.get(spec.name)
  if by is None:
    return verification.of_uned(spec)
  is_new = by == own_domains.BY_CLASS
  return verification.Classes.NEW if is_new else verification.Classes.TRAINED


if __name__ == "__main__":
  cli.run(main)
