"""Tests a checkpoint: `python -m udon_jax.evaluate --workdir=DIR`.

Needs nothing but the run's folder and the data: the model and its domains are
described in the checkpoint.
"""

from collections.abc import Mapping, Sequence
import logging
from typing import Any

from absl import flags
from etils import epath

from udon_jax import (
  cli,
  domains,
  errors,
  evaluator,
  partitioning,
  reporting,
  trained,
)
from udon_jax.retrieval import protocol, table

logger = logging.getLogger("udon_jax.evaluate")

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run.")
_STEP = flags.DEFINE_integer(
  "step", None, "Checkpoint to test; the best one by default."
)
_DATA = flags.DEFINE_string(
  "data", None, "A data directory, or its tfds/ folder; the run's by default."
)
_INFO_FILES = flags.DEFINE_string(
  "info_files", None, "Folder of the info files, if not in the data directory."
)
_SPLITS = flags.DEFINE_list("splits", ["test"], "Of val, test.")
_OUTPUT = flags.DEFINE_string(
  "output", None, "File of the results; <workdir>/results.json by default."
)
_PER_QUERY = flags.DEFINE_string(
  "per_query", None, "Also writes every query's neighbours: DIR for .jsonl."
)


def main(_: Sequence[str]) -> None:
  """Evaluates as the flags say."""
  if _WORKDIR.value is None:
    raise errors.UserError("--workdir is missing; give the folder of a run")
  for split in _SPLITS.value:
    if split not in domains.EVAL_SPLITS:
      raise errors.UserError(
        f"--splits={split} is unknown; known: {', '.join(domains.EVAL_SPLITS)}"
      )
  results = evaluate_workdir(
    _WORKDIR.value,
    step=_STEP.value,
    data_dir=_DATA.value,
    info_files=_INFO_FILES.value,
    splits=_SPLITS.value,
    per_query_dir=_PER_QUERY.value,
  )
  output = epath.Path(
    _OUTPUT.value or epath.Path(_WORKDIR.value) / reporting.RESULTS_FILE
  )
  reporting.make_folder(output.parent, key="--output")
  reporting.write_json(output, results)
  logger.info("%s\nwritten to %s", table.format_table(results), output)


def evaluate_workdir(
  workdir: epath.PathLike,
  *,
  step: int | None,
  data_dir: epath.PathLike | None,
  info_files: epath.PathLike | None,
  splits: Sequence[str],
  per_query_dir: epath.PathLike | None,
) -> dict[str, Any]:
  """Returns the results of a run's checkpoint.

  Args:
    workdir: the run's folder.
    step: of the checkpoint; the best one if None.
    data_dir: where the data lies; where the run had it if None.
    info_files: folder of the info files, if it lies elsewhere.
    splits: of "val" and "test".
    per_query_dir: folder for every query's neighbours, if wanted.
  """
  found = trained.load(workdir, step=step)
  logger.info(
    "checkpoint of step %d; %s",
    found.step,
    partitioning.describe_mesh(found.mesh),
  )
  tasks = found.load_tasks(splits, data_dir=data_dir, info_files=info_files)
  scorer = found.evaluator()
  by_split = {
    split: scorer.run(
      found.params,
      tasks[split](),
      names=evaluator.EMBEDDINGS,
      per_query=per_query_dir is not None,
    )
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


if __name__ == "__main__":
  cli.run(main)
