"""Record files, their sidecars and every way in which they can be broken."""

from concurrent import futures
import gzip
import os

from etils import epath
from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest

from tests import data_files
from udon_jax import errors
from udon_jax.data import examples, offsets, records, storage

DATA = [b"a" * n for n in (0, 1, 5000, 17, 300)]


@pytest.fixture
def file(tmp_path):
  path = tmp_path / "cars.val.tfrecord"
  data_files.write_records(path, DATA)
  return path


class Laws:
  """A record file and its sidecar, with their good contents."""

  def __init__(self, folder):
    file = folder / "cars.val.tfrecord"
    data_files.write_records(file, DATA)
    offsets.load(file)
    self.paths = [file, sidecar(file)]
    self.originals = {path: path.read_bytes() for path in self.paths}

  def __repr__(self):
    return "laws"


@pytest.fixture(scope="module")
def laws(tmp_path_factory):
  return Laws(tmp_path_factory.mktemp("laws"))


def flip(file, byte):
  """Flips a bit of a file."""
  contents = bytearray(file.read_bytes())
  contents[byte] ^= 4
  file.write_bytes(contents)


def sidecar(file):
  return file.parent / f".{file.name}.offsets.npy"


def read_all(*files):
  opened = records.RecordFiles(files)
  return [opened.read(i) for i in range(len(opened))]


def test_records_are_those_that_tensorflow_wrote(file):
  assert read_all(file) == DATA
  starts = np.load(sidecar(file))
  assert starts.dtype == np.int64
  assert starts[-1] == file.stat().st_size
  lengths = np.diff(starts) - 16
  assert lengths.tolist() == [len(data) for data in DATA]
  assert set(os.listdir(file.parent)) == {file.name, sidecar(file).name}


def test_a_good_sidecar_is_believed(file):
  read_all(file)
  first = sidecar(file).stat().st_mtime_ns
  read_all(file)
  assert sidecar(file).stat().st_mtime_ns == first


@pytest.mark.parametrize(
  "contents",
  [
    b"",
    b"junk",
    np.array([0, 16]),
    np.array([0.0, 5398.0]),
    np.array([[0, 5398]]),
    np.array([0, 9000, 5398]),
    np.array([], np.int64),
  ],
  ids=["empty", "junk", "stale", "floats", "2d", "unsorted", "no offsets"],
)
def test_a_bad_sidecar_is_built_again(file, contents):
  if isinstance(contents, bytes):
    sidecar(file).write_bytes(contents)
  else:
    np.save(sidecar(file), contents)
  assert read_all(file) == DATA
  assert len(np.load(sidecar(file))) == len(DATA) + 1


@pytest.mark.parametrize("kept", [1, 11, 12, 20, 60, -1, -4, -300])
def test_a_cut_file_is_named(file, kept):
  read_all(file)
  file.write_bytes(file.read_bytes()[:kept])
  with pytest.raises(errors.UserError, match=f"{file}.*prepare"):
    read_all(file)


def test_a_damaged_header_is_named_by_its_record(file):
  starts = offsets.load(file)
  flip(file, int(starts[2]) + 9)  # in the CRC of the third length
  opened = records.RecordFiles([file])
  assert [opened.read(i) for i in (0, 1, 3, 4)] == [*DATA[:2], *DATA[3:]]
  with pytest.raises(errors.BadExampleError, match=f"{file}: record 2 is.*len"):
    opened.read(2)
  sidecar(file).unlink()  # and without it
  with pytest.raises(errors.UserError, match=f"{file} is .*record 2, at"):
    read_all(file)


def test_other_files_are_named(file):
  for contents in (gzip.compress(file.read_bytes()), b"x" * 5000):
    file.write_bytes(contents)
    with pytest.raises(errors.UserError, match=f"{file} is not a TFRecord"):
      read_all(file)


def test_a_folder_in_the_place_of_a_file_is_named(tmp_path):
  (tmp_path / "folder").mkdir()
  with pytest.raises(errors.UserError, match="folder cannot be read"):
    read_all(tmp_path / "folder")


