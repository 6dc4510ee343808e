"""What a run has written so far, for its report.

Shape legend: n points of a curve.
"""

from collections.abc import Iterator, Mapping, Sequence
import dataclasses
import datetime
import json
from typing import Any

from etils import epath
from jaxtyping import Float, Int
import numpy as np

from udon_jax import errors, losses, reporting

TERMS = ("loss", *losses.TERMS)


@dataclasses.dataclass(frozen=True)
class Curve:
  """Values over steps."""

  steps: Int[np.ndarray, "n"]
  values: Float[np.ndarray, "n"]

  def __len__(self) -> int:
    """Returns the number of points."""
    return len(self.steps)


@dataclasses.dataclass(frozen=True)
class Run:
  """The files of a workdir; what is not there yet is None or empty.

  Attributes:
    name: of the folder.
    date: when it was started, as text.
    config: its resolved config, as plain values.
    lines: of metrics.jsonl.
    results: of results.json.
    examples: of examples.json.
    environment: of environment.json.
  """

  name: str
  date: str
  config: Mapping[str, Any]
  lines: Sequence[Mapping[str, Any]]
  results: Mapping[str, Any] | None
  examples: Mapping[str, Any] | None
  environment: Mapping[str, Any]

  @property
  def domains(self) -> tuple[str, ...]:
    """Returns the names of the domains."""
    named = (line["domain"] for line in self.lines if "domain" in line)
    return tuple(self.config.get("domains") or dict.fromkeys(named))

  @property
  def last_step(self) -> int:
    """Returns the last step that the run told of."""
    return max((line["step"] for line in self.lines), default=0)

  @property
  def num_steps(self) -> int | None:
    """Returns the length of the run, where it is known."""
    return self.environment.get("num_steps") or self.config.get(
      "num_train_steps"
    )

  @property
  def frozen_steps(self) -> int:
    """Returns how many steps the backbone sat still."""
    steps = self.environment.get("frozen_steps")
    return (self.config.get("frozen_steps") if steps is None else steps) or 0

  def curve(self, key: str, *, domain: str | None = None) -> Curve:
    """Returns a value over steps, of a domain's training or of the run."""
    return _curve(
      (line["step"], line[key])
      for line in self.lines
      if key in line and line.get("domain") == domain
    )

  def losses(self, term: str) -> dict[str, Curve]:
    """Returns a loss term of every domain."""
    return {name: self.curve(term, domain=name) for name in self.domains}

  def mean_loss(self, term: str) -> Curve:
    """Returns the mean of a loss term over all domains.

    Of a domain that was not trained since the last log point its last value
    counts; the curve starts where every domain has one.
    """
    latest: dict[str, float] = {}
    points: dict[int, float] = {}
    for line in self.lines:
      if term in line and line.get("domain") in self.domains:
        latest[line["domain"]] = line[term]
        if len(latest) == len(self.domains):
          points[line["step"]] = float(np.mean(list(latest.values())))
    return _curve(iter(points.items()))

  def weight(self, domain: str) -> Curve:
    """Returns the sampling weight of a domain, a point a window."""
    return self.curve(f"sampler_weight/{domain}")

  def validations(self) -> dict[int, dict[str, Any]]:
    """Returns {step: results}, in the form of results.json."""
    found = {}
    for line in self.lines:
      nested: dict[str, Any] = {}
      for key, value in line.items():
        if key.startswith("val/") and key.count("/") >= 4:
          split, name, kind, *rest, metric = key.split("/")
          domain = "/".join(rest)
          by_split = nested.setdefault(name, {}).setdefault(kind, {})
          by_split.setdefault(split, {}).setdefault(domain, {})[metric] = value
      if nested:
        found[line["step"]] = nested
    return found


def _curve(points: Iterator[tuple[int, float]]) -> Curve:
  steps, values = [], []
  for step, value in points:
    if value is not None and np.isfinite(value):
      steps.append(step)
      values.append(float(value))
  return Curve(np.array(steps, np.int64), np.array(values))


