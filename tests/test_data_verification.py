"""Sound data has no findings; every damage has its own."""

import collections
import dataclasses
import json
import os
import pathlib
import shutil
import subprocess
import sys

from etils import epath
from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest

from tests import data_files, verification_data
from udon_jax import domains
from udon_jax.data import (
  layout,
  synthetic,
  verification,
)
from udon_jax.data.verification import (
  digests,
  duplicates,
  findings,
  infos,
  leaks,
  protocols,
  report,
)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
  """Sound data with its records, not to be changed."""
  folder = tmp_path_factory.mktemp("sound")
  verification_data.write(folder)
  return folder


@pytest.fixture
def root(prepared, tmp_path):
  """The same, to be changed."""
  return pathlib.Path(shutil.copytree(prepared, tmp_path / "data"))


@pytest.mark.parametrize("images", [False, True])
def test_sound_data_has_no_findings(prepared, images):
  before = data_files.snapshot(prepared)
  result = verification_data.verify(prepared, images=images)
  assert verification_data.messages(result) == []
  assert result.found == result.notes == []
  assert len(result.rows) == sum(
    len(spec.splits) for spec in verification_data.SPECS
  )
  assert data_files.snapshot(prepared) == before


@pytest.mark.parametrize("stored", ["both", "records", "files"])
def test_the_synthetic_set_has_no_findings(tmp_path, stored):
  synthetic.generate(tmp_path, size="smoke", seed=0, num_workers=1)
  if stored != "files":
    data_files.prepare(tmp_path)
  if stored == "records":
    shutil.rmtree(tmp_path / "images")
  result = verification_data.verify(
    tmp_path, images=True, specs=domains.UNED.values()
  )
  number = len(result.rows)
  expected = {findings.RECORDS: number} if stored == "files" else {}
  assert (verification_data.counts(result.found), result.notes) == (
    expected,
    [],
  )


def test_records_of_the_official_converter_are_sound(root):
  for file in (root / "tfds").rglob("*"):
    if file.suffix in (".npy", ".json"):
      file.unlink()
  assert verification_data.verify(root, images=True).found == []


def test_the_table_counts_images_and_classes(prepared):
  rows = {
    (row.domain, row.split): row
    for row in verification_data.verify(prepared).rows
  }
  # Classes 3, 4, 4 + 5, 5: of sizes 1, 1, 2.
  assert rows["inshop", "index"] == infos.Row(
    *("inshop", "index", 3, 3),
    fewest=1,
    median=1.0,
    most=2,
    singletons=2,
  )
  text = report.to_text(verification_data.verify(prepared), max_shown=3)
  assert text.splitlines()[0].split()[:4] == [
    *("domain", "split", "images", "classes")
  ]
  assert text.splitlines()[-1] == "no findings"


def append(domain, split, path, class_id):
  """An edit of an info file: one more entry."""

  def edit(root):
    entries = [
      *verification_data.read(root, domain, split),
      {"path": path, "class_id": class_id},
    ]
    data_files.write_info(root, domain, split, entries)

  return edit


def copy(source, target):
  """An edit of the images: the bytes of one under the name of another."""
  return lambda root: shutil.copy(
    root / "images" / source, root / "images" / target
  )


def both(*edits):
  return lambda root: [edit(root) for edit in edits]


