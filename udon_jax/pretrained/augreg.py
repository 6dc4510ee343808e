"""AugReg weights: the .npz files of google-research/vision_transformer.

Source: arXiv 2106.10270. Files such as `B_16-i21k-300ep-lr_0.001-...npz`, with
keys `Transformer/encoderblock_<i>/<module>/<leaf>`; ours are the same names
with the blocks stacked.
"""

import logging
import re
from typing import Any
import zipfile

from etils import epath
from flax import traverse_util
import numpy as np

from udon_jax import errors

logger = logging.getLogger(__name__)

_BLOCK = "Transformer/encoderblock"


def load(path: epath.PathLike, backbone: Any) -> Any:
  """Returns a backbone's parameters, as host arrays.

  Args:
    path: the .npz file; nothing in it is executed.
    backbone: parameters (or their shapes) that the result must fit.

  Raises:
    UserError: the file cannot be read, lacks a parameter, or has another shape.
  """
  arrays = _read(path)
  wanted = traverse_util.flatten_dict(backbone, sep="/")
  loaded = {
    name: _take(arrays, name, leaf.shape, path) for name, leaf in wanted.items()
  }
  left = sorted(
    key
    for key in arrays
    if re.sub(r"_\d+/", "/", key, count=1) not in loaded and key not in loaded
  )
  logger.info(
    "%s: %d parameters read; left in the file: %s",
    path,
    len(loaded),
    ", ".join(left) or "none",
  )
  return traverse_util.unflatten_dict(loaded, sep="/")


def _read(path):
  try:
    with epath.Path(path).open("rb") as file:
      return dict(np.load(file, allow_pickle=False))
  except (
    *(OSError, EOFError, zipfile.BadZipFile),  # torn, or no .npz
    *(ValueError, TypeError),  # pickled objects, a bare .npy
  ) as error:
    raise errors.UserError(
      f"config.pretrained: {path} cannot be read as .npz ({error}); give an "
      "AugReg file"
    ) from error


def _take(arrays, name, shape, path):
  """Returns one parameter, stacked over blocks where ours is."""
  try:
    if name.startswith(f"{_BLOCK}/"):
      inner = name.removeprefix(f"{_BLOCK}/")
      blocks = [arrays[f"{_BLOCK}_{i}/{inner}"] for i in range(shape[0])]
      odd = [block for block in blocks if block.shape != tuple(shape[1:])]
      value = odd[0] if odd else np.stack(blocks)
    else:
      value = arrays[name]
  except KeyError as error:
    raise errors.UserError(
      f"config.pretrained: {path} lacks {error}; does it fit config.model.name?"
    ) from error
  if value.shape != shape:
    raise errors.UserError(
      f"config.pretrained: {path} has {name} {value.shape}, the model "
      f"{tuple(shape)}; set config.model.name and config.data.crop_size to fit"
    )
  return value.astype(np.float32)
