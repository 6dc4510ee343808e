"""Vectors of any form are scored alike, and as the plain loop scores them."""

import dataclasses
import json

from etils import epath
import numpy as np
import pytest

from tests import descriptor_files as files
from tests.oracles import retrieval as oracle
from udon_jax import errors, scoring
from udon_jax.data import descriptors, vectors
from udon_jax.retrieval import protocol


@pytest.mark.parametrize("form", files.FORMS)
def test_every_form_gives_the_rows_as_they_are(tmp_path, form):
  by_name = {name: files.draw(dim) for name, dim in files.NAMES.items()}
  if form in ("json", "npz"):
    by_name = {None: by_name["student_embedd"]}
  found = files.read(files.write(tmp_path, form, by_name), tmp_path)
  expected = {
    name or "descriptors": {key: rows[key] for key in files.TEST}
    for name, rows in by_name.items()
  }
  assert found.embeddings.keys() == expected.keys()
  assert not found.odd
  for name, rows in found.embeddings.items():
    assert rows.keys() == set(files.TEST)
    for key, values in files.contents(rows).items():
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
  rows = files.draw(5)
  found = files.read(files.write(tmp_path, "pkl", {"x": rows}), tmp_path)
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
    for key, values in files.draw(5).items()
  }
  found = files.read(files.write(tmp_path, form, {None: rows}), tmp_path)
  for key, values in files.contents(found.embeddings["descriptors"]).items():
    np.testing.assert_array_equal(values, rows[key].astype(np.float32))
  assert not found.odd


@pytest.mark.parametrize("form", files.FORMS)
def test_rows_of_other_lengths_are_brought_to_length_1(tmp_path, form):
  unit = files.draw(5)
  rng = np.random.default_rng(2)
  rows = {
    key: values * rng.uniform(0.1, 10, (len(values), 1)).astype("f4")
    for key, values in unit.items()
  }
  rows["cars", "test"] = unit["cars", "test"] + 0
  rows["cars", "test"][7] *= 1000
  path = files.write(tmp_path, form, {"x": rows})
  found = files.read(path, tmp_path)
  for key, values in files.contents(found.embeddings["x"]).items():
    np.testing.assert_allclose(values, unit[key], atol=2e-7)
  assert found.odd == ["x: row 7 of cars/test has 1000"]
  as_given = files.read(path, tmp_path, normalize=False)
  assert as_given.odd == found.odd
  for key, values in files.contents(as_given.embeddings["x"]).items():
    np.testing.assert_array_equal(values, rows[key])


def test_one_odd_row_has_all_rows_of_its_embedding_divided(tmp_path):
  rows = files.draw(5)
  rows["cars", "test"][0] *= 1.0005  # as float16 may round it
  as_they_are = files.read(files.write(tmp_path, "pkl", {"x": rows}), tmp_path)
  assert not as_they_are.odd
  rows["inshop", "index"][3] *= 1.01
  path = files.write(tmp_path, "pkl", {"x": rows, "y": files.draw(5)})
  found = files.read(path, tmp_path)
  first = found.embeddings["x"]["cars", "test"][:1]
  np.testing.assert_allclose(np.linalg.norm(first), 1, rtol=1e-7)
  other = found.embeddings["y"]["cars", "test"]
  np.testing.assert_array_equal(other[:], files.draw(5)["cars", "test"])


def test_normalized_rows_depend_on_themselves_alone(tmp_path):
  rows = np.random.default_rng(3).normal(size=(300, 700)).astype("f4")
  np.save(tmp_path / "x.npy", rows)
  expected = vectors.Expected("x", 300, epath.Path("x.json"))
  found = vectors.inspect(tmp_path / "x.npy", expected)
  found = dataclasses.replace(found, normalize=True)
  single = np.concatenate([found[i : i + 1] for i in range(300)])
  np.testing.assert_array_equal(found[:], single)


def test_domains_can_be_chosen_and_come_in_the_order_of_uned(tmp_path):
  rows = files.nested(files.draw(5))
  rows = {"unknown": {"x": 3}, "inshop": rows["inshop"], "cars": rows["cars"]}
  (tmp_path / "rows.json").write_text(json.dumps(rows))
  found = files.read(
    tmp_path / "rows.json",
    tmp_path,
    splits=["val", "test"],
    domains=["inshop", "cars"],
  )
  for split in ("val", "test"):
    assert [task.domain for task in found.tasks[split]] == ["cars", "inshop"]
  assert found.embeddings["descriptors"].keys() == files.SIZES.keys()
  found = files.read(tmp_path / "rows.json", tmp_path, domains=["inshop"])
  assert found.embeddings["descriptors"].keys() == set(files.TEST[1:])


def described_as(tmp_path, *, protocols=None):
  """Returns info files in which inshop has a name of ones's own."""
  info_files = files.write_info(tmp_path / "renamed")
  (info_files / "inshop").rename(info_files / "mine")
  if protocols:
    note = {"essence": {}, "images": "/x", "protocols": protocols}
    (info_files / "mine" / "source.yaml").write_text(json.dumps(note))
  return info_files


def evaluate(path, info_files, tmp_path, **changes):
  options = {"splits": ["test"], "domain_names": None} | changes
  return scoring.evaluate_descriptors(
    path,
    info_files=epath.Path(info_files),
    normalize=True,
    block_bytes=2**20,
    temporary=tmp_path,
    per_query_dir=None,
    **options,
  )["descriptors"]


def test_a_domain_of_ones_own_is_scored_as_one_of_uned(tmp_path):
  rows = files.draw(5)
  uned = files.write(tmp_path, "npz", {None: rows})
  own = files.write(
    tmp_path,
    "json",
    {
      None: {
        ("mine" if domain == "inshop" else domain, split): values
        for (domain, split), values in rows.items()
      }
    },
  )
  expected = evaluate(uned, files.write_info(tmp_path / "info_files"), tmp_path)
  found = evaluate(own, described_as(tmp_path), tmp_path)
  for kind, by_split in expected.items():
    values = by_split["test"]
    values["mine"] = values.pop("inshop")
    assert found[kind]["test"] == values
  alone = evaluate(own, tmp_path / "renamed", tmp_path, domain_names=["mine"])
  assert list(alone["separate"]["test"]) == ["mine", "mean"]


def test_protocols_that_were_made_with_the_lists_count(tmp_path):
  info_files = described_as(
    tmp_path, protocols={"val": ["val", "val"], "test": ["test", "val"]}
  )
  rows = {
    ("mine", split): values
    for (domain, split), values in files.draw(5).items()
    if domain == "inshop"
  }
  path = files.write(tmp_path, "npy", {None: rows})
  found = descriptors.read(
    path,
    info_files=epath.Path(info_files),
    splits=["test"],
    domains=None,
    normalize=True,
    folder=tmp_path,
  )
  (task,) = found.tasks["test"]
  assert (task.query.name, task.index.name) == ("test", "val")
  assert found.embeddings["descriptors"].keys() == {
    ("mine", "test"),
    ("mine", "val"),
  }


def test_the_cause_and_room_are_named_when_the_disk_fails(tmp_path):
  path = files.write(tmp_path, "json", {None: files.draw(5)})
  with pytest.raises(errors.UserError, match="room for its vectors"):
    descriptors.read(
      path,
      info_files=epath.Path(files.write_info(tmp_path / "info_files")),
      splits=["test"],
      domains=None,
      normalize=True,
      folder=tmp_path / "missing",
    )
