"""Tests a model or anybody's vectors: `python -m udon_jax.evaluate ...`.

`--workdir=DIR` needs nothing but the run's folder and the data: the model and
its domains are described in the checkpoint. `--pretrained=KIND:FILE --data=DIR`
tests a backbone as it comes. `--descriptors=FILE --info_files=DIR` scores
vectors of any model, without TensorFlow.
"""

from collections.abc import Sequence
import logging
import os
import pathlib
from typing import Any, TypeAlias

from absl import flags
from etils import epath
import jax

from udon_jax import (
  cli,
  domains,
  errors,
  partitioning,
  processes,
  reporting,
  scoring,
  stopping,
  trained,
  zoo,
)
from udon_jax.data import layout
from udon_jax.logs import environment
from udon_jax.models import architecture
from udon_jax.retrieval import blocks, table

logger = logging.getLogger("udon_jax.evaluate")

_WORKDIR = flags.DEFINE_string(
  "workdir", None, "Folder of the run, ours or of the official code."
)
_STEP = flags.DEFINE_integer(
  "step",
  None,
  "Checkpoint to test; the best one by default (-1 in official folders).",
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

_PRETRAINED = flags.DEFINE_string(
  "pretrained",
  None,
  "A backbone to test instead of a run, as KIND:PATH; see config.pretrained.",
)
_IMAGE_SIZE = flags.DEFINE_integer(
  "image_size",
  None,
  "Side of the images for that backbone; by default what it was made for.",
  lower_bound=1,
)
_BATCH_SIZE = flags.DEFINE_integer(
  "batch_size", None, "Images that it embeds at a time.", lower_bound=1
)
_ACTIVATION = flags.DEFINE_enum(
  "activation",
  None,
  architecture.ACTIVATIONS,
  "Of that backbone, where its file does not tell it.",
)
_NUM_HEADS = flags.DEFINE_integer(
  "num_heads", None, "Likewise, attention heads.", lower_bound=1
)
_DATA_CHECK = flags.DEFINE_enum(
  "data_check", None, ["uned"], "Makes other counts than UnED's an error."
)
_DESCRIPTORS = flags.DEFINE_string(
  "descriptors",
  None,
  "Vectors to test instead of a run: JSON, .npz or a folder of .npy.",
)
_DOMAINS = flags.DEFINE_list(
  "domains", None, "To test; all of the run, or all that are there, by default."
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
# What is tested, and the flags that go with it.
_SUBJECTS = {
  "workdir": (_WORKDIR, _STEP, _DATA, _DATA_CHECK, _DOMAINS),
  "pretrained": (
    *(_PRETRAINED, _IMAGE_SIZE, _BATCH_SIZE, _ACTIVATION, _NUM_HEADS),
    *(_DATA, _DATA_CHECK, _DOMAINS),
  ),
  "descriptors": (_DESCRIPTORS, _DOMAINS, _NORMALIZE, _BLOCK_MB),
}
_JOIN = processes.define_flags()
_JOINING = ("coordinator_address", "num_processes", "process_id")


def main(_: Sequence[str]) -> None:
  """Evaluates as the flags say."""
  for split in _SPLITS.value or [""]:
    if split not in domains.EVAL_SPLITS:
      raise errors.UserError(
        f"--splits={split} is unknown; known: {', '.join(domains.EVAL_SPLITS)}"
      )
  if _DOMAINS.value == []:
    raise errors.UserError("--domains is empty; name some, or leave it out")
  subject = _subject()
  if subject != "descriptors":
    processes.join(_JOIN())
    processes.check_agreement(
      {
        **{f"--{flag.name}": flag.value for flag in _SUBJECTS[subject]},
        "--splits": _SPLITS.value,
        "--output": _OUTPUT.value,
        "jax": jax.__version__,
        "the code of udon_jax": environment.code_digest(),
      }
    )
  results, output, shown = {
    "workdir": _test_workdir,
    "pretrained": _test_pretrained,
    "descriptors": _test_descriptors,
  }[subject]()
  if processes.is_main():
    reporting.write_json(output, results)
    logger.info("%s\nwritten to %s", table.format_table(shown), output)
  processes.wait_for_all("end")


def _subject() -> str:
  """Returns what is tested.

  Raises:
    UserError: flags do not go together.
  """
  given = [
    name for name, (flag, *_) in _SUBJECTS.items() if flag.value is not None
  ]
  subject = given[-1] if given else "workdir"
  own = {flag.name for flag in _SUBJECTS[subject]}
  owners: dict[str, list[str]] = {}
  for name, flags_of_it in _SUBJECTS.items():
    for flag in flags_of_it:
      if flag.present and flag.name not in own:
        owners.setdefault(flag.name, []).append(f"--{name}")
  if owners:
    other, names = min(owners.items())
    where = f"with --{subject}" if given else f"without {' or '.join(names)}"
    raise errors.UserError(f"--{other} does not go {where}; leave it out")
  if subject == "descriptors":
    for name in _JOINING:
      if flags.FLAGS[name].present:
        raise errors.UserError(
          f"--{name} does not go with --descriptors, which one process scores;"
          " leave it out"
        )
  return subject


# Results, where to write them, and what the table shows of them.
_Outcome: TypeAlias = tuple[dict[str, Any], epath.Path, dict[str, Any]]


def _test_pretrained() -> _Outcome:
  """Returns the results of a backbone."""
  spec = str(_PRETRAINED.value)
  if _DATA.value is None:
    raise errors.UserError(
      "--data is missing; give the data directory that --pretrained is tested "
      "on"
    )
  path = epath.Path(spec.partition(":")[2]).expanduser()
  output = epath.Path(
    _OUTPUT.value or path.parent / f"{path.name}.results.json"
  )
  found = zoo.load(
    spec,
    data_dir=_DATA.value,
    info_files=_INFO_FILES.value,
    domain_names=_DOMAINS.value,
    splits=_SPLITS.value,
    image_size=_IMAGE_SIZE.value,
    batch_size=_BATCH_SIZE.value,
    untold={
      flag.name: flag.value
      for flag in (_ACTIVATION, _NUM_HEADS)
      if flag.value is not None
    },
  )
  _check_output(output)
  tasks = _load_tasks(found)
  with stopping.noted("stopped; no results were written"):
    results = scoring.evaluate_model(
      found,
      tasks,
      splits=_SPLITS.value,
      per_query_dir=_PER_QUERY.value,
    )
  return results, output, results


def _test_workdir() -> _Outcome:
  """Returns the results of a run."""
  workdir = _WORKDIR.value
  if workdir is None:
    raise errors.UserError(
      "--workdir is missing; give the folder of a run, or vectors by "
      "--descriptors=FILE --info_files=DIR"
    )
  workdir = os.path.expanduser(workdir)
  found = trained.load(workdir, step=_STEP.value)
  output = epath.Path(
    _OUTPUT.value or epath.Path(workdir) / reporting.RESULTS_FILE
  )
  _check_output(output)
  logger.info(
    "checkpoint of step %d; %s",
    found.step,
    partitioning.describe_mesh(found.mesh),
  )
  tasks = _load_tasks(found)
  results = scoring.evaluate_model(
    found,
    tasks,
    splits=_SPLITS.value,
    per_query_dir=_PER_QUERY.value,
  )
  if found.official is None:
    return results, output, results
  logger.info(
    "as in the official code, the table shows values rounded to 3 decimals and "
    "the mean of these rounded values; the file has all digits"
  )
  return results, output, table.round_as_official(results)


def _load_tasks(found: trained.Trained) -> trained.Tasks:
  """Returns the retrieval tasks of a model."""
  return found.load_tasks(
    _SPLITS.value,
    data_dir=_DATA.value,
    info_files=_INFO_FILES.value,
    domains=_DOMAINS.value,
    data_check=_DATA_CHECK.value,
  )


def _check_output(output: epath.Path) -> None:
  """Raises a UserError if results cannot be written; they take long."""
  try:
    reporting.make_folder(output.parent, key="--output")
  except errors.UserError as error:
    if _OUTPUT.value:
      raise
    raise errors.UserError(f"{error}, or give --output=FILE") from error
  if output.is_dir():
    raise errors.UserError(f"--output={output} is taken; name a file to write")


def _test_descriptors() -> _Outcome:
  """Returns the results of descriptors."""
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
  info_files = layout.find_info_files(_INFO_FILES.value)
  name = path.name if path.is_dir() else path.stem
  output = epath.Path(_OUTPUT.value or path.parent / f"{name}.results.json")
  if output.is_dir() or output == epath.Path(path):
    raise errors.UserError(f"--output={output} is taken; name a file to write")
  reporting.make_folder(output.parent, key="--output")
  with stopping.noted("stopped; no results were written"):
    results = scoring.evaluate_descriptors(
      path,
      info_files=info_files,
      splits=_SPLITS.value,
      domain_names=_DOMAINS.value,
      normalize=_NORMALIZE.value,
      block_bytes=_BLOCK_MB.value * 2**20,
      temporary=None if "://" in str(output) else pathlib.Path(output.parent),
      per_query_dir=_PER_QUERY.value,
    )
  return results, output, results


if __name__ == "__main__":
  cli.run(main, leave=processes.leave)
