"""The report of a run: one page, complete in itself.

Needs the extra `viz`; nothing here imports it before it is used.
"""

from collections.abc import Sequence
import dataclasses
import importlib.util
import os

from etils import epath

from udon_jax import errors, reporting

REPORT_FILE = "report.html"
COMPARE_FILE = "compare.html"
LIBRARIES = ("matplotlib", "jinja2")
INSTALL = "pip install 'udon_jax[viz]'"


def missing_libraries() -> list[str]:
  """Returns what a report needs and is not installed."""
  return [name for name in LIBRARIES if importlib.util.find_spec(name) is None]


def write(
  workdir: epath.PathLike,
  *,
  output: epath.PathLike | None = None,
  data_dir: epath.PathLike | None = None,
) -> epath.Path:
  """Writes the report of a run; returns its file.

  Args:
    workdir: the run's folder; the run may not be finished.
    output: the file; report.html in the workdir if None.
    data_dir: where the run's data lies; where the run had it if None.

  Raises:
    UserError: the folder holds no run, a file of it is damaged, a library is
      missing, or the file cannot be written.
  """
  _check_libraries()
  from udon_jax.report import page, reading

  run = reading.load(workdir, key="--workdir")
  html = page.render(run, data_dir=data_dir)
  return _write(output or epath.Path(workdir) / REPORT_FILE, html)


def write_comparison(
  workdirs: Sequence[epath.PathLike], *, output: epath.PathLike | None = None
) -> epath.Path:
  """Writes a page that puts runs side by side; returns its file.

  Args:
    workdirs: the runs' folders; a run may not be finished.
    output: the file; compare.html in the current folder if None.

  Raises:
    UserError: there are fewer than two folders or one comes twice, one holds
      no run, a file of one is damaged, a library is missing, or the file
      cannot be written.
  """
  _check_libraries()
  from udon_jax.report import compare, reading

  places = [epath.Path(folder).expanduser().resolve() for folder in workdirs]
  if len(places) < 2:
    raise errors.UserError(
      f"--compare needs at least two folders of runs, not {len(places)}: "
      "--compare DIR DIR ..."
    )
  for place, folder in zip(places, workdirs, strict=True):
    if places.count(place) > 1:
      raise errors.UserError(
        f"--compare: {folder} is named twice; name every run once"
      )
  runs = [reading.load(folder, key="--compare") for folder in workdirs]
  names = [run.name for run in runs]
  runs = [
    dataclasses.replace(run, name=os.fspath(folder))
    if names.count(run.name) > 1
    else run
    for run, folder in zip(runs, workdirs, strict=True)
  ]
  return _write(output or COMPARE_FILE, compare.render(runs))


def _check_libraries() -> None:
  missing = missing_libraries()
  if missing:
    raise errors.UserError(
      f"{' and '.join(missing)} not installed, which a report is made with: "
      f"{INSTALL}"
    )


def _write(output: epath.PathLike, html: str) -> epath.Path:
  file = epath.Path(output).expanduser()
  reporting.make_folder(file.parent, key="--output")
  if file.is_dir():
    raise errors.UserError(f"--output={output} is a folder; name a file in it")
  reporting.write_atomically(file, html)
  return file
