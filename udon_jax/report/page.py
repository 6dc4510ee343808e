"""The page of one run: what is said where."""

from collections.abc import Iterator, Mapping, Sequence
import dataclasses
import pathlib
from typing import Any

from etils import epath
import jinja2
import markupsafe

from udon_jax import default_config
from udon_jax import domains as domain_table
from udon_jax.report import charts, curves, gallery, reading, tables

_TEMPLATES = pathlib.Path(__file__).parent / "templates"
KIND_TITLES = {"merged": "Merged index", "separate": "Separate indexes"}


@dataclasses.dataclass(frozen=True)
class Figure:
  """A number of the headline."""

  label: str
  value: str
  unit: str = ""
  note: str = ""


def render(run: reading.Run, *, data_dir: epath.PathLike | None) -> str:
  """Returns the page of a run.

  Args:
    run: what it wrote.
    data_dir: where its data lies; where the run had it if None.
  """
  hues = hues_of(run.domains)
  shown, note, titles = _results(run)
  shown_sections = curves.all_sections(run, hues=hues, results=run.results)
  pictures = None
  if run.examples is not None:
    own = data_dir is None
    pictures = gallery.read(
      run.examples,
      run.config.get("data_dir") if own else data_dir,
      info_files=run.config.get("info_files_dir") if own else None,
      own=run.config.get("own") or {},
      exif=_honours_exif(run.config),
    )
  contents = [
    ("results", "Results"),
    *((section.id, section.title) for section in shown_sections),
    *([("examples", "Examples")] if pictures else []),
    ("config", "Config"),
    ("environment", "Environment"),
  ]
  return fill(
    "report.html.j2",
    title=run.name,
    lead=_lead(run),
    figures=list(_figures(run)),
    note=note,
    tables=list(zip(shown, titles, strict=True)),
    hues=hues,
    kinds=KIND_TITLES,
    gallery=pictures,
    sections=shown_sections,
    contents=contents,
    changes=tables.changes(run.config),
    config={
      key: tables.show(value)
      for key, value in tables.flatten(run.config).items()
    },
    environment=_environment(run.environment),
  )


def _honours_exif(config: Mapping[str, Any]) -> bool:
  """Returns what `semantics.honours_exif` does; runs of before had no key."""
  chosen = config.get("data", {}).get("exif", False)
  if chosen is None:
    return config.get("semantics") != default_config.OFFICIAL
  return bool(chosen)


def fill(template: str, **values: Any) -> str:
  """Returns a page; whatever comes from data is escaped."""
  environment = jinja2.Environment(
    loader=jinja2.FileSystemLoader(_TEMPLATES),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
  )
  css = (_TEMPLATES / "style.css").read_text(encoding="utf-8")
  return environment.get_template(template).render(
    css=markupsafe.Markup(css),
    **values,
  )


def hues_of(names: Sequence[str]) -> dict[str, int]:
  """Returns the number of every domain's colour.

  Those of UnED have theirs in every run; others take what is left.
  """
  known = domain_table.UNED_NAMES
  hues = {name: known.index(name) for name in names if name in known}
  free = [i for i in range(len(known)) if i not in hues.values()]
  free = free or list(range(len(known)))
  others = [name for name in names if name not in hues]
  return hues | {name: free[i % len(free)] for i, name in enumerate(others)}


def _results(
  run: reading.Run,
) -> tuple[list[tables.Table], str, list[str]]:
  """Returns the tables, what is to be said of them, and their titles."""
  if run.results is not None:
    shown = tables.results_tables(run.results)
    return shown, "", [_title(table.split) for table in shown]
  validations = run.validations()
  if not validations:
    return [], "There are no results yet, and no validation either.", []
  step = max(validations)
  shown = tables.results_tables(validations[step])
  note = (
    f"There are no results yet. This is the validation at step {step:,}, the "
    "newest one."
  )
  return shown, note, [f"Validation at step {step:,}"] * len(shown)


def _title(split: str) -> str:
  names = {"test": "Test", "val": "Validation"}
  return names.get(split, split)


def _lead(run: reading.Run) -> str:
  """Returns the line below the title."""
  model = run.config.get("model", {})
  parts = [
    model.get("name", ""),
    f"{len(run.domains)} domains: {', '.join(run.domains)}",
    f"seed {run.config['seed']}" if "seed" in run.config else "",
    f"batch {run.config['batch_size']}" if "batch_size" in run.config else "",
  ]
  return " · ".join(part for part in parts if part)


def _figures(run: reading.Run) -> Iterator[Figure]:
  """Yields the numbers of the headline."""
  yield from score_figures(run)
  total = run.num_steps
  done = total is not None and run.last_step >= total
  yield Figure(
    "Steps",
    f"{run.last_step:,}",
    note="" if done or total is None else f"of {total:,}; not finished",
  )
  count = run.environment.get("num_parameters", {})
  if count:
    yield Figure(
      "Parameters",
      charts.format_number(count["module"]),
      note=f"{charts.format_number(count['prototypes'])} of prototypes",
    )
  yield Figure("Started", run.date)


def score_figures(run: reading.Run) -> Iterator[Figure]:
  """Yields recall@1 and mMP@5 of the student, merged index, mean."""
  found, note = headline(run)
  for key, label in tables.METRICS:
    if key in found:
      yield Figure(label, tables.percent(found[key]), "%", note)
  if not found:
    yield Figure("R@1", tables.MISSING, note="no validation yet")


def headline(run: reading.Run) -> tuple[Mapping[str, float], str]:
  """Returns the student's means in the merged index, and what they are of."""
  results, when = run.results, ""
  if results is None:
    validations = run.validations()
    step = max(validations, default=0)
    results, when = validations.get(step, {}), f" at step {step:,}"
  by_split = results.get("student", {}).get("merged", {})
  split = "test" if "test" in by_split else next(iter(by_split), "")
  values: Mapping[str, Any] = by_split.get(split, {})
  note = f"{_title(split).lower()}{when}, student, merged"
  return values.get(tables.MEAN, {}), note


def _environment(environment: Mapping[str, Any]) -> dict[str, str]:
  """Returns what is told of the environment."""
  if not environment:
    return {}
  mesh = environment.get("mesh", {})
  commit = environment.get("git_commit")
  told = {
    "started": environment.get("started"),
    "devices": environment.get("num_devices"),
    "kind of device": environment.get("device_kind"),
    "processes": environment.get("num_processes"),
    "mesh": ", ".join(f"{axis} {size}" for axis, size in mesh.items()),
    "platform": environment.get("platform"),
    "python": environment.get("python"),
    **environment.get("packages", {}),
    "commit": commit
    and commit[:12] + (" and changes" if environment["git_changed"] else ""),
  }
  return {key: str(value) for key, value in told.items() if value}
