"""Backbones off the shelf: models that others trained, as they come.

No projection is added and nothing is trained: the embedding is the backbone's
class token, as in the first rows of the papers' tables (UnED, ICCV 2023,
table 3; UDON, NeurIPS 2024, table 1).
"""

from collections.abc import Mapping, Sequence
import dataclasses
import logging
from typing import Any

from etils import epath
import ml_collections

from udon_jax import build, default_config, domains, errors, trained
from udon_jax.data import layout, notes, records
from udon_jax.models import architecture
from udon_jax.pretrained import kinds, weights

logger = logging.getLogger(__name__)


def load(
  spec: str,
  *,
  data_dir: epath.PathLike,
  info_files: epath.PathLike | None,
  domain_names: Sequence[str] | None,
  splits: Sequence[str],
  image_size: int | None,
  batch_size: int | None,
  untold: Mapping[str, Any],
) -> trained.Trained:
  """Returns a backbone, to be tested on the domains of a data directory.

  Args:
    spec: KIND:PATH, as for config.pretrained.
    data_dir: where the data lies.
    info_files: folder of the info files, if it lies elsewhere.
    domain_names: the domains; all that the directory has if None.
    splits: of "val" and "test", which these domains must have.
    image_size: side of the images; what the file was made for if None.
    batch_size: images embedded at a time; the default of configs if None.
    untold: fields of the architecture that the file does not tell, where they
      are not as guessed.

  Raises:
    UserError: the file or the data cannot be used.
  """
  found = _tell(kinds.open_weights(spec, key="--pretrained"), untold)
  config = _config(found, image_size=image_size, batch_size=batch_size)
  place = layout.find(data_dir, info_files=info_files, key="--data")
  for name in domain_names or ():
    notes.spec_of(place.info_files, name, key="--domains")
  config.domains = tuple(domain_names or _find_domains(place, splits))
  config.lock()
  mesh = build.eval_mesh(config, key="--batch_size")
  model = build.model(config, num_domains=0)
  shapes = build.abstract_params(config, model, mesh)
  logger.info(
    "%s: %s at %d pixels", spec, config.model.name, config.data.crop_size
  )
  params = {"backbone": weights.load_backbone(found, shapes["backbone"])}
  return trained.Trained(config, 0, mesh, model, params)


def _tell(found: weights.Weights, untold: Mapping[str, Any]) -> weights.Weights:
  """Returns a file of which more is told."""
  for field in untold:
    if field not in found.untold:
      raise errors.UserError(
        f"--{field}={untold[field]} does not go with {found.arrays.path}, "
        "which tells it by itself; leave it out"
      )
  arch = dataclasses.replace(found.architecture, **untold)
  if arch.width % arch.num_heads:
    raise errors.UserError(
      f"--num_heads={arch.num_heads} does not divide the width {arch.width} of "
      f"{found.arrays.path}; choose a divisor"
    )
  return dataclasses.replace(found, architecture=arch)


def _config(
  found: weights.Weights, *, image_size: int | None, batch_size: int | None
) -> ml_collections.ConfigDict:
  """Returns the config of the model of a file, without heads."""
  config = default_config.get_config()
  named = architecture.describe(found.architecture, family=found.family)
  config.model.update(named)
  config.model.student_dim = 0
  config.model.pixel_mean = tuple(found.pixel_mean)
  config.model.pixel_std = tuple(found.pixel_std)
  # As where the published numbers are from.
  config.data.round_pixels = config.data.exif = False
  size = image_size or found.image_size
  patch = found.architecture.patch_size
  if size < patch or size % patch:
    raise errors.UserError(
      f"--image_size={size} is not a multiple of the patch of {patch} pixels; "
      f"use for example {patch * 14}"
    )
  config.data.crop_size = config.data.resize_size = size
  if batch_size is not None:
    config.eval.batch_size = batch_size
  return config


def _find_domains(
  place: layout.Layout, splits: Sequence[str]
) -> tuple[str, ...]:
  """Returns the names of the domains that a data directory has.

  Raises:
    UserError: it has none.
  """
  specs = [
    notes.spec_of(place.info_files, name, key="--data")
    for name in domains.in_order(notes.names(place.info_files))
    if name in domains.UNED or notes.splits_of(place.info_files, name)
  ]
  found = tuple(
    spec.name
    for spec in specs
    if all(
      _has(place, spec.name, part)
      for split in splits
      for part in dataclasses.astuple(spec.protocol(split))
    )
  )
  if not found:
    raise errors.UserError(
      f"--data={place.root} holds no domain with the splits "
      f"{', '.join(splits)}: <domain>/<split>/"
      f"{records.file_name('<domain>', '<split>')} must be below {place.tfds} "
      f"and <domain>/<split>.json below {place.info_files}; correct --data, or "
      "name the folder of the lists by --info_files"
    )
  return found


def _has(place: layout.Layout, domain: str, split: str) -> bool:
  folder = place.records(domain, split)
  return place.info_file(domain, split).exists() and folder.is_dir()
