"""What `evaluate --descriptors` writes, and what it says of mistakes."""

import json
import pathlib
import pickle
import zipfile

import numpy as np
import pytest

from tests import command_lines, compiling
from tests import descriptor_files as files
from tests.oracles import retrieval as oracle
from udon_jax import domains

EVALUATE = "udon_jax.evaluate"
METRICS = ("recall@1", "recall@5", "mmp@5")  # of the default config


class Evil:
  """An object whose pickle creates a file when it is read."""

  def __init__(self, path):
    self.path = path

  def __reduce__(self):
    return pathlib.Path.touch, (self.path,)


def changed(change, *, dim=5):
  """Returns {domain: {split: lists}} after a change of it."""
  found = files.nested(files.draw(dim, keys=files.TEST))
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
    ("domain: 'carz' is unknown", "known domains: cars, sop", "--domains"),
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
  "size of a run": (
    ("--workdir=x", "--image_size=8"),
    ("--image_size does not go with --workdir",),
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
    ("--domains: 'carz' is unknown", "known domains: cars, sop"),
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
  rows = {"/".join(key): x for key, x in files.draw(5, keys=files.TEST).items()}
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
  files.write_info(folder / "info_files")
  write_files(folder)
  student = files.draw(files.NAMES["student_embedd"])
  by_name = {name: files.draw(dim) for name, dim in files.NAMES.items()}
  for form in files.FORMS:
    files.write(folder, form, by_name if form == "pkl" else {None: student})
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
    XLA_FLAGS=compiling.FLAGS,
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
  written = {
    "json": "rows_json/rows.results.json",
    "pkl": "rows_pkl/rows.results.json",
    "npz": "new/npz.json",
    "npy": "rows_npy.results.json",
  }
  found = {k: json.loads((folder / v).read_text()) for k, v in written.items()}
  assert found["json"].keys() == {"descriptors"}
  assert found["pkl"].keys() == files.NAMES.keys()
  assert found["npz"] == found["json"]
  student = found["pkl"]["student_embedd"]
  assert student.keys() == {"separate", "merged"}
  for kind, by_split in student.items():
    assert list(by_split) == ["val", "test"]
    assert by_split["test"] == found["json"]["descriptors"][kind]["test"]
  chosen = found["npy"]["descriptors"]["separate"]["test"]
  assert chosen["mean"] == chosen["inshop"]
  assert chosen["inshop"] == student["separate"]["test"]["inshop"]
  for name, dim in files.NAMES.items():
    check_against_the_loop(folder, found["pkl"][name], files.draw(dim))


def check_against_the_loop(folder, results, rows):
  tasks = files.read(folder / "rows_json" / "rows.json", folder).tasks["test"]
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
    for name in files.NAMES
    for kind in ("separate", "merged")
  }
  assert {path.name for path in (folder / "queries").iterdir()} == names
  file = folder / "queries" / "test_student_embedd_merged.jsonl"
  lines = [json.loads(line) for line in file.read_text().splitlines()]
  assert [x["key"] for x in lines[:2]] == ["cars/test/0.jpg", "cars/test/1.jpg"]
  assert (
    len(lines) == files.SIZES["cars", "test"] + files.SIZES["inshop", "test"]
  )
