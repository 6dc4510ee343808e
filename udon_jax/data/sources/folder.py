"""Image folders: a subfolder for each class, below one for each split or not.

shoes/<class>/<image>            or
shoes/<split>/<class>/<image>    where all subfolders have names of splits
"""

import os

from etils import epath

from udon_jax import errors
from udon_jax.data import folders
from udon_jax.data.sources import listing


def read(folder: epath.PathLike, *, key: str) -> listing.Listing:
  """Returns the images of a folder; hidden ones are no part of it.

  Args:
    folder: a local folder.
    key: what the user named it with, for messages.

  Raises:
    UserError: there is no such folder, an image lies outside of those of
      classes, or some subfolders are splits and others are not.
  """
  folder = os.path.expanduser(os.fspath(folder))
  paths = [
    path
    for path in folders.find(folder, key=key).paths
    if not path.startswith(".") and f"{os.sep}." not in path
  ]
  parts = [path.split(os.sep) for path in paths]
  tops = {listing.split_name(part[0]) for part in parts if len(part) > 1}
  is_split = tops <= listing.SPLITS and "train" in tops
  if "train" in tops and not is_split and len(tops & listing.SPLITS) > 1:
    raise errors.UserError(
      f"{key}={folder} has folders of splits beside"
      f" {min(tops - listing.SPLITS)!r}, which is none; move it out, or the"
      " folders of the splits into one of their own"
    )
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
