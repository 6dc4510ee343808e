"""What a run will cost, and whether it fits: `python -m udon_jax.plan ...`.

`--config=configs/X.py --mesh=8x4 --chip=v5e` compiles the steps of the run for
devices that need not be there, and reads no data. Exit code 0 if the run fits,
1 if it does not.
"""

from collections.abc import Sequence
import json

from absl import flags
from ml_collections import config_flags

from udon_jax import chips, cli, errors
from udon_jax.planning import absent, costs, page, request

_CONFIG = config_flags.DEFINE_config_file(
  "config", None, "A file of configs/, with an argument after a colon if any."
)
_MESH = flags.DEFINE_string(
  "mesh", None, "Devices along data and fsdp, such as 8x4."
)
_CHIP = flags.DEFINE_string(
  "chip", None, f"Kind of the devices, of {', '.join(chips.CHIPS)}."
)
_CLASSES = flags.DEFINE_list(
  "classes",
  [],
  "Training classes of domains, as NAME:CLASSES or NAME:CLASSES:IMAGES; those "
  "of UnED's domains are known.",
)
_PRICE = flags.DEFINE_float(
  "price", None, "Of an hour of a chip, in any currency.", lower_bound=0.0
)
_MFU = flags.DEFINE_float(
  "mfu",
  None,
  "Share of the chips' peak to expect, as the log of a run shows it.",
  lower_bound=1e-6,
  upper_bound=1.0,
)
_LIBTPU = flags.DEFINE_bool(
  "libtpu", True, "Compiles for TPUs with their own compiler, if installed."
)
_PARAMETERS = flags.DEFINE_bool(
  "parameters", False, "Also shows where every parameter and moment lies."
)
_JSON = flags.DEFINE_bool("json", False, "Prints JSON instead of words.")


def main(_: Sequence[str]) -> int:
  """Plans as the flags say; returns 0 if the run fits, 1 if not."""
  if _CONFIG.value is None:
    raise errors.UserError(
      "--config is missing; for example --config=configs/uned_vitb16.py"
    )
  if _JSON.value and _PARAMETERS.value:
    raise errors.UserError(
      "--parameters is a table and does not go with --json; leave one out"
    )
  data, fsdp = request.parse_mesh(_MESH.value)
  chip = request.parse_chip(_CHIP.value)
  classes = request.parse_classes(_CLASSES.value)
  sources = request.sources(_CONFIG.value, classes)
  absent.prepare()
  found = request.plan(
    _CONFIG.value,
    sources,
    chip=chip,
    data=data,
    fsdp=fsdp,
    use_libtpu=_LIBTPU.value,
  )
  price, mfu = _PRICE.value, _MFU.value
  if _JSON.value:
    print(json.dumps(costs.to_json(found, price=price, mfu=mfu), indent=2))  # noqa: T201
  else:
    if _PARAMETERS.value:
      print(page.write_parameters(found), end="\n\n")  # noqa: T201
    print(page.write(found, price=price, mfu=mfu))  # noqa: T201
  return 0 if found.fits else 1


if __name__ == "__main__":
  cli.run(main)
