"""A trained model and its data, from the run's folder alone."""

from collections.abc import Callable, Mapping, Sequence
import contextlib
import dataclasses
import hashlib
import json
from typing import TYPE_CHECKING, Any

from etils import epath
import jax
from jax.sharding import Mesh
import ml_collections
import numpy as np

from udon_jax import (
  build,
  checkpointing,
  checks,
  cpus,
  default_config,
  domains,
  errors,
  evaluator,
  own_domains,
  partitioning,
  run,
  semantics,
  structs,
  workdirs,
)
from udon_jax.pretrained import official

if TYPE_CHECKING:
  from udon_jax.data import dataset, pipeline, places, stream

Tasks = Mapping[str, Callable[[], Sequence[structs.RetrievalTask]]]


@dataclasses.dataclass(frozen=True)
class Trained:
  """The model of a checkpoint, on all devices of this machine.

  Attributes:
    config: of the run.
    step: of the checkpoint.
    mesh: of all devices.
    model: the module.
    params: its parameters.
    official: the config of a run of the official code; None for ours.
  """

  config: ml_collections.ConfigDict
  step: int
  mesh: Mesh
  model: Any
  params: Any
  official: Mapping[str, Any] | None = None

  def evaluator(self) -> evaluator.Evaluator:
    """Returns the evaluator that the run's config describes."""
    return build.make_evaluator(self.config, self.model, self.mesh)

  def fingerprint(self) -> str:
    """Returns a hash of what decides the embeddings: the model, its weights."""
    config = build.to_json(self.config)
    seen = [config["data"][key] for key in ("crop_size", "round_pixels")]
    seen.append(semantics.honours_exif(self.config))
    model = {
      key: value
      for key, value in config["model"].items()
      if f"model.{key}" not in workdirs.FREE
    }
    described = [model, *seen]
    digest = hashlib.blake2b(
      json.dumps(described, sort_keys=True).encode(), digest_size=16
    )
    for path, leaf in jax.tree_util.tree_leaves_with_path(self.params):
      digest.update(partitioning.path_name(path).encode())
      digest.update(np.asarray(partitioning.fetch(leaf)).tobytes())
    return digest.hexdigest()

  def load_tasks(
    self,
    splits: Sequence[str],
    *,
    data_dir: epath.PathLike | None = None,
    info_files: epath.PathLike | None = None,
    domains: Sequence[str] | None = None,
    data_check: str | None = None,
  ) -> Tasks:
    """Returns makers of the retrieval tasks of some splits.

    Args:
      splits: of "val" and "test".
      data_dir: where the data lies; where the run had it if None.
      info_files: folder of the info files, if it lies elsewhere; where the
        run had it if both are None.
      domains: which of the run's are tested; all if None.
      data_check: "uned" where other counts than UnED's are an error.
    """
    from udon_jax.data import dataset, places

    known = tuple(self.config.domains)
    if foreign := [name for name in domains or () if name not in known]:
      raise errors.UserError(
        f"--domains={foreign[0]} is not of the run, which has teachers for "
        f"{', '.join(known)}"
      )
    if self.official is not None:
      data_dir, info_files = _official_data(
        self.official, data_dir, info_files=info_files
      )
    if data_dir is None and info_files is None:
      info_files = self.config.info_files_dir
    found = places.find(
      data_dir or self.config.data_dir,
      domains=tuple(domains) if domains else known,
      own=own(self.config),
      info_files=info_files,
      key="--data" if data_dir else "--data (the run's own config.data_dir)",
    )
    return dataset.load_tasks(
      found,
      eval_batch_size=self.config.eval.batch_size,
      options=reading(self.config),
      eval_splits=splits,
      data_check=data_check,
    )


def own(config: ml_collections.ConfigDict) -> dict[str, own_domains.OwnDomain]:
  """Returns the domains that a config describes, by name."""
  return own_domains.parse_all(build.to_json(config)["own"])


def find_places(config: ml_collections.ConfigDict) -> "list[places.Place]":
  """Returns where the domains of a config lie."""
  from udon_jax.data import places

  return places.find(
    config.data_dir,
    domains=config.domains,
    own=own(config),
    info_files=config.info_files_dir,
    info_files_key="config.info_files_dir",
  )


def load_data(
  config: ml_collections.ConfigDict,
) -> "tuple[list[pipeline.TrainSource], dict[str, dataset.TaskBuilder]]":
  """Returns training sources and evaluation tasks of a config."""
  from udon_jax.data import dataset

  return dataset.load(
    config.data_dir,
    info_files=config.info_files_dir,
    data_check=config.data_check,
    domains=config.domains,
    own=own(config),
    batch_size=config.batch_size,
    eval_batch_size=config.eval.batch_size,
    seed=config.seed,
    options=reading(config),
  )


