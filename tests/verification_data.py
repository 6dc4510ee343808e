"""Small sound data of four domains, and what a verification says of it."""

import collections
import json

from tests import data_files
from udon_jax import domains
from udon_jax.data import layout, verification
from udon_jax.data.verification import findings

MINE = domains.DomainSpec(
  "mine",
  val=domains.Protocol("val", "val"),
  test=domains.Protocol("test", "index"),
)
SPECS = (*(domains.UNED[name] for name in ("cars", "inshop", "met")), MINE)
# Classes of every image; those of Met's test are its training classes.
CLASSES = {
  "cars": {"train": [0, 1, 2, 0, 1, 2], "val": [3, 3], "test": [5, 5, 6, 6]},
  "inshop": {
    "train": [0, 1, 1],
    "val": [2, 2],
    "test": [3, 4],
    "index": [[3], [4, 5], 5],
  },
  "met": {"train": [0, 1, 0, 1], "val": [0, 1], "test": [1, [0, 1]]},
  "mine": {
    "train": [0, 1],
    "val": [2, 2],
    "test": [3, 4],
    "index": [4, 3],
  },
}


def read(root, domain, split):
  return json.loads((root / f"info_files/{domain}/{split}.json").read_text())


def write(root):
  """Writes sound data with its records."""
  seed = 0
  for domain, splits in CLASSES.items():
    for split, classes in splits.items():
      entries = []
      for i, class_id in enumerate(classes):
        path = f"{domain}/{split}/{i}.jpg"
        file = root / "images" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        seed += 1
        file.write_bytes(data_files.encode(seed, size=(12, 10)))
        entries.append({"path": path, "class_id": class_id})
      data_files.write_info(root, domain, split, entries)
  trained = read(root, "met", "train")
  data_files.write_info(root, "met", "index", trained)
  data_files.write_info(root, "met", "small_index", trained[:2])
  data_files.prepare(root)


def verify(root, *, images=False, uned=False, specs=SPECS):
  place = layout.find(root)
  return verification.verify(
    [(spec, place) for spec in specs],
    class_rule=verification.of_uned,
    uned=uned,
    images=images,
    num_workers=2,
  )


def counts(groups):
  found = collections.Counter()
  for group in groups:
    assert group.kind in findings.KINDS
    assert len(list(group)) == group.count > 0
    found[group.kind] += group.count
  return dict(found)


def messages(result):
  """The messages of all findings and notes, each naming a file that exists."""
  found = [one for g in (*result.found, *result.notes) for one in g]
  for one in found:
    assert one.file in one.message
    assert "\n" not in one.message
  return [one.message for one in found]


def relabel(domain, split, entry, class_id):
  """An edit of an info file: another class."""

  def edit(root):
    entries = read(root, domain, split)
    entries[entry]["class_id"] = class_id
    data_files.write_info(root, domain, split, entries)

  return edit