TRAINED = "cars/train/0.jpg"
# Edits, after which the data is prepared again: what is found by kind, what is
# noted, and words of a message.
BY_NAME = {
  "a class without an image": (
    both(
      verification_data.relabel("cars", "train", 1, 0),
      verification_data.relabel("cars", "train", 4, 0),
    ),
    {findings.EMPTY: 1},
    {},
    "cars/train.json: class 1 has no image",
  ),
  "an image twice": (
    append("cars", "train", TRAINED, 0),
    {findings.REPEATED: 1},
    {},
    f"cars/train.json: entry 6: {TRAINED} stands at entry 0 already",
  ),
  "an image twice, written otherwise": (
    append("cars", "train", f"./{TRAINED.replace('/', '//')}", 0),
    {findings.REPEATED: 1},
    {},
    "stands at entry 0 already",
  ),
  "an image in two classes": (
    append("cars", "train", TRAINED, 1),
    {findings.CONFLICT: 1},
    {},
    "is of class 1, but at entry 0 of class 0",
  ),
  "labels that are written otherwise": (
    append("inshop", "index", "inshop/index/1.jpg", [5, 4, 5]),
    {findings.REPEATED: 1},
    {},
    "entry 3: inshop/index/1.jpg stands at entry 1",
  ),
  "a query that is trained": (
    append("cars", "test", TRAINED, 5),
    {findings.LEAK: 1},
    {},
    f"cars/test.json: entry 4: {TRAINED} is also entry 0 of cars/train.json",
  ),
  "a query of both splits": (
    append("cars", "test", "cars/val/1.jpg", 5),
    {findings.LEAK: 1},
    {},
    "is also entry 1 of cars/val.json",
  ),
  "a query that another domain trains": (
    append("cars", "test", "met/train/3.jpg", 5),
    {findings.LEAK: 1},
    {},
    "is also entry 3 of met/train.json",
  ),
  "an index image that is trained": (
    append("inshop", "index", "inshop/train/2.jpg", 5),
    {findings.LEAK: 1},
    {},
    "inshop/index.json: entry 3: inshop/train/2.jpg is also entry 2",
  ),
  "an index image that is trained, of an unknown domain": (
    append("mine", "index", "mine/train/1.jpg", 4),
    {},
    {findings.LEAK: 1},
    "mine/index.json: entry 2",
  ),
  "a query in its index": (
    append("inshop", "index", "inshop/test/1.jpg", 4),
    {},
    {findings.OWN_INDEX: 1},
    "inshop/test.json: entry 1: inshop/test/1.jpg is also entry 3",
  ),
  "a query in an index that is trained": (
    append("met", "test", "met/train/2.jpg", 0),
    {findings.LEAK: 1},
    {findings.OWN_INDEX: 1},
    "met/test.json: entry 2",
  ),
  "classes that are trained": (
    both(
      verification_data.relabel("cars", "test", 0, 2),
      verification_data.relabel("cars", "test", 1, 2),
    ),
    {findings.SHARED: 1},
    {},
    "cars/test.json: entry 0: cars/test/0.jpg is of class 2, which is a",
  ),
  "classes that are trained, of an unknown domain": (
    both(
      verification_data.relabel("mine", "val", 0, 1),
      verification_data.relabel("mine", "val", 1, 1),
    ),
    {},
    {findings.SHARED: 1},
    "mine/val.json: entry 0",
  ),
  "queries without a positive in their own split": (
    verification_data.relabel("cars", "test", 0, 9),
    {findings.UNANSWERABLE: 2},
    {},
    "is of class 9, of which cars/test.json lists no other image",
  ),
  "a query without a positive in its index": (
    verification_data.relabel("inshop", "test", 0, [8, 9]),
    {findings.UNANSWERABLE: 1},
    {},
    "is of classes 8, 9, of which inshop/index.json lists no image",
  ),
}
BY_CONTENT = {
  "a duplicate": (
    copy(TRAINED, "cars/train/3.jpg"),
    {findings.DUPLICATE: 1},
    {},
    f"entry 3: cars/train/3.jpg has the same bytes as entry 0, {TRAINED}",
  ),
  "a duplicate in another class": (
    copy(TRAINED, "cars/train/4.jpg"),
    {findings.CONFLICT: 1},
    {},
    f"same bytes as entry 0, {TRAINED}, but is of class 1, not class 0",
  ),
  "a query that is trained under another name": (
    copy(TRAINED, "cars/test/2.jpg"),
    {findings.LEAK: 1},
    {},
    "cars/test/2.jpg has the same bytes as entry 0 of cars/train.json",
  ),
  "a query that another domain trains under another name": (
    copy("met/train/3.jpg", "cars/test/2.jpg"),
    {findings.LEAK: 1},
    {},
    "has the same bytes as entry 3 of met/train.json",
  ),
  "a query in its index under another name": (
    copy("mine/test/0.jpg", "mine/index/1.jpg"),
    {findings.OWN_INDEX: 1},
    {},
    "mine/test/0.jpg has the same bytes as entry 1 of mine/index.json",
  ),
}


