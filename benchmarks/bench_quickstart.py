"""What the quickstart learned, against what needs no training.

  python -m benchmarks.bench_quickstart --workdir=runs/quickstart

Merged and separate R@1 on the test splits of the run's data: the trained
model, the same model before its first step, and a colour histogram (8 x 8 x 8
bins, square roots, at unit length). Needs the `data` extra. Exit code 1 if one
of the bounds in the last table does not hold.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from absl import flags
import jax
from jaxtyping import Float
import numpy as np

from benchmarks import common
from udon_jax import (
  cli,
  evaluator,
  reporting,
  structs,
  trained,
)
from udon_jax.retrieval import protocol

_WORKDIR = flags.DEFINE_string("workdir", "runs/quickstart", "The run.")
_HARDWARE = flags.DEFINE_string("hardware", "cpu2", "Named in the result file.")

BINS = 8


def color_histograms(split: structs.ImageSplit) -> Float[np.ndarray, "n d"]:
  """Returns the square roots of every image's colour shares."""
  rows = []
  for batch in split.open():
    bins = batch.images.astype(np.int32) // (256 // BINS)
    codes = (bins[..., 0] * BINS + bins[..., 1]) * BINS + bins[..., 2]
    for code in codes.reshape(len(codes), -1)[batch.mask]:
      shares = np.bincount(code, minlength=BINS**3) / code.size
      rows.append(np.sqrt(shares).astype(np.float32))
  return np.stack(rows)


def score_histograms(tasks: Sequence[structs.RetrievalTask]) -> dict[str, Any]:
  """Returns the results of the colour histogram."""
  embeddings = {
    (split.domain, split.name): color_histograms(split)
    for task in tasks
    for split in {
      task.query.name: task.query,
      task.index.name: task.index,
    }.values()
  }
  return protocol.evaluate(tasks, embeddings, metrics=("recall@1",))


def initial_params(config: Any, model: Any) -> Any:
  """Returns the parameters that the run started from."""
  size = config.data.crop_size
  images = np.zeros((1, size, size, 3), np.uint8)
  key, _ = jax.random.split(jax.random.key(config.seed))
  return jax.jit(lambda k: model.init(k, images, 0, train=False)["params"])(key)


def score(workdir: str) -> dict[str, dict[str, Any]]:
  """Returns the results of every method, by name."""
  found = trained.load(workdir)
  tasks = found.load_tasks(["test"])["test"]()
  scorer = found.evaluator()
  initial = initial_params(found.config, found.model)
  untrained = scorer.run(initial, tasks, names=["student"])
  results = scorer.run(found.params, tasks, names=evaluator.EMBEDDINGS)
  return {
    "colour histogram": score_histograms(tasks),
    "untrained student": untrained["student"],
    **{f"trained {name}": results[name] for name in evaluator.EMBEDDINGS},
  }


def bounds(
  scores: Mapping[str, Mapping[str, Any]], workdir: str
) -> list[dict[str, Any]]:
  """Returns the quantities that the quickstart is held to."""

  def recall(name, kind="merged", domain="mean"):
    return scores[name][kind][domain]["recall@1"]

  student, untrained = "trained student", "untrained student"
  gains = [
    recall(student, domain=name) / max(recall(untrained, domain=name), 1e-9)
    for name in scores[student]["merged"]
  ]
  teachers = recall(student, "separate") / recall("trained teacher", "separate")
  rows = [
    ("student merged R@1", recall(student), 0.35),
    ("/ untrained", recall(student) / recall(untrained), 2.0),
    ("/ colour histogram", recall(student) / recall("colour histogram"), 1.3),
    ("smallest gain of a domain", min(gains), 1.0),
    ("separate R@1 / teachers'", teachers, 0.85),
    ("rank correlation of loss and weight", weight_order(workdir), 0.999),
  ]
  return [
    {
      "bound": name,
      "measured": value,
      "at least": least,
      "holds": value >= least,
    }
    for name, value, least in rows
  ]


def weight_order(workdir: str) -> float:
  """Returns how the last weights rank against the losses they come from.

  1 if they are in the same order (Spearman).
  """
  lines = reporting.read_metrics(workdir)
  prefix = "sampler_weight/"
  last = [line for line in lines if f"{prefix}cars" in line][-1]
  sampler = reporting.read_json(f"{workdir}/{reporting.CONFIG_FILE}")["sampler"]
  start = last["step"] - sampler["update_every"]
  seen: dict[str, list[tuple[float, int]]] = {}
  for line in lines:
    if "domain" in line and start <= line["step"] < last["step"]:
      pair = (line["teacher_classification"], line["steps"])
      seen.setdefault(line["domain"], []).append(pair)
  losses = np.argsort(np.argsort([_mean(pairs) for pairs in seen.values()]))
  weights = np.argsort(np.argsort([last[prefix + name] for name in seen]))
  return float(np.corrcoef(losses, weights)[0, 1])


def _mean(pairs: Sequence[tuple[float, int]]) -> float:
  """Returns the mean of values with weights."""
  values, weights = zip(*pairs, strict=True)
  return float(np.average(values, weights=weights))


def main(_: Sequence[str]) -> int:
  """Prints the tables and writes the result files."""
  scores = score(_WORKDIR.value)
  rows = [
    {
      "method": name,
      "index": kind,
      **{d: 100 * v["recall@1"] for d, v in results[kind].items()},
    }
    for name, results in scores.items()
    for kind in ("merged", "separate")
  ]
  held = bounds(scores, _WORKDIR.value)
  path = common.write(
    f"quickstart_{_HARDWARE.value}",
    common.header("jax", "flax", "tensorflow-cpu"),
    rows + held,
  )
  print(common.markdown(rows + held))
  print(f"written to {path}")
  return 0 if all(row["holds"] for row in held) else 1


if __name__ == "__main__":
  cli.run(main)