def num_threads(config: ml_collections.ConfigDict) -> int:
  """Returns the threads that read images."""
  return config.data.num_threads or cpus.count()


def reading(config: ml_collections.ConfigDict) -> "stream.Options":
  """Returns how this process reads the images of a config."""
  from udon_jax.data import decoders, stream  # load TensorFlow

  return stream.Options(
    resize_size=config.data.resize_size,
    crop_size=config.data.crop_size,
    round_pixels=config.data.round_pixels,
    exif=semantics.honours_exif(config),
    decoder=decoders.choose(config.data.decoder, key="config.data.decoder"),
    max_bad_share=(
      config.data.max_bad_share
      if config.data.on_bad_example == default_config.SKIP
      else None
    ),
    num_threads=num_threads(config),
    prefetch=config.data.prefetch,
    process_index=jax.process_index(),
    process_count=jax.process_count(),
  )


def load(
  workdir: epath.PathLike,
  *,
  step: int | None = None,
  batch_size: int | None = None,
  batch_size_key: str = "config.eval.batch_size",
) -> Trained:
  """Returns the model of a run.

  Args:
    workdir: the run's folder; one of the official code's will do.
    step: of the checkpoint; the best one if None. In an official folder, -1 is
      the best one, which comes before the newest.
    batch_size: images embedded at a time; as the run did if None.
    batch_size_key: what the user can set it with, for the message.

  Raises:
    UserError: there is no such checkpoint, or the devices do not share the
      batch evenly.
  """
  workdir = epath.Path(workdir).expanduser()
  if official.is_official(workdir):
    return _load_official(
      workdir, step, batch_size=batch_size, batch_size_key=batch_size_key
    )
  with contextlib.closing(
    checkpointing.open_existing(workdir, best=run.BEST_METRIC)
  ) as checkpointer:
    step = checkpointer.check_step(step, workdir)
    config = build.from_json(checkpointer.restore_meta(step).config)
    checks.check(config)
    # This machine may have other kernels and libraries.
    config.model.attention = config.data.decoder = None
    if batch_size is not None:
      config.eval.batch_size = batch_size
    mesh = build.eval_mesh(config, key=batch_size_key)
    model = build.model(config, len(config.domains))
    params = checkpointer.restore_params(
      step, build.abstract_params(config, model, mesh)
    )
  return Trained(config, step, mesh, model, params)


def _load_official(
  workdir: epath.PathLike,
  number: int | None,
  *,
  batch_size: int | None,
  batch_size_key: str,
) -> Trained:
  """Returns the model of a run of the official code; see `load`."""
  found = official.open_checkpoint(workdir, number=number, key="--workdir")
  _check_official(found, workdir)
  config = official.to_config(found)
  devices = jax.device_count()
  config.eval.batch_size = batch_size or (
    -(-config.eval.batch_size // devices) * devices
  )
  config.lock()
  mesh = build.eval_mesh(config, key=batch_size_key)
  numbers = range(len(found.domains))
  model = build.model(config, len(numbers) if found.udon else 0)
  params = official.load_module(
    found, build.abstract_params(config, model, mesh), domains=numbers
  )
  return Trained(config, found.step, mesh, model, params, found.config)


def _check_official(
  found: official.Checkpoint, workdir: epath.PathLike
) -> None:
  """Raises a UserError, naming the file, unless a config can be ours."""
  path = epath.Path(workdir) / official.CONFIG_FILE
  for name in found.domains:
    domains.get_domain(name, key=f"{path}: the domain in dataset_name")
  if found.student is None:  # which our own configs always have
    return
  try:
    checks.check(official.to_config(found))
  except errors.UserError as error:
    raise errors.UserError(
      f"{path}, read as a config of ours: {error}"
    ) from error


def _official_data(
  config: Mapping[str, Any],
  data_dir: epath.PathLike | None,
  *,
  info_files: epath.PathLike | None,
) -> tuple[epath.PathLike, epath.PathLike | None]:
  """Returns where the data lies: as given, or else as the run had it.

  Raises:
    UserError: neither is there.
  """
  from udon_jax.data import layout

  def there(key):
    path = config.get(key)
    is_path = isinstance(path, str) and path
    return path if is_path and epath.Path(path).is_dir() else None

  data_dir = data_dir or there("eval_dataset_dir")
  if data_dir is None:
    raise errors.UserError(
      "--data is missing: the run of the official code had its data in "
      f"{config.get('eval_dataset_dir')!r}, which is not here; give the data "
      "directory or its tfds/ folder, and --info_files if they lie elsewhere"
    )
  place = layout.find(data_dir, info_files=info_files, key="--data")
  if info_files is None and not place.info_files.is_dir():
    info_files = there("info_files_dir")
  return data_dir, info_files
