"""Where the parts of a data directory lie.

  images/                                  the image files
  info_files/<domain>/<split>.json         lists of images and classes
  tfds/<domain>/<split>/*.tfrecord*        records made from both

Source: the UnED repository (README, convert_to_tfrecord_from_file.py).
"""

import dataclasses
import shlex

from etils import epath

from udon_jax import errors

_TFDS = "tfds"


@dataclasses.dataclass(frozen=True)
class Layout:
  """The folders of a data directory.

  Attributes:
    root: the data directory itself.
    tfds: folder of the records.
    info_files: folder of the info files.
    image_folder: that of the images, where it lies elsewhere.
  """

  root: epath.Path
  tfds: epath.Path
  info_files: epath.Path
  image_folder: epath.Path | None = None

  @property
  def images(self) -> epath.Path:
    """Returns the folder that paths in info files are relative to."""
    return self.image_folder or self.root / "images"

  def info_file(self, domain: str, split: str) -> epath.Path:
    """Returns the info file of a split."""
    return info_file(self.info_files, domain, split)

  def lists(self, domain: str) -> list[epath.Path]:
    """Returns the info files of a domain, by name; none if it has no folder."""
    folder = self.info_files / domain
    return sorted(folder.glob("*.json")) if folder.is_dir() else []

  def records(self, domain: str, split: str) -> epath.Path:
    """Returns the folder that holds the records of a split."""
    return self.tfds / domain / split

  def prepare(self, domain: str) -> str:
    """Returns the command that makes the records of a domain, for messages."""
    renamed = self.tfds != self.root / _TFDS
    flags = {"data_dir": self.tfds if renamed else self.root}
    if self.info_files != self.root / "info_files":
      flags["info_files"] = self.info_files
    given = " ".join(
      f"--{flag}={shlex.quote(str(folder))}" for flag, folder in flags.items()
    )
    return f"`python -m udon_jax.data.prepare {given} --domains={domain}`"


def find(
  data_dir: epath.PathLike | None,
  *,
  info_files: epath.PathLike | None = None,
  key: str = "config.data_dir",
  info_files_key: str = "--info_files",
) -> Layout:
  """Returns the layout of a data directory.

  Args:
    data_dir: the data directory, or its `tfds/` folder, under any name if it
      holds records.
    info_files: folder of the info files, where it lies elsewhere.
    key: what the user set `data_dir` with, for the message.
    info_files_key: likewise, `info_files`.

  Raises:
    UserError: there is no such folder.
  """
  if not data_dir:
    raise errors.UserError(
      f"{key} is not set; give the folder that holds images/, info_files/ and"
      " tfds/"
    )
  root = epath.Path(data_dir).expanduser()
  if not root.is_dir():
    quoted = shlex.quote(str(data_dir))
    raise errors.UserError(
      f"{key}={data_dir} is no folder; correct the path, or make a small data"
      f" set there: `python -m udon_jax.data.synthetic --output={quoted}`,"
      f" then `python -m udon_jax.data.prepare --data_dir={quoted}`"
    )
  tfds = root / _TFDS
  if not tfds.exists() and (root.name == _TFDS or _holds_records(root)):
    root, tfds = root.parent, root
  if info_files is None:
    return Layout(root, tfds, root / "info_files")
  return Layout(root, tfds, find_info_files(info_files, key=info_files_key))


def _holds_records(folder: epath.Path) -> bool:
  """Whether <domain>/<split>/ of a folder hold records.

  Data sets of TensorFlow Datasets lie as deep, under other names.
  """
  return any(
    path.name.startswith(f"{path.parent.parent.name}.{path.parent.name}.")
    for path in folder.glob("*/*/*.tfrecord*")
  )


def find_info_files(
  folder: epath.PathLike, *, key: str = "--info_files"
) -> epath.Path:
  """Returns the folder of the info files.

  Args:
    folder: where it is.
    key: what the user set it with, for the message.

  Raises:
    UserError: there is no such folder.
  """
  path = epath.Path(folder).expanduser()
  if not path.is_dir():
    raise errors.UserError(
      f"{key}={folder} is no folder; give the one that holds"
      " <domain>/<split>.json"
    )
  return path


def info_file(info_files: epath.Path, domain: str, split: str) -> epath.Path:
  """Returns the info file of a split, in the folder of all."""
  return info_files / domain / f"{split}.json"
