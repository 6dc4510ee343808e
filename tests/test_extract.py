"""A folder of images becomes a file of embeddings, whatever happens."""

import json
import os
import re
import shutil
import signal

import numpy as np
from PIL import Image
import pytest

from tests import command_lines, compiling
import udon_jax
from udon_jax import cli

# One device: what runs on eight of two cores takes long to start.
ONE_DEVICE = {"XLA_FLAGS": compiling.FLAGS, "JAX_PLATFORMS": "cpu"}
NUM_IMAGES = 150
UNREADABLE = ["000 empty.jpg", "017.png", "sub/099.png"]

# In turn, on one output: while images are embedded, and while the output takes
# its place. The last of each finds the files done, or the output in place.
KILLS = {
  "npz": ("kill=4", "kill=19", "end=1", "end=7"),
  "npy": ("kill=12", "end=5", "end=8"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """Returns a folder of images, three of them unreadable, one oddly named."""
  root = tmp_path_factory.mktemp("images")
  (root / "sub").mkdir()
  rng = np.random.default_rng(0)
  for i in range(NUM_IMAGES):
    image = Image.fromarray(rng.integers(0, 255, (20, 24, 3), np.uint8))
    place = root / "sub" if i > 90 else root
    image.save(place / f"{i:03}.{('jpg', 'png')[i % 2]}")
  for name in UNREADABLE[1:]:
    (root / name).write_bytes(b"no image")
  (root / UNREADABLE[0]).write_bytes(b"")
  odd = os.fsencode(root / "sub") + b"/\xff\xe9.jpg"
  (root / "000.jpg").rename(os.fsdecode(odd))
  return root


@pytest.fixture(scope="module")
def command(tiny_run, folder):
  def make(output, *flags, images=folder, how=None):
    module = ["udon_jax.extract"] if how is None else ["tests.run_extract", how]
    paths = f"--workdir={tiny_run}", f"--images={images}", f"--output={output}"
    return [*module, *paths, *flags]

  return make


@pytest.fixture(scope="module")
def out(tmp_path_factory):
  """Returns the folder that all the command lines write to."""
  return tmp_path_factory.mktemp("out")


@pytest.fixture(scope="module")
def done(command, folder, out):
  """Runs all command lines of this file, in turn; returns how they ended."""
  changed = out / "changed"
  shutil.copytree(folder, changed)
  (changed / "001.png").write_bytes(b"other")
  (out / "bad").mkdir()
  (out / "bad" / "a.jpg").write_text("no image")
  (out / "folder.npy").mkdir()
  (out / "mine.json").write_text("{}")
  (out / "earlier.npz").write_bytes(b"an earlier output")
  backbone = "--embedding=backbone"
  teacher = ["--embedding=teacher", "--domain=sop"]
  cases = {
    "whole npz": command(out / "whole.npz"),
    "whole npy": command(out / "whole.npy"),
    **{
      f"killed {kind}: {how}": command(out / f"killed.{kind}", how=how)
      for kind, hows in KILLS.items()
      for how in hows
    },
    "last npz": command(out / "killed.npz"),
    "last npy": command(out / "killed.npy"),
    "teacher": command(
      out / "teacher.npz", *teacher, "--batch_size=24", "--num_threads=1"
    ),
    "full": command(
      out / "full.npz", "--embedding=backbone", how="limit=12000"
    ),
    "room": command(out / "full.npz", "--embedding=backbone"),
    "never full": command(out / "backbone.npz", "--embedding=backbone"),
    "stopped": command(out / "earlier.npz", how="term=5"),
    "terminal": command(out / "terminal.npz", how="columns=80"),
  }
  output = out / "earlier.npz"
  refused = {
    "images is 151 files": command(output, images=changed),
    "embedding is student there and backbone": command(output, backbone),
    "none of 1 images can be read": command(
      out / "bad.npz", images=out / "bad"
    ),
    "--domain=cars chooses a teacher": command(output, "--domain=cars"),
    "which is none of its own": command(out / "mine.npy"),
    "must be a local file": command("gs://bucket/x.npz"),
    "must be a local file that ends in": command(out / "x.bin"),
    "is a folder": command(out / "folder.npy"),
    "flag --num_threads=0": command(output, "--num_threads=0"),
    "--batch_size": command(output, "--batch_size=0"),
    "no checkpoint of step 7": command(output, "--step=7"),
    "--output is missing": command(output)[:-1],
    "/nowhere is no folder": command(output, images="/nowhere"),
    "holds no image": command(output, images=out / "folder.npy"),
  }
  ended = command_lines.run_all({**cases, **refused}, **ONE_DEVICE)
  ended["refused"] = {words: ended.pop(words) for words in refused}
  return ended


@pytest.mark.slow
def test_killed_at_any_time_it_goes_on(done, out):
  killed = {name: end for name, end in done.items() if "killed" in name}
  for name, (code, _, log) in killed.items():
    assert code == -signal.SIGKILL, (name, log)
  for kind in KILLS:
    for name in (f"whole {kind}", f"last {kind}"):
      code, _, log = done[name]
      assert code == 0, log
  # All but the first of each kind, and one whose output was in place.
  logs = [log for _, _, log in [*killed.values(), done["last npz"]]]
  assert sum("going on after" in log for log in logs) == len(killed) - 2
  for suffix in (".npz", ".npy", ".json"):
    expected = (out / f"whole{suffix}").read_bytes()
    assert (out / f"killed{suffix}").read_bytes() == expected, suffix
  left = {path.name for path in out.iterdir() if ".partial" in path.name}
  assert left == {"earlier.npz.partial"}


@pytest.mark.slow
def test_killed_at_every_time_it_goes_on(command, tmp_path):
  cases = {}
  for kind in KILLS:
    cases[f"whole {kind}"] = command(tmp_path / f"whole.{kind}")
    for kill in [f"kill={i}" for i in range(1, 30, 3)] + [
      f"end={i}" for i in range(1, 20)
    ]:
      output = tmp_path / f"{kill}.{kind}"
      cases[f"killed {output.name}"] = command(output, how=kill)
      cases[f"last {output.name}"] = command(output)
  done = command_lines.run_all(cases, **ONE_DEVICE)
  assert {end[0] for name, end in done.items() if "last" in name} == {0}
  for path in tmp_path.iterdir():
    expected = tmp_path / f"whole{path.suffix}"
    assert path.read_bytes() == expected.read_bytes(), path


def check_content(tmp_path):
  """Checks that both kinds of files say the same, and that it is true."""
  with np.load(tmp_path / "whole.npz") as file:
    found = dict(file)
  rows = np.load(tmp_path / "whole.npy", mmap_mode="r")
  about = json.loads((tmp_path / "whole.json").read_text())
  assert found["paths"].tolist() == about["paths"]
  assert found["unreadable"].tolist() == about["unreadable"] == UNREADABLE
  np.testing.assert_array_equal(found["embeddings"], rows)
  assert rows.dtype == np.float32
  assert rows.shape == (NUM_IMAGES - 2, about["dim"]) == (len(rows), 8)
  assert about["embedding"] == "student"
  assert about["step"] == 2
  assert os.fsencode(about["paths"][-1]) == b"sub/\xff\xe9.jpg"


def test_both_kinds_say_the_same(out, done):
  with np.load(out / "whole.npz") as file:
    found = dict(file)
  rows = np.load(out / "whole.npy", mmap_mode="r")
  about = json.loads((out / "whole.json").read_text())
  assert found.keys() == {"paths", "embeddings", "unreadable"}
  assert found["paths"].tolist() == about["paths"]
  assert found["unreadable"].tolist() == about["unreadable"] == UNREADABLE
  np.testing.assert_array_equal(found["embeddings"], rows)
  assert rows.dtype == np.float32
  assert rows.shape == (NUM_IMAGES - 2, 8)
  assert len(about["paths"]) == NUM_IMAGES - 2
  assert [about[k] for k in ("embedding", "domain", "step", "dim")] == [
    "student",
    None,
    2,
    8,
  ]
  assert os.fsencode(about["paths"][-1]) == b"sub/\xff\xe9.jpg"


def test_rows_are_those_of_the_paths(done, tiny_run, folder, out):
  code, _, log = done["teacher"]
  assert code == 0, log
  for name in UNREADABLE:
    assert f"unreadable: {name} (" in log
  assert f"{NUM_IMAGES - 2} embeddings of 16 dimensions, 3 files" in log
  assert "a second" in log.splitlines()[-2]
  with np.load(out / "teacher.npz") as file:
    found = dict(file)
  assert sorted(found["paths"]) == found["paths"].tolist()
  model = udon_jax.load(tiny_run, embedding="teacher", domain="sop")
  expected = model.embed([folder / path for path in found["paths"]])
  np.testing.assert_allclose(found["embeddings"], expected, atol=1e-6)


def test_full_disk_is_a_line_and_no_loss(done, out):
  code, _, log = done["full"]
  assert code == cli.EXIT_USAGE, log
  assert "Traceback" not in log
  last = log.splitlines()[-1]
  assert last.startswith(
    f"error: --output={out / 'full.npz'} cannot be written"
  )
  assert "make room" in last
  code, _, log = done["room"]
  assert code == 0, log
  assert "going on after" in log
  expected = (out / "backbone.npz").read_bytes()
  assert (out / "full.npz").read_bytes() == expected


def test_sigterm_saves_and_leaves_the_earlier_output(done, out):
  code, _, log = done["stopped"]
  assert code == cli.EXIT_STOPPED, log
  words = r"saved after (\d+) of 151 images; the same command goes on"
  assert int(re.search(words, log.splitlines()[-1])[1]) in range(16, 151, 16)
  assert (out / "earlier.npz").read_bytes() == b"an earlier output"


def test_what_is_refused(done):
  for words, (code, _, log) in done["refused"].items():
    assert code == cli.EXIT_USAGE, log
    assert log.splitlines()[-1].startswith("error: "), log
    assert words in log.splitlines()[-1]


def test_a_terminal_sees_a_bar_and_others_do_not(done):
  code, _, log = done["terminal"]
  assert code == 0, log
  assert f"| {NUM_IMAGES + 1}/{NUM_IMAGES + 1} [" in log
  assert "unreadable: 017.png (" in log
  assert "%|" not in done["whole npz"][2]