@pytest.mark.parametrize("images", [False, True])
@pytest.mark.parametrize("name", BY_NAME)
def test_mistakes_in_info_files_are_found(root, name, images):
  """With images as without: what its path tells is not told once more."""
  edit, found, noted, words = BY_NAME[name]
  edit(root)
  data_files.prepare(root)
  result = verification_data.verify(root, images=images)
  assert (
    verification_data.counts(result.found),
    verification_data.counts(result.notes),
  ) == (found, noted)
  assert any(words in message for message in verification_data.messages(result))


@pytest.mark.parametrize("stored", ["records", "files"])
@pytest.mark.parametrize("name", BY_CONTENT)
def test_equal_bytes_are_found(root, name, stored):
  edit, found, noted, words = BY_CONTENT[name]
  edit(root)
  shutil.rmtree(root / "tfds")
  if stored == "records":
    data_files.prepare(root)
    shutil.rmtree(root / "images")
  else:
    found = {
      **found,
      findings.RECORDS: sum(len(s.splits) for s in verification_data.SPECS),
    }
  result = verification_data.verify(root, images=True)
  assert (
    verification_data.counts(result.found),
    verification_data.counts(result.notes),
  ) == (found, noted)
  assert any(words in message for message in verification_data.messages(result))


def test_a_query_that_is_the_train_split_is_no_leak(root):
  spec = domains.DomainSpec(
    "mine",
    val=domains.Protocol("train", "train"),
    test=domains.Protocol("train", "train"),
  )
  data_files.write_info(
    root,
    *("mine", "train"),
    [{"path": f"mine/train/{i}.jpg", "class_id": 0} for i in range(2)],
  )
  data_files.prepare(root)
  result = verification_data.verify(root, images=True, specs=[spec])
  assert result.found == result.notes == []
  assert len(result.rows) == 1


def test_notes_are_told_and_not_counted(root):
  append("mine", "index", "mine/train/1.jpg", 1)(root)
  append("inshop", "index", "inshop/test/1.jpg", 4)(root)
  data_files.prepare(root)
  result = verification_data.verify(root)
  assert {group.kind for group in result.notes} == set(findings.NOTES)
  text = report.to_text(result, max_shown=0)
  assert "note: leak (1): index images that are trained too" in text
  assert text.count("  ... and 1 more") == 3
  assert text.splitlines()[-1] == "no findings"


def test_every_rule_of_classes_is_a_choice_of_the_caller(root):
  both(*(verification_data.relabel("cars", "test", i, 2) for i in (0, 1)))(root)
  place = layout.find(root)
  expected = {
    leaks.Classes.NEW: ({findings.SHARED: 1}, {}),
    leaks.Classes.UNKNOWN: ({}, {findings.SHARED: 1}),
    leaks.Classes.TRAINED: ({}, {}),
  }
  data_files.prepare(root)
  for rule, wanted in expected.items():
    result = verification.verify(
      [(domains.UNED["cars"], place)],
      class_rule=lambda _, rule=rule: rule,
      uned=False,
      images=False,
      num_workers=1,
    )
    assert (
      verification_data.counts(result.found),
      verification_data.counts(result.notes),
    ) == wanted


def test_domains_may_lie_in_several_folders(root, prepared):
  """Equal paths in two folders are not one image, but equal bytes are."""
  append("cars", "test", "met/train/3.jpg", 5)(root)
  data_files.prepare(root, domain_names=["cars"])
  places = [
    (domains.UNED["cars"], layout.find(root)),
    (domains.UNED["met"], layout.find(prepared)),
  ]
  for images, found in ((False, {}), (True, {findings.LEAK: 1})):
    result = verification.verify(
      places,
      class_rule=verification.of_uned,
      uned=False,
      images=images,
      num_workers=1,
    )
    assert verification_data.counts(result.found) == found


