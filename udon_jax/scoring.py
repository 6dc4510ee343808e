"""Scores models and descriptors on the retrieval tasks of some splits."""

from collections.abc import Mapping, Sequence
import logging
import pathlib
import tempfile
from typing import Any

from etils import epath

from udon_jax import (
  default_config,
  evaluator,
  partitioning,
  processes,
  reporting,
  trained,
)
from udon_jax.data import descriptors
from udon_jax.retrieval import protocol

logger = logging.getLogger(__name__)


def evaluate_model(
  found: trained.Trained,
  tasks: trained.Tasks,
  *,
  splits: Sequence[str],
  per_query_dir: epath.PathLike | None,
) -> dict[str, Any]:
  """Returns the results of every embedding that a model has.

  Args:
    found: the model.
    tasks: makers of the retrieval tasks, by split.
    splits: of "val" and "test".
    per_query_dir: folder for every query's neighbours, if wanted.
  """
  scorer = found.evaluator()
  by_split = {
    split: scorer.run(
      found.params,
      tasks[split](),
      names=found.model.embeddings,
      per_query=per_query_dir is not None,
    )
    for split in splits
  }
  if per_query_dir is not None and processes.is_main():
    _write_per_query(by_split, per_query_dir)
  return evaluator.nest(by_split)


def evaluate_descriptors(
  path: pathlib.Path,
  *,
  info_files: epath.Path,
  splits: Sequence[str],
  domain_names: Sequence[str] | None,
  normalize: bool,
  block_bytes: int,
  temporary: pathlib.Path | None,
  per_query_dir: epath.PathLike | None,
) -> dict[str, Any]:
  """Returns the results of every embedding in a file of descriptors.

  Args:
    path: the file or folder; see `data.descriptor_files` for its form.
    info_files: folder of the info files.
    splits: of "val" and "test".
    domain_names: which domains to take; all of the file if None.
    normalize: whether rows that are not of unit length are brought to it.
    block_bytes: of vectors in memory at a time, of queries and of indexes.
    temporary: folder for temporary files; the system's if None.
    per_query_dir: folder for every query's neighbours, if wanted.
  """
  if per_query_dir is not None:
    reporting.make_folder(per_query_dir, key="--per_query")
  with tempfile.TemporaryDirectory(
    prefix=".descriptors.", dir=temporary
  ) as folder:
    found = descriptors.read(
      path,
      info_files=info_files,
      splits=splits,
      domains=domain_names,
      normalize=normalize,
      folder=pathlib.Path(folder),
    )
    if found.odd:
      logger.warning(
        "lengths are not 1 (%s): %s",
        "; ".join(found.odd),
        "rows are divided by them (--nonormalize compares them as they are)"
        if normalize
        else "inner products are compared as they are",
      )
    mesh = partitioning.make_mesh(data=-1, fsdp=1)
    by_split = {
      split: {
        name: protocol.evaluate(
          found.tasks[split],
          rows,
          metrics=default_config.get_config().eval.metrics,
          mesh=mesh,
          block_bytes=block_bytes,
          per_query=per_query_dir is not None,
        )
        for name, rows in found.embeddings.items()
      }
      for split in splits
    }
  if per_query_dir is not None:
    _write_per_query(by_split, per_query_dir)
  return evaluator.nest(by_split)


def _write_per_query(
  by_split: Mapping[str, Any], folder: epath.PathLike
) -> None:
  """Writes <split>_<embedding>_<separate|merged>.jsonl."""
  folder = reporting.make_folder(folder, key="--per_query")
  for split, by_name in by_split.items():
    for name, results in by_name.items():
      for kind, queries in results.pop("per_query").items():
        protocol.write_per_query(
          folder / f"{split}_{name}_{kind}.jsonl", queries
        )
