"""Vectors of any form are scored alike, and as the plain loop scores them."""

import dataclasses
import json
import os
import pathlib
import pickle
import re
import shlex
import subprocess
import sys
import textwrap
from unittest import mock
import zipfile

from etils import epath
import numpy as np
import pytest

from tests import command_lines
from tests.oracles import retrieval as oracle
import udon_jax
from udon_jax import domains, errors
from udon_jax.data import descriptors, vectors
from udon_jax.retrieval import protocol

EVALUATE = "udon_jax.evaluate"
METRICS = ("recall@1", "recall@5", "mmp@5")  # of the default config
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


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_rows_as_they_are(tmp_path, form):
  by_name = {name: draw(dim) for name, dim in NAMES.items()}
  if form in ("json", "npz"):
    by_name = {None: by_name["student_embedd"]}
  found = read(write(tmp_path, form, by_name), tmp_path)
  expected = {
    name or "descriptors": {key: rows[key] for key in TEST}
    for name, rows in by_name.items()
  }
  assert found.embeddings.keys() == expected.keys()
  assert not found.odd
  for name, rows in found.embeddings.items():
    assert rows.keys() == set(TEST)
    for key, values in contents(rows).items():
      assert values.dtype == np.float32
      np.testing.assert_array_equal(values, expected[name][key])
      assert rows[key].shape == values.shape
      np.testing.assert_array_equal(rows[key][2:5], values[2:5])
      assert rows[key][5:5].shape == (0, values.shape[1])
  (cars, inshop) = found.tasks["test"]
  assert [cars.domain, inshop.domain] == ["cars", "inshop"]
  assert cars.query is cars.index
  assert inshop.index.keys[3] == "inshop/index/3.jpg"
  assert inshop.index.labels[2].tolist() == [0, 2]


@pytest.mark.parametrize("rows_a_block", [1, 4, 100])
def test_scores_equal_those_of_arrays_and_of_the_loop(tmp_path, rows_a_block):
  rows = draw(5)
  found = read(write(tmp_path, "pkl", {"x": rows}), tmp_path)
  options = {"metrics": ("recall@1", "mmp@5", "map@r"), "per_query": True}
  streamed = protocol.evaluate(
    found.tasks["test"],
    found.embeddings["x"],
    block_bytes=rows_a_block * 20,
    **options,
  )
  whole = protocol.evaluate(found.tasks["test"], rows, **options)
  for kind in ("separate", "merged"):
    loop = oracle.evaluate(
      found.tasks["test"], rows, merged=kind == "merged", k=40
    )
    assert streamed[kind] == whole[kind]
    for domain in ("cars", "inshop"):
      assert streamed[kind][domain] == pytest.approx(loop[domain], rel=1e-12)
    both = (x["per_query"][kind] for x in (streamed, whole))
    for mine, other in zip(*both, strict=True):
      np.testing.assert_array_equal(mine.scores, other.scores)
      np.testing.assert_array_equal(mine.neighbours, other.neighbours)