def test_counts_of_uned_are_compared_on_demand(root):
  result = verification_data.verify(root, uned=True)
  number = sum(1 + len(spec.splits) for spec in verification_data.SPECS[:3])
  assert verification_data.counts(result.found) == {findings.COUNTS: number}
  assert any(
    message.endswith("cars/train.json: 6 images, UnED has 6,346")
    for message in verification_data.messages(result)
  )


@pytest.mark.parametrize("damage", ["cut", "missing", "a folder", "an entry"])
def test_an_unreadable_info_file_does_not_end_the_report(root, damage):
  file = root / "info_files/cars/train.json"
  contents = file.read_text()
  file.unlink()
  if damage == "cut":
    file.write_text(contents[:-5])
  elif damage == "a folder":
    file.mkdir()
  elif damage == "an entry":
    file.write_text(contents.replace('"class_id": 1', '"class_id": -1', 1))
  result = verification_data.verify(root, images=True)
  assert verification_data.counts(result.found) == {findings.INFO: 1}
  assert str(file) in verification_data.messages(result)[0]
  assert (
    len(result.rows)
    == sum(len(spec.splits) for spec in verification_data.SPECS) - 1
  )


WORDS = st.lists(st.sampled_from("abcdefg"), max_size=30)


def hashes(words):
  return digests.pack(digests.of_bytes(word.encode()) for word in words)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(wanted=WORDS, offered=WORDS)
def test_digests_find_what_dictionaries_find(wanted, offered):
  first = {}
  repeated = []
  for row, word in enumerate(wanted):
    if first.setdefault(word, row) != row:
      repeated.append((row, first[word]))
  rows, firsts = digests.repeats(hashes(wanted))
  assert list(zip(rows.tolist(), firsts.tolist(), strict=True)) == repeated
  places = {word: row for row, word in reversed(list(enumerate(offered)))}
  expected = [places.get(word, -1) for word in wanted]
  found = digests.match(hashes(wanted), hashes(offered))
  assert found.tolist() == expected
  # Numbered, the k-th finds the k-th.
  seen, places = collections.Counter(), {}
  for row, word in enumerate(offered):
    places[word, seen[word]] = row
    seen[word] += 1
  seen.clear()
  expected = []
  for word in wanted:
    expected.append(places.get((word, seen[word]), -1))
    seen[word] += 1
  found = digests.match(
    digests.number(hashes(wanted)), digests.number(hashes(offered))
  )
  assert found.tolist() == expected


def make_split(name, paths, labels):
  padded = np.full((len(labels), 3), -1, np.int32)
  for row, ids in zip(padded, labels, strict=True):
    row[: len(ids)] = sorted(ids)
  return infos.Split(
    *("cars", name, layout.find(".")),
    paths=infos.Names(paths),
    labels=padded,
    places=hashes(paths),
  )


LABELS = st.lists(
  st.sets(st.integers(0, 6), min_size=1, max_size=3), min_size=1, max_size=8
)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(query=LABELS, index=LABELS)
def test_answerable_queries_are_those_with_a_positive(query, index):
  one = make_split("test", list(map(str, range(len(query)))), query)
  other = make_split("index", list(map(str, range(len(index)))), index)
  assert protocols.answerable(one, other).tolist() == [
    any(ids & offered for offered in index) for ids in query
  ]
  assert protocols.answerable(one, one).tolist() == [
    any(ids & offered for j, offered in enumerate(query) if j != i)
    for i, ids in enumerate(query)
  ]


