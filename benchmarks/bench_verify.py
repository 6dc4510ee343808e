"""Seconds in which a split of a million images is verified.

  python -m benchmarks.bench_verify [--entries=1000000] [--repeats=3]

A domain whose index has so many entries, and small other splits, with neither
images nor records: `verification.verify` from files to findings, and what of it
is the reading of info files. Then with empty image files for all of them, each
of which is looked for. The paths are as long as GLDv2's.
"""

from collections.abc import Sequence
import json
import pathlib
import tempfile

from absl import flags
import numpy as np

from benchmarks import common
from udon_jax import cli, domains
from udon_jax.data import info, layout, verification
from udon_jax.data.verification import findings, infos

_ENTRIES = flags.DEFINE_integer(
  "entries", 1_000_000, "Images of the index.", lower_bound=1000
)
_REPEATS = flags.DEFINE_integer("repeats", 3, "Rounds.", lower_bound=1)
_FOLDER = flags.DEFINE_string("folder", None, "For the files; the system's.")
_HARDWARE = flags.DEFINE_string("hardware", "cpu2", "Named in the result file.")

_NAME = "gldv2"
_PER_CLASS = 10


def write_info(root, split, count, *, first_class):
  """Writes an info file; returns its paths."""
  rng = np.random.default_rng(sum(split.encode()))
  names = rng.bytes(8 * count).hex()
  paths = [
    f"{_NAME}/{split}/{name[0]}/{name[1]}/{name[2]}/{name}.jpg"
    for name in (names[16 * i : 16 * (i + 1)] for i in range(count))
  ]
  file = pathlib.Path(root, "info_files", _NAME, f"{split}.json")
  file.parent.mkdir(parents=True, exist_ok=True)
  entries = [
    {"path": path, "class_id": first_class + i // _PER_CLASS}
    for i, path in enumerate(paths)
  ]
  file.write_text(json.dumps(entries))
  return paths


def write_data(root, count):
  """Writes the info files of a domain; returns all paths."""
  few = count // 100
  num_trained = -(-few // _PER_CLASS)
  return [
    *write_info(root, "train", few, first_class=0),
    *write_info(root, "val", few, first_class=num_trained),
    *write_info(root, "test", few, first_class=10 * num_trained),
    *write_info(root, "index", count, first_class=10 * num_trained),
  ]


def verify(place):
  """Verifies the domain; it must be sound but for what is not there."""
  result = verification.verify(
    [(domains.UNED[_NAME], place)],
    class_rule=verification.of_uned,
    uned=False,
    images=False,
    num_workers=2,
  )
  assert {group.kind for group in result.found} == {findings.RECORDS}
  return result


def main(_: Sequence[str]) -> None:
  """Measures, prints and writes the report."""
  head = common.header("numpy")
  rows = []
  with tempfile.TemporaryDirectory(dir=_FOLDER.value) as root:
    paths = write_data(root, _ENTRIES.value)
    place = layout.find(root)
    file = place.info_file(_NAME, "index")
    ways = {
      "json.loads": lambda: json.loads(file.read_bytes()),
      "info.read_info": lambda: info.read_info(file, split="index"),
      "infos.read": lambda: infos.read(place, _NAME, "index"),
      "verify": lambda: verify(place),
    }
    times = common.interleave(ways, repeats=_REPEATS.value)
    for folder in {str(pathlib.Path(path).parent) for path in paths}:
      pathlib.Path(root, "images", folder).mkdir(parents=True)
    for path in paths:
      pathlib.Path(root, "images", path).touch()
    times |= common.interleave(
      {"verify, files looked for": lambda: verify(place)},
      repeats=_REPEATS.value,
    )
  for name, found in times.items():
    rows.append({"way": name, "entries": len(paths), **found})
  path = common.write(f"verify_{_HARDWARE.value}", head, rows)
  print(common.markdown(rows))
  print(f"written to {path}")


if __name__ == "__main__":
  cli.run(main)
