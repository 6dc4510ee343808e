"""A trained model and its data, from the run's folder alone."""

from collections.abc import Callable, Mapping, Sequence
import contextlib
import dataclasses
import os
from typing import Any

from etils import epath
from jax.sharding import Mesh
import ml_collections

from udon_jax import build, checkpointing, checks, evaluator, run, structs

Tasks = Mapping[str, Callable[[], Sequence[structs.RetrievalTask]]]


@dataclasses.dataclass(frozen=True)
class Trained:
  """The model of a checkpoint, on all devices of this machine."""

  config: ml_collections.ConfigDict
  step: int
  mesh: Mesh
  model: Any
  params: Any

  def evaluator(self) -> evaluator.Evaluator:
    """Returns the evaluator that the run's config describes."""
    return build.make_evaluator(self.config, self.model, self.mesh)

  def load_tasks(
    self,
    splits: Sequence[str],
    *,
    data_dir: epath.PathLike | None = None,
    info_files: epath.PathLike | None = None,
  ) -> Tasks:
    """Returns makers of the retrieval tasks of some splits.

    Args:
      splits: of "val" and "test".
      data_dir: where the data lies; where the run had it if None.
      info_files: folder of the info files, if it lies elsewhere.
    """
    from udon_jax.data import dataset, layout, stream

    place = layout.find(
      data_dir or self.config.data_dir, info_files=info_files, key="--data"
    )
    return dataset.load_tasks(
      place,
      domains=self.config.domains,
      eval_batch_size=self.config.eval.batch_size,
      options=stream.Options(
        resize_size=self.config.data.resize_size,
        crop_size=self.config.data.crop_size,
        num_threads=num_threads(self.config),
        prefetch=self.config.data.prefetch,
      ),
      eval_splits=splits,
    )


def num_threads(config: ml_collections.ConfigDict) -> int:
  """Returns the threads that read images."""
  return config.data.num_threads or os.cpu_count() or 1


def load(workdir: epath.PathLike, *, step: int | None = None) -> Trained:
  """Returns the model of a run.

  Args:
    workdir: the run's folder.
    step: of the checkpoint; the best one if None.

  Raises:
    UserError: there is no such checkpoint.
  """
  with contextlib.closing(
    checkpointing.open_existing(workdir, best=run.BEST_METRIC)
  ) as checkpointer:
    step = checkpointer.check_step(step, workdir)
    config = build.from_json(checkpointer.restore_meta(step).config)
    checks.check(config)
    mesh = build.eval_mesh(config)
    model = build.model(config, len(config.domains))
    params = checkpointer.restore_params(
      step, build.abstract_params(config, model, mesh)
    )
  return Trained(config, step, mesh, model, params)