SPLIT = st.lists(st.sampled_from("abcdefghij"), min_size=1, max_size=6)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
  paths=st.fixed_dictionaries(
    {name: SPLIT for name in ("train", "val", "test", "index")}
  ),
  classes=st.sampled_from(leaks.Classes),
  by_content=st.booleans(),
)
def test_leaks_are_those_of_sets(paths, classes, by_content):
  """Contents are those of the paths, but lie in another folder."""
  spec = domains.UNED["inshop"]
  folders = {name: "." for name in paths}
  if by_content:
    folders = {name: name for name in paths}
  splits = {
    name: dataclasses.replace(
      make_split(name, names, [{0}] * len(names)),
      domain="inshop",
      place=layout.Layout(*[epath.Path(folders[name])] * 3),
    )
    for name, names in paths.items()
  }
  sets = {name: set(names) for name, names in paths.items()}
  expected = collections.Counter()
  for query in ("val", "test"):
    for path in paths[query]:
      expected[query, path, False] += path in sets["train"]
  for path in paths["test"]:
    expected["test", path, False] += path in sets["val"]
    expected["test", path, False] += path in sets["index"]
  for path in paths["index"]:
    if classes is not leaks.Classes.TRAINED:
      is_note = classes is leaks.Classes.UNKNOWN
      expected["index", path, is_note] += path in sets["train"]
  groups = []
  for pair in leaks.pairs(spec, classes):
    one, other = (
      leaks.Marked(
        splits[name],
        np.arange(len(paths[name])),
        splits[name].places,
        are_paths=not by_content,
      )
      for name in (pair.one, pair.other)
    )
    groups += leaks.shared(pair.kind, one, other, is_note=pair.is_note)
  found = collections.Counter(
    (one.split, one.path, group.is_note) for group in groups for one in group
  )
  assert found == +expected


IMAGES = st.lists(
  st.tuples(
    st.sampled_from("pqrs"),
    st.sampled_from("xyz"),
    st.integers(0, 1),
    st.booleans(),
  ),
  min_size=1,
  max_size=10,
)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(images=IMAGES)
def test_duplicates_are_those_of_a_dictionary(images):
  """Images are (path, contents, class, whether the contents are known)."""
  split = make_split("test", [i[0] for i in images], [{i[2]} for i in images])
  first, paths = {}, set()
  expected = []
  for row, (path, contents, class_id, known) in enumerate(images):
    if path in paths:
      continue
    paths.add(path)
    if known:
      at = first.setdefault(contents, row)
      if at != row:
        same = images[at][2] == class_id
        kind = findings.DUPLICATE if same else findings.CONFLICT
        expected.append((kind, row))
  known = np.array([i[3] for i in images])
  marked = duplicates.mark(split, hashes([i[1] for i in images]), known)
  found = duplicates.check(
    [], {("cars", "test"): marked}, class_rule=verification.of_uned
  )
  assert sorted((g.kind, one.entry) for g in found for one in g) == sorted(
    expected
  )


NAMES = st.text(st.characters(codec="utf-8"), max_size=6)


@given(names=st.lists(NAMES, max_size=8))
def test_names_are_those_that_were_given(names):
  packed = infos.Names(names)
  assert len(packed) == len(names)
  assert [packed[i] for i in range(len(names))] == list(packed) == names


def run(*arguments, **options):
  return subprocess.run(
    [sys.executable, "-m", "udon_jax.data.verify", *map(str, arguments)],
    capture_output=True,
    text=True,
    check=False,
    timeout=100,
    **options,
  )


DOMAINS = "--domains=cars,inshop,met"


