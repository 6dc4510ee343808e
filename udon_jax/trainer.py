"""A run from its start to its results. It receives data, imports none."""

from collections.abc import Mapping, Sequence
import contextlib
import importlib.metadata
import logging
from typing import Any

from etils import epath
import ml_collections

from udon_jax import (
  build,
  checkpointing,
  disk,
  errors,
  evaluator,
  loop,
  partitioning,
  processes,
  reporting,
  resuming,
  stopping,
  structs,
  watching,
  workdirs,
)
from udon_jax import run as runs
from udon_jax.logs import environment, overview, profiling
from udon_jax.retrieval import table

logger = logging.getLogger(__name__)

_PLACES = ("data_dir", "info_files_dir")


def train(
  config: ml_collections.ConfigDict,
  workdir: epath.PathLike,
  *,
  sources: Sequence[structs.TrainSource],
  tasks: Mapping[str, loop.Tasks],
) -> dict[str, Any]:
  """Trains, tests the best checkpoint, and returns what the test found.

  Args:
    config: a resolved config.
    workdir: the run's folder; a run that it holds is continued.
    sources: training images of every domain, in the order of config.domains.
    tasks: makers of the "val" and "test" retrieval tasks.

  Returns:
    The contents of results.json.

  Raises:
    UserError: a value of the config does not fit.
    DivergedError: a loss or gradient was not finite.
    StoppedError: the run was asked to stop, and saved.
  """
  processes.check_agreement(_facts(config, workdir, sources))
  workdir = reporting.make_folder(workdir, key="--workdir")
  processes.check_shared(workdir, name="--workdir")
  run = runs.set_up(config, sources)
  with disk.full_disk_told(workdir), contextlib.ExitStack() as stack:
    if processes.is_main():
      stack.enter_context(workdirs.lock(workdir))
    processes.wait_for_all("lock")
    stop = stack.enter_context(stopping.noted())
    checkpointer = checkpointing.Checkpointer(
      workdir, keep_latest=config.checkpoint.keep_latest, best=runs.BEST_METRIC
    )
    stack.callback(checkpointer.close)
    state = resuming.restore_or_init(run, checkpointer, workdir=workdir)
    start = int(partitioning.fetch(state.step))
    if start >= run.num_steps:
      if checkpointer.latest_step is None:
        raise errors.UserError(
          f"config.resume_from={config.resume_from} is at step {start} "
          "already; set config.num_train_steps or config.num_epochs beyond it"
        )
      if (results := _read_results(workdir)) is not None:
        logger.info("the run is done; nothing to do")
        return _report(results)
    else:  # what is wrong with the validation is not found hours later
      evaluator.check_tasks(tasks["val"]())
    results = _train_and_test(
      run,
      state,
      start=start,
      workdir=workdir,
      data=(sources, tasks),
      checkpointer=checkpointer,
      stop=stop,
    )
  return _report(results)


def _train_and_test(
  run, state, *, start, workdir, data, checkpointer, stop
) -> dict[str, Any]:
  """Takes the steps that are left, tests, and writes the results down."""
  is_main = processes.is_main()
  sources, tasks = data
  profile = profiling.Window(
    workdir, steps=run.config.profile_steps if is_main else ()
  )
  with (
    watching.open_writer(run, workdir, is_main=is_main, step=start) as writer,
    contextlib.closing(profile),
  ):
    if is_main:
      _describe(run, workdir)
      for name in (reporting.RESULTS_FILE, reporting.EXAMPLES_FILE):
        (workdir / name).unlink(missing_ok=True)
    training = loop.Loop(run, sources=sources, tasks=tasks, writer=writer)
    try:
      with stop.deferred():
        training.train(
          state,
          start=start,
          checkpointer=checkpointer,
          stop=stop,
          profile=profile,
        )
    except errors.DivergedError as error:
      if is_main:
        workdirs.note_divergence(workdir, step=error.step, domain=error.domain)
      raise
    results, chosen = training.test(checkpointer)
    if is_main:  # before the writers close, which may wait for a network
      workdirs.forget_divergence(workdir)
      reporting.write_json(workdir / reporting.RESULTS_FILE, results)
      reporting.write_json(workdir / reporting.EXAMPLES_FILE, chosen)
  return results


def _facts(
  config: ml_collections.ConfigDict,
  workdir: epath.PathLike,
  sources: Sequence[structs.TrainSource],
) -> dict[str, Any]:
  """Returns what all processes of a run must have in common.

  The places of the data may differ, what lies there may not.
  """
  flat = workdirs.flatten(build.to_json(config))
  return {
    **{f"config.{k}": v for k, v in flat.items() if k not in _PLACES},
    **{f"the data of {x.name}": x.fingerprint for x in sources},
    "--workdir": str(workdir),
    "jax": importlib.metadata.version("jax"),
    "the code of udon_jax": environment.code_digest(),
  }


def _describe(run: runs.Run, workdir: epath.Path) -> None:
  """Writes down what is run, and on what."""
  reporting.write_class_names(workdir, run.class_names)
  reporting.write_json(workdir / reporting.CONFIG_FILE, run.meta.config)
  reporting.write_json(
    workdir / reporting.ENVIRONMENT_FILE,
    {
      **environment.describe(run.mesh),
      "num_steps": run.num_steps,
      "frozen_steps": run.frozen_steps,
      "num_parameters": overview.num_parameters(run.abstract_state, run.layout),
    },
  )


def _read_results(workdir: epath.Path) -> dict[str, Any] | None:
  """Returns the results of a run that is done, None if it is not.

  The examples are the mark of the final test: results may be an evaluation's.
  """
  if not (workdir / reporting.EXAMPLES_FILE).exists():
    return None
  try:
    return reporting.read_json(workdir / reporting.RESULTS_FILE)
  except (FileNotFoundError, ValueError):
    return None


def _report(results: dict[str, Any]) -> dict[str, Any]:
  """Shows the results as a table, and returns them."""
  logger.info("\n%s", table.format_table(results))
  return results