def test_a_file_that_may_not_be_read_is_named(file, monkeypatch):
  def refuse(*_):
    raise PermissionError(13, "Permission denied")

  opened = records.RecordFiles([file])
  monkeypatch.setattr(storage.os, "open", refuse)
  for read in (lambda: opened.read(0), lambda: offsets.rebuild(file)):
    with pytest.raises(errors.UserError, match=f"{file} cannot be.*denied"):
      read()


def test_flipped_bits_are_named_with_their_image(tmp_path):
  file = tmp_path / "a.tfrecord"
  contents = [
    examples.serialize(image_bytes=b"i" * 99, class_ids=[i], key=f"{i}.jpg")
    for i in range(3)
  ]
  data_files.write_records(file, contents)
  flip(file, file.read_bytes().rindex(b"iii"))
  opened = records.RecordFiles([file])
  assert [opened.read(0), opened.read(1)] == contents[:2]
  with pytest.raises(errors.UserError) as caught:
    opened.read(2)
  assert f"{file}: record 2 (key '2.jpg') is damaged" in str(caught.value)
  assert "prepare the data again" in str(caught.value)


def test_offsets_of_another_file_are_found_again(file):
  """Plausible: they rise and end with the file."""
  starts = offsets.load(file)
  wrong = starts.copy()
  wrong[2:4] += 100
  offsets.write(file, wrong)
  opened = records.RecordFiles([file])
  with futures.ThreadPoolExecutor(8) as pool:
    numbers = [i % 5 for i in range(200)]
    assert list(pool.map(opened.read, numbers)) == [DATA[i] for i in numbers]
  np.testing.assert_array_equal(offsets.load(file), starts)


def test_offsets_of_other_numbers_of_records_are_named_and_made_anew(file):
  offsets.write(file, np.delete(offsets.load(file), 2))
  opened = records.RecordFiles([file])
  with pytest.raises(errors.UserError, match=r"4 records in place of 5.*again"):
    opened.read(1)
  assert read_all(file) == DATA


@settings(max_examples=150, deadline=None, derandomize=True)
@given(data=st.data())
def test_damage_is_named_or_does_no_harm(laws, data):
  """Flips and cuts of a file and its sidecar never give other records.

  A cut between two records leaves a good file; `splits` counts its records.
  """
  path = data.draw(st.sampled_from(laws.paths), "damaged file")
  whole = bytearray(laws.originals[path])
  if data.draw(st.booleans(), "cut"):
    del whole[data.draw(st.integers(0, len(whole) - 1), "size") :]
  for _ in range(data.draw(st.integers(1, 3), "flips")):
    if whole:
      at = data.draw(st.integers(0, len(whole) - 1), "byte")
      whole[at] ^= data.draw(st.integers(1, 255), "bits")
  for name, contents in laws.originals.items():
    name.write_bytes(contents)
  path.write_bytes(whole)
  file = laws.paths[0]
  try:
    found = read_all(file)
  except errors.UserError as error:
    assert path == file and str(file) in str(error)
    return
  assert found == DATA[: len(found)]
  between = np.cumsum([0, *(len(data) + 16 for data in DATA)])
  assert len(found) == len(DATA) or (path == file and len(whole) in between)


def test_parts_of_records_end_with_them(file):
  opened = records.RecordFiles([file])
  for i, data in enumerate(DATA):
    for start in (0, 3, 16, 17, 299, 5000, 2**70):
      for length in (0, 1, 17, 6000):
        part = opened.read_part(i, start, length)
        assert part == data[start : start + length]


def test_an_order_is_one_of_all_files(tmp_path, file):
  other = tmp_path / "b.tfrecord"
  data_files.write_records(other, [b"x", b"yy"])
  opened = records.RecordFiles([file, other])
  order = [6, 0, 5, 2, 4, 1, 3]
  opened.reorder(np.array(order))
  contents = [*DATA, b"x", b"yy"]
  assert [opened.read(i) for i in range(7)] == [contents[i] for i in order]
  assert opened.locate(2) == (epath.Path(other), 0)
  opened.reorder(None)
  assert [opened.read(i) for i in range(7)] == contents


