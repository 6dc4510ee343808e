"""Small info files, and vectors for them in every form."""

import json

from etils import epath
import numpy as np

from udon_jax.data import descriptors

# Images of every split: two domains whose test index is the queries or not.
SIZES = {
  ("cars", "val"): 6,
  ("cars", "test"): 11,
  ("inshop", "val"): 5,
  ("inshop", "test"): 7,
  ("inshop", "index"): 13,
}
TEST = (("cars", "test"), ("inshop", "test"), ("inshop", "index"))
NAMES = {"student_embedd": 4, "backbone_out_embedd": 6}
FORMS = ("json", "pkl", "npz", "npy")


def write_info(folder):
  """Writes info files; some images have two classes."""
  for i, ((domain, split), size) in enumerate(SIZES.items()):
    rng = np.random.default_rng([1, i])
    entries = [
      {"path": f"{domain}/{split}/{j}.jpg", "class_id": int(rng.integers(3))}
      for j in range(size)
    ]
    entries[2]["class_id"] = [0, 2]
    file = folder / domain / f"{split}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(entries))
  return folder


def draw(dim, *, seed=0, keys=tuple(SIZES)):
  """Returns unit rows by (domain, split); some rows stand there twice."""
  rng = np.random.default_rng([seed, dim])
  few = rng.normal(size=(12, dim))
  few /= np.linalg.norm(few, axis=1, keepdims=True)
  return {
    key: few[rng.integers(0, len(few), SIZES[key])].astype("f4") for key in keys
  }


def nested(rows):
  """Returns {domain: {split: lists}}."""
  found = {}
  for (domain, split), values in rows.items():
    found.setdefault(domain, {})[split] = values.tolist()
  return found


def write(folder, form, by_name):
  """Writes vectors in one form; a name of None writes the nameless one."""
  path = folder / f"rows_{form}" / f"rows.{form}"
  path.parent.mkdir(exist_ok=True)
  if form in ("json", "pkl"):
    found = {}
    for name, rows in by_name.items():
      for domain, splits in nested(rows).items():
        for split, values in splits.items():
          group = found.setdefault(domain, {})
          if name is None:
            group[split] = values
          else:
            group.setdefault(split, {})[name] = values
    path.write_text(json.dumps(found))
    return path
  flat = {
    "/".join([*key, *([name] if name else [])]): values
    for name, rows in by_name.items()
    for key, values in rows.items()
  }
  if form == "npz":
    np.savez(path, **flat)
    return path
  for key, values in flat.items():
    file = path.parent / f"{key}.npy"
    file.parent.mkdir(parents=True, exist_ok=True)
    np.save(file, values)
  return path.parent


def read(path, folder, **changes):
  """Returns the descriptors of a file, which lie in a folder."""
  temporary = folder / "temporary"
  temporary.mkdir(exist_ok=True)
  options = {"splits": ["test"], "domains": None, "normalize": True} | changes
  return descriptors.read(
    path,
    info_files=epath.Path(write_info(folder / "info_files")),
    folder=temporary,
    **options,
  )


def contents(rows):
  return {key: values[:] for key, values in rows.items()}
