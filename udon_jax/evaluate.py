"""Tests a checkpoint or anybody's vectors: `python -m udon_jax.evaluate ...`.

`--workdir=DIR` needs nothing but the run's folder and the data: the model and
its domains are described in the checkpoint. `--descriptors=FILE
--info_files=DIR` scores vectors of any model, without TensorFlow.
"""

from collections.abc import Mapping, Sequence
import logging
import pathlib
import tempfile
from typing import Any

from absl import flags
from etils import epath

from udon_jax import (
  cli,
  default_config,
  domains,
  errors,
  evaluator,
  partitioning,
  reporting,
  stopping,
  trained,
)
from udon_jax.data import descriptors, layout
from udon_jax.retrieval import blocks, protocol, table

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
  "output",
  None,
  "File of the results; by default <workdir>/results.json, or "
  "<name>.results.json beside the descriptors.",
)
_PER_QUERY = flags.DEFINE_string(
  "per_query", None, "Also writes every query's neighbours: DIR for .jsonl."
)

_DESCRIPTORS = flags.DEFINE_string(
  "descriptors",
  None,
  "Vectors to test instead of a run: JSON, .npz or a folder of .npy.",
)
_DOMAINS = flags.DEFINE_list(
  "domains", None, "Of the descriptors; all that are there by default."
)
_NORMALIZE = flags.DEFINE_bool(
  "normalize", True, "Divides descriptors by their lengths, where not 1."
)
_BLOCK_MB = flags.DEFINE_integer(
  "block_mb",
  blocks.BLOCK_BYTES // 2**20,
  "MiB of descriptors in memory at a time, of queries and of the index.",
  lower_bound=1,
)
_FOR_WORKDIR = (_WORKDIR, _STEP, _DATA)
_FOR_DESCRIPTORS = (_DOMAINS, _NORMALIZE, _BLOCK_MB)


def main(_: Sequence[str]) -> None:
  """Evaluates as the flags say."""
  for split in _SPLITS.value or [""]:
    if split not in domains.EVAL_SPLITS:
      raise errors.UserError(
        f"--splits={split} is unknown; known: {', '.join(domains.EVAL_SPLITS)}"
      )
  by_descriptors = _DESCRIPTORS.value is not None
  for flag in _FOR_WORKDIR if by_descriptors else _FOR_DESCRIPTORS:
    if flag.present:
      raise errors.UserError(
        f"--{flag.name} does not go {'with' if by_descriptors else 'without'} "
        "--descriptors; leave it out"
      )
  results, output = _test_descriptors() if by_descriptors else _test_workdir()
  reporting.write_json(output, results)
  logger.info("%s\nwritten to %s", table.format_table(results), output)


def _test_workdir() -> tuple[dict[str, Any], epath.Path]:
  """Returns the results of a run, and where to write them."""
  workdir = _WORKDIR.value
  if workdir is None:
    raise errors.UserError(
      "--workdir is missing; give the folder of a run, or vectors by "
      "--descriptors=FILE --info_files=DIR"
    )
  results = evaluate_workdir(
    workdir,
    step=_STEP.value,
    data_dir=_DATA.value,
    info_files=_INFO_FILES.value,
    splits=_SPLITS.value,
    per_query_dir=_PER_QUERY.value,
  )
  output = epath.Path(
    _OUTPUT.value or epath.Path(workdir) / reporting.RESULTS_FILE
  )
  reporting.make_folder(output.parent, key="--output")
  return results, output


def _test_descriptors() -> tuple[dict[str, Any], epath.Path]:
  """Returns the results of descriptors, and where to write them."""
  path = pathlib.Path(str(_DESCRIPTORS.value)).expanduser().absolute()
  if not path.exists():
    raise errors.UserError(
      f"--descriptors={_DESCRIPTORS.value} does not exist on this machine; "
      "give a JSON or .npz file, or a folder of .npy"
    )
  if _INFO_FILES.value is None:
    raise errors.UserError(
      "--info_files is missing; it tells the classes: give the folder that "
      "holds <domain>/<split>.json"
    )
  if _DOMAINS.value == []:
    raise errors.UserError("--domains is empty; name some, or leave it out")
  info_files = layout.find_info_files(_INFO_FILES.value)
  name = path.name if path.is_dir() else path.stem
  output = epath.Path(_OUTPUT.value or path.parent / f"{name}.results.json")
  if output.is_dir() or output == epath.Path(path):
    raise errors.UserError(f"--output={output} is taken; name a file to write")
  reporting.make_folder(output.parent, key="--output")
  with stopping.noted("stopped; no results were written"):
    results = evaluate_descriptors(
      path,
      info_files=info_files,
      splits=_SPLITS.value,
      domain_names=_DOMAINS.value,
      normalize=_NORMALIZE.value,
      block_bytes=_BLOCK_MB.value * 2**20,
      temporary=None if "://" in str(output) else pathlib.Path(output.parent),
      per_query_dir=_PER_QUERY.value,
    )
  return results, output


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


if __name__ == "__main__":
  cli.run(main)