def test_an_empty_shard_is_no_error(tmp_path, file):
  empty = tmp_path / "empty.tfrecord"
  empty.write_bytes(b"")
  assert read_all(empty, file, empty, file) == DATA * 2
  assert len(records.RecordFiles([empty])) == 0


def test_records_are_numbered_through_files(tmp_path, file):
  other = tmp_path / "b.tfrecord"
  data_files.write_records(other, [b"x", b"yy"])
  opened = records.RecordFiles([file, other])
  assert len(opened) == 7
  assert opened.locate(4) == (epath.Path(file), 4)
  assert opened.locate(5) == (epath.Path(other), 0)
  assert opened.read(6) == b"yy"


def test_threads_read_at_the_same_time(file):
  opened = records.RecordFiles([file])
  with futures.ThreadPoolExecutor(8) as pool:
    results = list(pool.map(opened.read, [i % 5 for i in range(2000)]))
  assert results == [DATA[i % 5] for i in range(2000)]


def test_files_that_change_while_they_are_read(file):
  opened = records.RecordFiles([file])
  opened.read(0)
  with file.open("r+b") as stream:
    stream.truncate(100)
  with pytest.raises(errors.UserError, match=f"{file} changed"):
    opened.read(4)


def test_files_that_vanish_before_they_are_read(file):
  fresh = file.parent / "fresh.tfrecord"
  data_files.write_records(fresh, DATA)
  unopened = records.RecordFiles([fresh])
  fresh.unlink()
  with pytest.raises(errors.UserError, match=f"{fresh} cannot be read"):
    unopened.read(0)


def test_a_replaced_file_of_the_same_size(file):
  read_all(file)
  data_files.write_records(file, list(reversed(DATA)))
  assert read_all(file) == list(reversed(DATA))


def test_remote_files_are_read_through_streams(file):
  class Remote(type(epath.Path(file))):
    def __fspath__(self):
      return "gs://" + super().__fspath__()

    def open(self, mode):
      return open(super().__fspath__(), mode)

  reader = storage.PieceReader([Remote(file)])
  data = file.read_bytes()
  assert reader.read(0, 28, 17) == data[28:45]
  assert reader.read(0, 0, 5) == data[:5]


def find(folder):
  found = records.find_files(folder, base="a.train.tfrecord", cure="CURE")
  return [path.name for path in found]


def touch(folder, *names):
  for name in names:
    (folder / name).write_bytes(b"")


def test_files_are_found_in_order(tmp_path):
  names = [f"a.train.tfrecord-{i:05d}-of-00012" for i in range(12)]
  touch(tmp_path, *names, f".{names[0]}.offsets.npy", "metadata.json")
  touch(tmp_path, "b.train.tfrecord", ".a.train.tfrecord.tmp")
  assert find(tmp_path) == names


def test_one_file_is_found(tmp_path):
  touch(tmp_path, "a.train.tfrecord", ".a.train.tfrecord.offsets.npy")
  assert find(tmp_path) == ["a.train.tfrecord"]


@pytest.mark.parametrize(
  ("names", "message"),
  [
    ([], "a.train.tfrecord is missing; CURE"),
    (["-00000-of-00002"], "-00001-of-00002 is missing, one of 2 shards"),
    (["", "-00000-of-00001"], "mixes records"),
    (["-00000-of-00001", "-00000-of-00002"], "mixes records"),
  ],
)
def test_missing_files_are_named(tmp_path, names, message):
  touch(tmp_path, *("a.train.tfrecord" + name for name in names))
  with pytest.raises(errors.UserError, match=message):
    find(tmp_path)


def test_a_missing_folder_is_named(tmp_path):
  with pytest.raises(errors.UserError, match=r"nowhere.*CURE"):
    find(tmp_path / "nowhere")
