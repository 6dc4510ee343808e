"""Image folders: a subfolder for each class, below one for each split or not.

shoes/<class>/<image>            or
shoes/<split>/<class>/<image>    where all subfolders have names of splits
"""

import os

from etils import epath

from udon_jax import errors
from udon_jax.data import folders
from udon_jax.data.sources import listing

SPLITS = frozenset(("train", "val", "test", "index", "val_index", "test_index"))


def read(folder: epath.PathLike, *, key: str) -> listing.Listing:
  """Returns the images of a folder.

  Args:
    folder: a local folder.
    key: what the user named it with, for messages.

  Raises:
    UserError: there is no such folder, or an image lies outside of those of
      classes.
  """
  folder = os.path.expanduser(os.fspath(folder))
  paths = folders.find(folder, key=key).paths
  parts = [path.split(os.sep) for path in paths]
  tops = {listing.split_name(part[0]) for part in parts if len(part) > 1}
  is_split = tops <= SPLITS and "train" in tops
  depth = 2 if is_split else 1  # of the class's folder
  for path, part in zip(paths, parts, strict=True):
    if len(part) <= depth:
      raise errors.UserError(
        f"{key}={folder}: {path} lies in no folder of a class; put every image"
        f" into {'<split>/' if is_split else ''}<class>/"
      )
  return listing.Listing(
    images=epath.Path(folder),
    paths=[path.replace(os.sep, "/") for path in paths],
    labels=[(part[depth - 1],) for part in parts],
    splits=(
      [(listing.split_name(part[0]),) for part in parts] if is_split else None
    ),
    rows=paths,
  )