def load(workdir: epath.PathLike, *, key: str) -> Run:
  """Returns what a run has written so far.

  Args:
    workdir: the run's folder.
    key: what the user set it with, for the message.

  Raises:
    UserError: it holds no run, or a file of it is damaged or not a run's.
  """
  folder = epath.Path(workdir).expanduser()
  config_file = folder / reporting.CONFIG_FILE
  metrics_file = folder / reporting.METRICS_FILE
  if not config_file.exists() and not metrics_file.exists():
    raise errors.UserError(
      f"{key}={workdir} holds no run: neither {config_file.name} nor "
      f"{metrics_file.name} is there; give the --workdir of udon_jax.main"
    )
  environment = _read_object(folder / reporting.ENVIRONMENT_FILE) or {}
  examples = _read_object(folder / reporting.EXAMPLES_FILE)
  results = _read_object(folder / reporting.RESULTS_FILE)
  if results is not None:
    _check_results(folder / reporting.RESULTS_FILE, results)
  newest = metrics_file if metrics_file.exists() else config_file
  return Run(
    name=folder.resolve().name,
    date=str(environment.get("started") or _modified(newest))[:10],
    config=_read_object(config_file) or {},
    lines=read_lines(metrics_file) if metrics_file.exists() else (),
    results=results,
    examples=examples,
    environment=environment,
  )


def read_lines(file: epath.Path) -> list[dict[str, Any]]:
  """Returns the lines of a metrics.jsonl that may still be written.

  A last line that is not whole is left out: a live run is writing it.

  Raises:
    UserError: another line is no JSON object with a step.
  """
  lines = []
  content = file.read_bytes().decode(errors="replace")
  text = content.splitlines(keepends=True)
  for number, line in enumerate(text, start=1):
    try:
      values = json.loads(line)
      step = values["step"]
      whole = isinstance(step, int) and line.endswith("\n")
    except (json.JSONDecodeError, KeyError, TypeError):
      whole = False
    if whole and _has_numbers(values):
      lines.append(values)
    elif number < len(text) or line.endswith("\n"):
      raise errors.UserError(
        f"{file}: line {number} is no metrics of a run (a JSON object with a "
        "step and numbers); restore the file, or remove the line"
      )
  return lines


def _has_numbers(line: Mapping[str, Any]) -> bool:
  """Whether all values but the domain's name are numbers."""
  return all(
    isinstance(value, str if key == "domain" else int | float | None)
    for key, value in line.items()
  )


def _read_object(file: epath.Path) -> dict[str, Any] | None:
  """Returns the JSON object of a file, None if there is no file."""
  if not file.exists():
    return None
  try:
    value = json.loads(file.read_text())
  except ValueError as error:
    raise _damaged(file, str(error)) from None
  if not isinstance(value, dict):
    raise _damaged(file, "no JSON object")
  return value


def _check_results(file: epath.Path, results: Mapping[str, Any]) -> None:
  """Raises a UserError unless results have the form of results.json."""
  try:
    values = [
      float(x)
      for kinds in results.values()
      for by_split in kinds.values()
      for by_domain in by_split.values()
      for metrics in by_domain.values()
      for x in metrics.values()
    ]
  except (AttributeError, TypeError, ValueError):
    raise _damaged(file, "not in the form of a run's results") from None
  if not values:
    raise _damaged(file, "no results in it")


def _damaged(file: epath.Path, reason: str) -> errors.UserError:
  return errors.UserError(
    f"{file} is damaged ({' '.join(reason.split())}); delete it, and run "
    "udon_jax.main again with the same flags to write it anew"
  )


def _modified(file: epath.Path) -> str:
  """Returns when a file was written, as an ISO date."""
  seconds = file.stat().mtime
  return datetime.datetime.fromtimestamp(seconds, datetime.UTC).isoformat()
