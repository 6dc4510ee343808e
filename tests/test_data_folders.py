"""Which images lie below a folder."""

import os

import pytest

from udon_jax import errors
from udon_jax.data import folders


@pytest.fixture
def root(tmp_path):
  for name in ("b.jpg", "a.PNG", "deep/er/c.tiff", "deep/d.txt", "deep.jpg/x"):
    path = tmp_path / "root" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(name)
  return tmp_path / "root"


KNOWN = ["a.PNG", "b.jpg", "deep/er/c.tiff"]


def test_known_suffixes_at_any_depth(root):
  assert folders.find(root).paths == KNOWN


def test_names_of_any_script_and_none(root):
  odd = [b"\xff\xfe.jpg", "größe.jpg".encode(), "猫.webp".encode(), b"a\nb.gif"]
  for name in odd:
    with open(os.fsencode(root) + b"/deep/" + name, "wb"):
      pass
  found = [os.fsencode(path) for path in folders.find(root).paths]
  assert set(found) == {b"deep/" + name for name in odd} | {
    os.fsencode(name) for name in KNOWN
  }


def test_links_are_followed_and_circles_end(root, tmp_path):
  other = tmp_path / "other"
  other.mkdir()
  (other / "e.jpg").write_text("e")
  (other / "back").symlink_to(root)
  (root / "other").symlink_to(other)
  (root / "again").symlink_to(other)
  (root / "here").symlink_to(".")
  (root / "deep" / "up").symlink_to("..")
  (root / "file.jpg").symlink_to("b.jpg")
  (root / "self.jpg").symlink_to("self.jpg")
  (root / "nowhere.jpg").symlink_to("gone.jpg")
  links = ["again/e.jpg", "file.jpg", "nowhere.jpg", "self.jpg"]
  assert folders.find(root).paths == sorted([*KNOWN, *links])


def test_what_is_no_file_is_left_out(root):
  os.mkfifo(root / "pipe.jpg")
  assert folders.find(root).paths == KNOWN


def test_fingerprint_tells_changes(root):
  first = folders.find(root).fingerprint
  (root / "deep" / "d.txt").write_text("no image, no matter")
  assert folders.find(root).fingerprint == first
  seen = {first}
  status = (root / "b.jpg").stat()
  os.utime(root / "b.jpg", ns=(status.st_atime_ns, status.st_mtime_ns + 1))
  seen.add(folders.find(root).fingerprint)
  (root / "b.jpg").write_text("longer than it was")
  os.utime(root / "b.jpg", ns=(status.st_atime_ns, status.st_mtime_ns))
  seen.add(folders.find(root).fingerprint)
  (root / "b.jpg").rename(root / "c.jpg")
  seen.add(folders.find(root).fingerprint)
  (root / "c.jpg").unlink()
  seen.add(folders.find(root).fingerprint)
  assert len(seen) == 5


def test_mistakes(root, tmp_path):
  with pytest.raises(errors.UserError, match="is no folder"):
    folders.find(root / "b.jpg")
  (tmp_path / "empty").mkdir()
  with pytest.raises(errors.UserError, match=r"holds no image.*\.tiff"):
    folders.find(tmp_path / "empty")