def test_the_command_line_ends_with_what_was_found(root, tmp_path):
  done = run(f"--data_dir={root}", "--num_workers=1")
  assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "no findings")
  append("cars", "train", TRAINED, 0)(root)
  output = tmp_path / "found.json"
  output.write_text("something old")
  done = run(
    *(f"--data_dir={root}", DOMAINS, "--uned", "--max_shown=2"),
    f"--output={output}",
  )
  assert done.returncode == 1
  assert "listed twice (1): " in done.stdout
  number = json.loads(output.read_text())["num_findings"]
  last = done.stdout.splitlines()[-1]
  assert last == f"{number} findings in 3 kinds"
  assert done.stdout.count("UnED has") == 2
  assert sorted(os.listdir(tmp_path)) == ["data", "found.json"]
  value = json.loads(output.read_text())
  assert len(value["findings"]) == number == sum(value["num_by_kind"].values())
  twice = [f for f in value["findings"] if f["kind"] == "listed twice"]
  assert twice == [
    {
      "kind": "listed twice",
      "domain": "cars",
      "split": "train",
      "file": str(root / "info_files/cars/train.json"),
      "entry": 6,
      "path": TRAINED,
      "message": f"{root}/info_files/cars/train.json: entry 6: {TRAINED} stands"
      " at entry 0 already",
    }
  ]
  assert value["splits"][0]["images"] == 7


def test_the_command_line_reads_a_config(root):
  config = "--config=configs/quickstart.py"
  flags = (f"--config.data_dir={root}", "--config.domains=('cars','met')")
  here = pathlib.Path(__file__).parent.parent
  done = run(config, *flags, "--images", cwd=here)
  assert done.stdout.splitlines()[-1] == "no findings", done.stderr
  assert done.returncode == 0
  folder = root / "elsewhere"
  (root / "info_files").rename(folder)
  done = run(config, *flags, f"--config.info_files_dir={folder}", cwd=here)
  assert done.returncode == 0, done.stderr


def test_tensorflow_is_needed_for_images_alone(root):
  program = """if True:
    import sys
    sys.modules["tensorflow"] = None
    sys.argv[0] = "verify"
    from udon_jax import cli
    from udon_jax.data import verify
    cli.run(verify.main)
  """
  (file,) = (root / "tfds/cars/val").glob("*.tfrecord")
  data_files.write_records(file, [b"no example", b"neither"])
  for path in (root / "tfds/cars/val").glob("*.json"):
    path.unlink()
  for flag, code in ((), 1), (("--images",), 2):
    done = subprocess.run(
      [sys.executable, "-c", program, f"--data_dir={root}", *flag],
      capture_output=True,
      text=True,
      check=False,
    )
    assert done.returncode == code, done.stderr
    if not flag:
      assert done.stdout.count("has another form than converters write") == 2
  assert "pip install 'udon_jax[data]'" in done.stderr.splitlines()[-1]


BAD = {
  "nothing": ((), "--data_dir is missing"),
  "no folder": (("--data_dir=ROOT/none",), "--data_dir=ROOT/none is no folder"),
  "no info files": (("--data_dir=ROOT/images",), "holds no <domain>"),
  "unknown domain": (("--data_dir=ROOT", "--domains=art"), "art is missing"),
  "no domain": (("--data_dir=ROOT", "--domains="), "--domains= must name"),
  "a domain twice": (("--data_dir=ROOT", "--domains=cars,cars"), "each once"),
  "no info folder": (("--data_dir=ROOT", "--info_files=x"), "--info_files=x"),
  "both": (
    ("--data_dir=ROOT", "--config=configs/quickstart.py"),
    "--data_dir does not go with --config",
  ),
  "no config": (("--config=nothing.py",), "--config: "),
  "output": (
    ("--data_dir=ROOT", "--output=ROOT/images"),
    "--output=ROOT/images cannot be written",
  ),
  "output in no folder": (
    ("--data_dir=ROOT", "--output=ROOT/none/a.json"),
    "--output=ROOT/none/a.json cannot be written",
  ),
  "workers": (("--data_dir=ROOT", "--num_workers=0"), "num_workers"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_usage_is_one_line(prepared, name):
  arguments, words = BAD[name]
  done = run(*(text.replace("ROOT", str(prepared)) for text in arguments))
  assert done.returncode == 2
  assert done.stdout == ""
  (line,) = done.stderr.splitlines()
  assert line.startswith("error: ")
  assert words.replace("ROOT", str(prepared)) in line