@pytest.mark.parametrize("dtype", ["<f2", "<f4", ">f4", "<f8"])
@pytest.mark.parametrize("form", ["npz", "npy"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_floats_of_every_kind_are_read_as_float32(tmp_path, dtype, form, order):
  rows = {
    key: np.asarray(values, dtype, order=order)
    for key, values in draw(5).items()
  }
  found = read(write(tmp_path, form, {None: rows}), tmp_path)
  for key, values in contents(found.embeddings["descriptors"]).items():
    np.testing.assert_array_equal(values, rows[key].astype(np.float32))
  assert not found.odd


@pytest.mark.parametrize("form", FORMS)
def test_rows_of_other_lengths_are_brought_to_length_1(tmp_path, form):
  unit = draw(5)
  rng = np.random.default_rng(2)
  rows = {
    key: values * rng.uniform(0.1, 10, (len(values), 1)).astype("f4")
    for key, values in unit.items()
  }
  rows["cars", "test"] = unit["cars", "test"] + 0
  rows["cars", "test"][7] *= 1000
  path = write(tmp_path, form, {"x": rows})
  found = read(path, tmp_path)
  for key, values in contents(found.embeddings["x"]).items():
    np.testing.assert_allclose(values, unit[key], atol=2e-7)
  assert found.odd == ["x: row 7 of cars/test has 1000"]
  as_given = read(path, tmp_path, normalize=False)
  assert as_given.odd == found.odd
  for key, values in contents(as_given.embeddings["x"]).items():
    np.testing.assert_array_equal(values, rows[key])


def test_one_odd_row_has_all_rows_of_its_embedding_divided(tmp_path):
  rows = draw(5)
  rows["cars", "test"][0] *= 1.0005  # as float16 may round it
  as_they_are = read(write(tmp_path, "pkl", {"x": rows}), tmp_path)
  assert not as_they_are.odd
  rows["inshop", "index"][3] *= 1.01
  path = write(tmp_path, "pkl", {"x": rows, "y": draw(5)})
  found = read(path, tmp_path)
  first = found.embeddings["x"]["cars", "test"][:1]
  np.testing.assert_allclose(np.linalg.norm(first), 1, rtol=1e-7)
  other = found.embeddings["y"]["cars", "test"]
  np.testing.assert_array_equal(other[:], draw(5)["cars", "test"])


def test_normalized_rows_depend_on_themselves_alone(tmp_path):
  rows = np.random.default_rng(3).normal(size=(300, 700)).astype("f4")
  np.save(tmp_path / "x.npy", rows)
  expected = vectors.Expected("x", 300, epath.Path("x.json"))
  found = vectors.inspect(tmp_path / "x.npy", expected)
  found = dataclasses.replace(found, normalize=True)
  single = np.concatenate([found[i : i + 1] for i in range(300)])
  np.testing.assert_array_equal(found[:], single)


def test_domains_can_be_chosen_and_come_in_the_order_of_uned(tmp_path):
  rows = nested(draw(5))
  rows = {"unknown": {"x": 3}, "inshop": rows["inshop"], "cars": rows["cars"]}
  (tmp_path / "rows.json").write_text(json.dumps(rows))
  found = read(
    tmp_path / "rows.json",
    tmp_path,
    splits=["val", "test"],
    domains=["inshop", "cars"],
  )
  for split in ("val", "test"):
    assert [task.domain for task in found.tasks[split]] == ["cars", "inshop"]
  assert found.embeddings["descriptors"].keys() == SIZES.keys()
  found = read(tmp_path / "rows.json", tmp_path, domains=["inshop"])
  assert found.embeddings["descriptors"].keys() == set(TEST[1:])


def test_the_cause_and_room_are_named_when_the_disk_fails(tmp_path):
  path = write(tmp_path, "json", {None: draw(5)})
  with pytest.raises(errors.UserError, match="room for its vectors"):
    descriptors.read(
      path,
      info_files=epath.Path(write_info(tmp_path / "info_files")),
      splits=["test"],
      domains=None,
      normalize=True,
      folder=tmp_path / "missing",
    )


# What the command line says --------------------------------------------------


class Evil:
  """An object whose pickle creates a file when it is read."""

  def __init__(self, path):
    self.path = path

  def __reduce__(self):
    return pathlib.Path.touch, (self.path,)


def changed(change, *, dim=5):
  """Returns {domain: {split: lists}} after a change of it."""
  found = nested(draw(dim, keys=TEST))
  change(found)
  return found


def set_row(domain, split, row, value):
  def change(found):
    found[domain][split][row] = value

  return change


def drop(domain, split):
  return lambda found: found[domain].pop(split)


JSON_MISTAKES = {
  "ragged": (set_row("cars", "test", 4, [1.0]), ("cars/test: row 4 has 1",)),
  "nested": (
    set_row("cars", "test", 4, [[1.0]]),
    ("cars/test row 4 entry 0 is a list", "expected a number"),
  ),
  "text": (
    set_row("inshop", "index", 3, [0.5, "x", 0, 0, 0]),
    ("inshop/index row 3 entry 1 is 'x'", "expected a number"),
  ),
  "null": (
    set_row("inshop", "index", 3, None),
    ("inshop/index row 3 is null", "expected a list of numbers"),
  ),
  "nan": (
    set_row("inshop", "test", 6, [0.5, float("nan"), 0, 0, 0]),
    ("inshop/test row 6", "NaN nor Infinity"),
  ),
  "huge": (
    set_row("inshop", "test", 6, [1e300, 0, 0, 0, 0]),
    ("inshop/test: row 6 holds NaN, infinite or huge",),
  ),
  "zero": (
    set_row("cars", "test", 10, [0, 0, 0, 0, 0]),
    ("cars/test: row 10 is zero",),
  ),
  "empty row": (
    set_row("cars", "test", 0, []),
    ("cars/test: row 0 is empty",),
  ),
  "too few": (
    lambda found: found["cars"]["test"].pop(),
    ("cars/test has 10 vectors", "cars/test.json lists 11 images"),
  ),
  "too many": (
    lambda found: found["cars"]["test"].append([1, 0, 0, 0, 0]),
    ("cars/test has more than 11 vectors", "lists 11 images"),
  ),
  "no vectors": (
    lambda found: found["cars"].update(test=[]),
    ("cars/test has 0 vectors",),
  ),
  "missing index": (drop("inshop", "index"), ("inshop/index is missing",)),
  "missing queries": (drop("inshop", "test"), ("inshop/test is missing",)),
  "empty domain": (
    lambda found: found.update(cars={}),
    ("cars/test is missing",),
  ),
  "no domain": (lambda found: found.clear(), ("holds no domain", "cars, sop")),
  "unknown domain": (
    lambda found: found.update(carz=found.pop("cars")),
    ("domain 'carz' is unknown", "known: cars, sop", "--domains"),
  ),
  "domain of a list": (
    lambda found: found.update(cars=[]),
    ("cars is a list", "an object of splits"),
  ),
  "split of a number": (
    lambda found: found["cars"].update(test=3),
    ("cars/test is 3", "a list of vectors"),
  ),
  "embedding of a number": (
    lambda found: found["cars"].update(test={"x": 3}),
    ("cars/test/x is 3", "a list of vectors"),
  ),
  "embedding in one split": (
    lambda found: found["cars"].update(test={"x": found["cars"]["test"]}),
    ("inshop/index of embedding 'x' is missing",),
  ),
  "name with a slash": (
    lambda found: found["cars"].update(test={"../x": found["cars"]["test"]}),
    ("'../x' cannot name a file",),
  ),
  "dimensions": (
    lambda found: found["cars"].update(test=[[1.0, 0]] * 11),
    ("several dimensions", "'cars/test': 2"),
  ),
}
GOOD = "--descriptors=FOLDER/rows_json/rows.json"
INFO = "--info_files=FOLDER/info_files"
FILE_MISTAKES = {
  "truncated": ("cut off", "cars/test row"),
  "no object": ("holds something else", "expected JSON"),
  "garbage behind": ("trailing garbage", "delete what follows"),
  "split twice": ("cars/test stands there twice",),
  "nothing": ("is empty", "expected JSON"),
  "evil.pkl": ("is a pickle", "refused", "save the vectors as .npz"),
  "evil_0.pkl": ("is a pickle", "refused"),
  "torn.npz": ("torn.npz is damaged",),
  "flipped.npz": ("cars/test is damaged", "CRC"),
  "objects.npz": ("cars/test holds Python objects", "refused"),
  "keys.npz": ("key 'embeddings'", "domain/split"),
  "integers.npz": ("cars/test is int64", "float16, float32, float64"),
  "vector.npz": ("cars/test is (11,)", "one matrix"),
  "nan.npz": ("inshop/index: row 5 holds NaN",),
  "count.npz": ("cars/test has 12 vectors", "lists 11 images"),
  "torn_folder": ("cars/test is damaged",),
  "text_folder": ("cars/test holds Python objects or is no .npy",),
  "empty_folder": ("holds no domain",),
}
FLAG_MISTAKES = {
  "with a run": ((GOOD, INFO, "--workdir=x"), ("--workdir does not go with",)),
  "with a step": ((GOOD, INFO, "--step=3"), ("--step does not go with",)),
  "with data": ((GOOD, INFO, "--data=x"), ("--data does not go with",)),
  "domains of a run": (
    ("--workdir=x", "--domains=cars"),
    ("--domains does not go without --descriptors",),
  ),
  "no info files": ((GOOD,), ("--info_files is missing",)),
  "info files nowhere": (
    (GOOD, "--info_files=FOLDER/nowhere"),
    ("--info_files=", "is no folder"),
  ),
  "info files of others": (
    (GOOD, "--info_files=FOLDER/empty_folder"),
    ("empty_folder/cars/test.json is missing; every split",),
  ),
  "no such file": (
    ("--descriptors=FOLDER/nowhere.json", INFO),
    ("nowhere.json does not exist",),
  ),
  "domain nobody knows": (
    (GOOD, INFO, "--domains=cars,carz"),
    ("--domains=carz is unknown", "known: cars, sop"),
  ),
  "domain not there": (
    (GOOD, INFO, "--domains=cars,met"),
    ("--domains=met is not in", "which has cars, inshop"),
  ),
  "output is the input": (
    (GOOD, INFO, "--output=FOLDER/rows_json/rows.json"),
    ("--output=", "is taken"),
  ),
  "no splits": ((GOOD, INFO, "--splits="), ("--splits= is unknown",)),
}
RUNS = {
  "json": (GOOD,),
  "pkl": (
    "--descriptors=FOLDER/rows_pkl/rows.pkl",
    "--splits=val,test",
    "--per_query=FOLDER/queries",
  ),
  "npz": (
    "--descriptors=FOLDER/rows_npz/rows.npz",
    "--output=FOLDER/new/npz.json",
  ),
  "npy": ("--descriptors=FOLDER/rows_npy", "--domains=inshop"),
}


def write_files(folder):
  """Writes what FILE_MISTAKES names."""
  text = json.dumps(changed(lambda found: None))
  (folder / "truncated").write_text(text[: len(text) // 4])
  (folder / "no object").write_text("[[1, 2]]")
  (folder / "garbage behind").write_text(text + "}")
  cars = text[text.index('"test": [') : text.index("]]") + 2]
  (folder / "split twice").write_text('{"cars": {' + f"{cars}, {cars}" + "}}")
  (folder / "nothing").write_text("")
  evil = Evil(folder / "executed")
  (folder / "evil.pkl").write_bytes(pickle.dumps(evil))
  (folder / "evil_0.pkl").write_bytes(pickle.dumps(evil, protocol=0))
  rows = {"/".join(key): x for key, x in draw(5, keys=TEST).items()}
  save = {
    "torn": rows,
    "flipped": rows,
    "objects": rows | {"cars/test": np.array([evil] * 11, object)},
    "keys": {"embeddings": rows["cars/test"]},
    "integers": rows | {"cars/test": np.ones((11, 5), np.int64)},
    "vector": rows | {"cars/test": rows["cars/test"][:, 0]},
    "nan": rows | {"inshop/index": rows["inshop/index"].copy()},
    "count": rows | {"cars/test": np.ones((12, 5), np.float32)},
  }
  save["nan"]["inshop/index"][5, 2] = np.nan
  for name, arrays in save.items():
    np.savez(folder / f"{name}.npz", **arrays)
  data = (folder / "torn.npz").read_bytes()
  (folder / "torn.npz").write_bytes(data[:-60])
  with zipfile.ZipFile(folder / "flipped.npz") as archive:
    start = archive.getinfo("cars/test.npy").header_offset
  data = bytearray((folder / "flipped.npz").read_bytes())
  data[start + 200] ^= 1
  (folder / "flipped.npz").write_bytes(data)
  for name in ("torn", "text", "empty"):
    (folder / f"{name}_folder" / "cars").mkdir(parents=True)
  file = folder / "torn_folder" / "cars" / "test.npy"
  np.save(file, rows["cars/test"])
  file.write_bytes(file.read_bytes()[:-1])
  (folder / "text_folder" / "cars" / "test.npy").write_text("not numpy's")
  (folder / "empty_folder" / "cars").rmdir()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  folder = tmp_path_factory.mktemp("descriptors")
  write_info(folder / "info_files")
  write_files(folder)
  student = draw(NAMES["student_embedd"])
  by_name = {name: draw(dim) for name, dim in NAMES.items()}
  for form in FORMS:
    write(folder, form, by_name if form == "pkl" else {None: student})
  for name, (change, _) in JSON_MISTAKES.items():
    (folder / f"json {name}").write_text(json.dumps(changed(change)))
  return folder


@pytest.fixture(scope="module")
def answers(folder):
  """Returns {case: (exit code, output, errors)}."""
  cases = {
    name: (f"--descriptors=FOLDER/json {name}", INFO) for name in JSON_MISTAKES
  }
  cases |= {
    name: (f"--descriptors=FOLDER/{name}", INFO) for name in FILE_MISTAKES
  }
  cases |= {name: flags for name, (flags, _) in FLAG_MISTAKES.items()}
  cases |= {name: (*flags, INFO) for name, flags in RUNS.items()}
  return command_lines.run_all(
    {
      name: [EVALUATE, *(x.replace("FOLDER", str(folder)) for x in flags)]
      for name, flags in cases.items()
    },
    XLA_FLAGS="",
  )


MISTAKES = {name: words for name, (_, words) in JSON_MISTAKES.items()}
MISTAKES |= FILE_MISTAKES
MISTAKES |= {name: words for name, (_, words) in FLAG_MISTAKES.items()}


@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistake_ends_in_one_line_that_names_the_place(answers, case):
  code, output, text = answers[case]
  assert "Traceback" not in output + text
  last = text.splitlines()[-1]
  assert last.startswith("error: ")
  for words in MISTAKES[case]:
    assert words in last
  assert "valid JSON" not in last
  assert code == 2


def test_nothing_is_executed_and_nothing_left_behind(answers, folder):
  assert answers
  assert not (folder / "executed").exists()
  made = {
    str(path.relative_to(folder)) for path in folder.rglob("*results.json")
  }
  assert made == {
    "rows_json/rows.results.json",
    "rows_pkl/rows.results.json",
    "rows_npy.results.json",
  }
  assert [x.name for x in (folder / "new").iterdir()] == ["npz.json"]
  assert not list(folder.rglob(".descriptors.*"))
  assert json.loads((folder / "rows_json" / "rows.json").read_text())


def test_all_forms_give_the_results_of_the_loop(answers, folder):
  for form in RUNS:
    code, _, text = answers[form]
    assert code == 0, text
    assert "separate" in text
    assert "lengths are not 1" not in text
  files = {
    "json": "rows_json/rows.results.json",
    "pkl": "rows_pkl/rows.results.json",
    "npz": "new/npz.json",
    "npy": "rows_npy.results.json",
  }
  found = {k: json.loads((folder / v).read_text()) for k, v in files.items()}
  assert found["json"].keys() == {"descriptors"}
  assert found["pkl"].keys() == NAMES.keys()
  assert found["npz"] == found["json"]
  student = found["pkl"]["student_embedd"]
  assert student.keys() == {"separate", "merged"}
  for kind, by_split in student.items():
    assert list(by_split) == ["val", "test"]
    assert by_split["test"] == found["json"]["descriptors"][kind]["test"]
  chosen = found["npy"]["descriptors"]["separate"]["test"]
  assert chosen["mean"] == chosen["inshop"]
  assert chosen["inshop"] == student["separate"]["test"]["inshop"]
  for name, dim in NAMES.items():
    check_against_the_loop(folder, found["pkl"][name], draw(dim))


def check_against_the_loop(folder, results, rows):
  tasks = read(folder / "rows_json" / "rows.json", folder).tasks["test"]
  for kind in ("separate", "merged"):
    values = results[kind]["test"]
    loop = oracle.evaluate(tasks, rows, merged=kind == "merged", k=40)
    for domain in ("cars", "inshop"):
      assert set(values[domain]) == set(METRICS)
      for metric in ("recall@1", "mmp@5"):
        np.testing.assert_allclose(values[domain][metric], loop[domain][metric])
        mean = (values["cars"][metric] + values["inshop"][metric]) / 2
        assert values["mean"][metric] == mean


def test_neighbours_of_every_query_are_written(answers, folder):
  assert answers
  names = {
    f"{split}_{name}_{kind}.jsonl"
    for split in domains.EVAL_SPLITS
    for name in NAMES
    for kind in ("separate", "merged")
  }
  assert {path.name for path in (folder / "queries").iterdir()} == names
  file = folder / "queries" / "test_student_embedd_merged.jsonl"
  lines = [json.loads(line) for line in file.read_text().splitlines()]
  assert [x["key"] for x in lines[:2]] == ["cars/test/0.jpg", "cars/test/1.jpg"]
  assert len(lines) == SIZES["cars", "test"] + SIZES["inshop", "test"]


# Alone: without TensorFlow, in little memory, stopped halfway -----------------

ALONE = """
  import json, os, pathlib, signal, sys
  for name in {libraries!r}:
    sys.modules[name] = None
  from unittest import mock
  from etils import epath
  from udon_jax import evaluate, reporting
  from udon_jax.data import descriptors

  folder = pathlib.Path(sys.argv[1])

  def peak(name):
    results = evaluate.evaluate_descriptors(
      folder / name,
      info_files=epath.Path(folder / f"{{name}}_info"),
      splits=["test"],
      domain_names=None,
      normalize=True,
      block_bytes=2**23,
      temporary=folder,
      per_query_dir=None,
    )
    mean = results["descriptors"]["merged"]["test"]["mean"]["recall@1"]
    return reporting.peak_memory_gb() * 1e9, mean

  print(json.dumps([peak(name) for name in ("small", "big", "big.json")]))
  sys.stdout.flush()

  def stop(*_, folder, **__):
    (folder / "half").write_text("written")
    os.kill(os.getpid(), signal.SIGTERM)

  with mock.patch.object(descriptors, "read", stop):
    sys.argv = [
      "evaluate",
      f"--descriptors={{folder / 'small'}}",
      f"--info_files={{folder / 'small_info'}}",
    ]
    evaluate.cli.run(evaluate.main)
"""
DIM = 4096
# Rows of the index: 8 MiB are 512 rows.
INDEX = {"small": 1100, "big": 16_000, "big.json": 4000}


def write_large(folder):
  """Writes an index of 250 MiB, and one of 60 MiB and as much text."""
  rng = np.random.default_rng(0)
  for name, size in INDEX.items():
    for split, number in (("test", 3), ("index", size)):
      file = folder / f"{name}_info" / "gldv2" / f"{split}.json"
      file.parent.mkdir(parents=True, exist_ok=True)
      entries = [{"path": f"{i}", "class_id": i % 7} for i in range(number)]
      file.write_text(json.dumps(entries))
  for name in ("small", "big"):
    (folder / name / "gldv2").mkdir(parents=True)
    rows = np.lib.format.open_memmap(
      folder / name / "gldv2" / "index.npy", "w+", "f4", (INDEX[name], DIM)
    )
    block = rng.normal(size=(500, DIM))
    for start in range(0, len(rows), 500):
      rows[start : start + 500] = block[: len(rows) - start] + start
    np.save(folder / name / "gldv2" / "test.npy", block[:3].astype("f4"))
    del rows
  row = "[" + ",".join(["0.5"] * DIM) + "]"
  with (folder / "big.json").open("w") as file:
    file.write('{"gldv2": {"test": [' + ",".join([row] * 3) + '], "index": [')
    file.write(",".join([row] * INDEX["big.json"]) + "]}}")


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
  """Returns the folder, exit code, output and errors of ALONE."""
  folder = tmp_path_factory.mktemp("alone")
  write_large(folder)
  script = ALONE.format(libraries=["tensorflow", "tensorflow_datasets"])
  done = subprocess.run(
    [sys.executable, "-c", textwrap.dedent(script), str(folder)],
    cwd=command_lines.ROOT,
    env={**os.environ, "XLA_FLAGS": "", "JAX_PLATFORMS": "cpu"},
    capture_output=True,
    text=True,
    check=False,
  )
  return folder, done.returncode, done.stdout, done.stderr


def test_memory_is_bounded_whatever_the_form(alone):
  *_, output, text = alone
  assert output, text
  (start, _), (folder_peak, _), (json_peak, mean) = json.loads(output)
  bound, size = 2**23, INDEX["big"] * DIM * 4
  assert folder_peak - start < 8 * bound < size / 3
  assert json_peak - start < 8 * bound
  assert mean == 1 / 3  # all rows tie, and the first is of the first's class


def test_sigterm_leaves_nothing_behind(alone):
  folder, code, _, text = alone
  assert code == 143, text
  assert text.splitlines()[-1].startswith("error: stopped by SIGTERM")
  assert not list(folder.glob(".descriptors.*"))
  assert not list(folder.glob("*results.json"))


def test_the_lines_of_the_readme(tmp_path, monkeypatch):
  """Vectors of a model that knows the classes score everything."""
  text = (command_lines.ROOT / "README.md").read_text()
  (code,) = [
    block
    for block in re.findall(r"^```python\n(.*?)^```", text, re.M | re.S)
    if "savez" in block
  ]
  command = re.search(
    r"^python -m (.*--descriptors=runs/rows.npz \\\n.*)$", text, re.M
  )[1]
  classes = {}
  for domain in ("cars", "rp2k"):
    entries = [
      {"path": f"{domain}/{i}.jpg", "class_id": i % 3} for i in range(9)
    ]
    for entry in entries:
      classes[f"data/mini_uned/images/{entry['path']}"] = entry["class_id"]
    file = tmp_path / "data" / "mini_uned" / "info_files" / domain / "test.json"
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps(entries))
  (tmp_path / "runs").mkdir()
  model = mock.Mock()
  model.embed = lambda paths: np.eye(3)[[classes[path] for path in paths]]
  monkeypatch.setattr(udon_jax, "load", {"runs/quickstart": model}.get)
  monkeypatch.chdir(tmp_path)
  exec(code, {})
  subprocess.run(
    [sys.executable, "-m", *shlex.split(command.replace("\\\n", ""))],
    env={**os.environ, "XLA_FLAGS": "", "PYTHONPATH": str(command_lines.ROOT)},
    check=True,
  )
  found = json.loads((tmp_path / "runs" / "rows.json").read_text())
  separate = found["descriptors"]["separate"]["test"]
  assert separate["cars"] == separate["rp2k"] == dict.fromkeys(METRICS, 1.0)
