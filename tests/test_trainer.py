"""Laws of a whole run: contract, exact resume, no look at the device."""

import dataclasses
import json
import math
import shutil

import jax
import numpy as np
import pytest

from tests import fakes, training
from udon_jax import (
  checkpointing,
  chips,
  errors,
  loop,
  partitioning,
  reporting,
  trainer,
)
from udon_jax import run as runs
from udon_jax.logs import overview

NUM_STEPS = 12
LOG, EVAL, SAVE, WINDOW = 3, 6, 8, 6
FROZEN = 4
# Steps after which the host may read from the device; windows are entered
# after the last step of the one before.
POINTS = {
  step
  for step in range(NUM_STEPS + 1)
  if any(step % n == 0 for n in (LOG, EVAL, SAVE, WINDOW))
}


def config(**changes):
  return fakes.changed(
    **{
      "num_train_steps": NUM_STEPS,
      "frozen_steps": FROZEN,
      "log_every": LOG,
      "eval_every": EVAL,
      "checkpoint_every": SAVE,
      "sampler__update_every": WINDOW,
      "eval__embeddings": ("student",),
      **changes,
    }
  )


class Killed(Exception):
  """Ends a run as a kill would, between two steps."""


@dataclasses.dataclass
class Feed:
  """Counts the batches of all domains.

  Attributes:
    last: a further batch kills the run.
    domains: domain of every batch so far.
  """

  last: int | None = None
  domains: list = dataclasses.field(default_factory=list)

  def take(self, domain):
    if len(self.domains) == self.last:
      raise Killed
    self.domains.append(domain)


@dataclasses.dataclass(frozen=True)
class Source(fakes.Source):
  """A source that tells its feed of every batch."""

  feed: Feed = dataclasses.field(default_factory=Feed)

  def open(self, position):
    for batch in super().open(position):
      self.feed.take(self.name)
      yield batch


@pytest.fixture(scope="module")
def compiled():
  """One device's programs, for all runs of this file."""
  with pytest.MonkeyPatch.context() as patch:
    yield training.set_up(config(), num_devices=1, monkeypatch=patch)


def train(compiled, workdir, *, feed=None, steps=None, **changes):
  """Runs the trainer with the programs that are there."""
  c = config(**changes)
  feed = feed or Feed()
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(
      runs,
      "set_up",
      lambda config, _: dataclasses.replace(
        compiled, config=config, **(steps or {})
      ),
    )
    return trainer.train(
      c,
      workdir,
      sources=[Source(name, c.batch_size, feed=feed) for name in c.domains],
      tasks=fakes.tasks(c),
    )


def lines(workdir, *, after=0):
  """Returns the lines of metrics.jsonl but for speed, after a step."""
  return [
    line
    for line in reporting.read_metrics(workdir)
    if line["step"] > after and not any(k.startswith("speed/") for k in line)
  ]


PEAK = 1e12


@pytest.fixture(scope="module")
def whole(compiled, tmp_path_factory):
  """A run that nothing interrupted: folder, results, feed, fetches."""
  workdir = tmp_path_factory.mktemp("whole")
  feed, fetches = Feed(), []
  fetch = partitioning.fetch

  def count(tree):
    fetches.append(len(feed.domains))
    return fetch(tree)

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(partitioning, "fetch", count)
    patch.setattr(chips, "peak_flops", lambda _: PEAK)
    results = train(compiled, workdir, feed=feed)
  return workdir, results, feed, fetches


@pytest.fixture(scope="module")
def killed(compiled, tmp_path_factory):
  """A run killed before step 11: the last checkpoint is that of step 8."""
  workdir = tmp_path_factory.mktemp("killed")
  with pytest.raises(Killed):
    train(compiled, workdir, feed=Feed(last=10))
  return workdir


def test_workdir_holds_what_the_contract_says(whole):
  workdir, results, _, _ = whole
  stored = json.loads((workdir / "config.json").read_text())
  assert stored["num_train_steps"] == NUM_STEPS
  assert tuple(stored["domains"]) == fakes.DOMAINS
  assert (workdir / "checkpoints").is_dir()
  assert list(workdir.glob("events.out.tfevents.*"))
  assert (workdir / overview.PARAMETERS_FILE).exists()
  assert not (workdir / "profile").exists()
  assert reporting.read_json(workdir / "results.json") == results


def test_workdir_tells_what_was_run_on_what(compiled, whole):
  workdir, *_ = whole
  told = reporting.read_json(workdir / "environment.json")
  assert told["num_steps"] == compiled.num_steps
  assert told["frozen_steps"] == compiled.frozen_steps
  assert told["mesh"] == dict(compiled.mesh.shape)
  shapes = jax.tree.leaves(compiled.abstract_state.params)
  assert told["num_parameters"]["module"] == sum(x.size for x in shapes)


def test_examples_are_of_the_checkpoint_that_was_tested(whole):
  workdir, results, *_ = whole
  chosen = reporting.read_json(workdir / "examples.json")
  validated = {
    line["step"]: line[runs.BEST_METRIC]
    for line in lines(workdir)
    if runs.BEST_METRIC in line
  }
  assert validated[chosen["step"]] == max(validated.values())
  by_split = results["student"]["merged"]["test"]
  keys = fakes.tasks(config())["test"]()
  for group, listed in chosen["groups"].items():
    assert listed or group != "random"
    for item in listed:
      query = item["query"]
      (task,) = (x for x in keys if x.domain == query["domain"])
      assert task.query.keys[query["position"]] == query["key"]
      assert task.query.labels[query["position"]].tolist() == query["labels"]
  misses = chosen["groups"]["worst"]
  assert bool(misses) == (by_split["mean"]["recall@1"] < 1)


def test_results_have_the_form_of_the_contract(whole):
  _, results, _, _ = whole
  metrics = set(config().eval.metrics)
  assert set(results) == {"student", "teacher", "backbone"}
  for by_kind in results.values():
    assert set(by_kind) == {"separate", "merged"}
    for by_split in by_kind.values():
      assert set(by_split) == {"test"}
      by_domain = dict(by_split["test"])
      mean = by_domain.pop("mean")
      assert set(by_domain) == set(fakes.DOMAINS)
      for metric in metrics:
        values = [by_domain[name][metric] for name in fakes.DOMAINS]
        assert all(0.0 <= x <= 1.0 for x in values)
        assert mean[metric] == pytest.approx(sum(values) / len(values))
      assert set(mean) == metrics


def test_training_lines_are_means_of_the_log_window(whole):
  workdir, _, feed, _ = whole
  training_lines = [x for x in lines(workdir) if "domain" in x]
  for step in range(LOG, NUM_STEPS + 1, LOG):
    seen = feed.domains[step - LOG : step]
    counts = {
      x["domain"]: x["steps"] for x in training_lines if x["step"] == step
    }
    assert counts == {name: seen.count(name) for name in set(seen)}
  terms = [k for k in training_lines[0] if k.endswith(("ification", "lation"))]
  assert len(terms) == 4
  for line in training_lines:
    mean = sum(line[k] for k in terms) / 4  # the weights are 1
    assert line["loss"] == pytest.approx(mean, rel=1e-5)
  assert not any("loss" in x for x in lines(workdir) if "domain" not in x)


def test_first_window_takes_turns_and_the_second_follows_the_losses(whole):
  workdir, _, feed, _ = whole
  assert feed.domains[:WINDOW] == [*fakes.DOMAINS] * 2
  means = {}
  for name in fakes.DOMAINS:
    own = [x for x in lines(workdir) if x.get("domain") == name]
    own = [x for x in own if x["step"] <= WINDOW]
    total = sum(x["steps"] * x["teacher_classification"] for x in own)
    means[name] = total / sum(x["steps"] for x in own)
  (weights,) = (x for x in lines(workdir) if x["step"] == WINDOW + 1)
  for name in fakes.DOMAINS:
    share = means[name] / sum(means.values())
    assert weights[f"sampler_weight/{name}"] == pytest.approx(share, rel=1e-4)
    count = feed.domains[WINDOW:].count(name)
    assert math.floor(WINDOW * share) <= count <= math.ceil(WINDOW * share)


def test_validation_is_written_and_saved_at_its_steps(whole, compiled):
  workdir, _, _, _ = whole
  found = {
    x["step"]: x[runs.BEST_METRIC]
    for x in lines(workdir)
    if runs.BEST_METRIC in x
  }
  assert set(found) == {6, 12}
  checkpointer = checkpointing.open_existing(workdir, best=runs.BEST_METRIC)
  assert checkpointer.latest_step == NUM_STEPS
  assert found[checkpointer.best_step] == max(found.values())
  checkpointer.close()


def test_the_host_reads_at_log_evaluation_and_save_points_alone(whole):
  _, _, _, fetches = whole
  assert set(fetches) <= POINTS
  assert set(fetches) >= {0, *range(LOG, NUM_STEPS + 1, LOG), SAVE}


def test_two_programs_serve_a_run_and_all_its_domains(whole, compiled):
  assert whole
  assert compiled.frozen_step._cache_size() == 1
  assert compiled.train_step._cache_size() == 1


def test_a_killed_run_continues_as_if_nothing_had_been(whole, killed, compiled):
  """The second window and a log window are crossed by the interruption."""
  assert lines(killed)[-1]["step"] == 9  # beyond the checkpoint: cut off
  feed = Feed()
  results = train(compiled, killed, feed=feed)
  assert feed.domains == whole[2].domains[SAVE:]
  assert lines(killed) == lines(whole[0])
  assert results == whole[1]


def test_a_finished_run_is_not_trained_again(whole, compiled):
  workdir, results, _, _ = whole
  before = (workdir / "metrics.jsonl").read_text()
  feed = Feed(last=0)
  assert train(compiled, workdir, feed=feed) == results
  assert (workdir / "metrics.jsonl").read_text() == before


def test_a_run_without_results_is_tested_not_trained(whole, compiled, tmp_path):
  old, results, _, _ = whole
  workdir = tmp_path / "copy"
  shutil.copytree(old, workdir)
  (workdir / "results.json").unlink()
  assert train(compiled, workdir, feed=Feed(last=0)) == results
  assert reporting.read_json(workdir / "results.json") == results


def test_another_workdir_continues_where_a_run_stopped(
  whole, compiled, tmp_path
):
  old, new = tmp_path / "old", tmp_path / "new"
  with pytest.raises(Killed):
    train(compiled, old, feed=Feed(last=10))
  before = (old / "metrics.jsonl").read_text()
  feed = Feed()
  train(compiled, new, feed=feed, resume_from=str(old))
  assert feed.domains == whole[2].domains[SAVE:]
  for line, expected in zip(
    (x for x in lines(new) if "domain" in x),
    (x for x in lines(whole[0], after=SAVE) if "domain" in x),
    strict=True,
  ):
    assert line == expected
  assert (old / "metrics.jsonl").read_text() == before


def test_nothing_to_train_after_resume_from_is_said(whole, compiled, tmp_path):
  with pytest.raises(
    errors.UserError, match=r"at step 12 already; set config.num"
  ):
    train(compiled, tmp_path / "new", resume_from=str(whole[0]))


@pytest.mark.parametrize(
  "bad, saved",
  [(SAVE, EVAL), pytest.param(9, SAVE, marks=pytest.mark.slow)],
)
def test_divergence_names_step_and_domain_and_spoils_nothing(
  whole, compiled, tmp_path, bad, saved
):

  def spoil(params):
    return jax.tree.map(lambda x: x * np.nan, params)

  def poisoned(state, batch):
    if len(feed.domains) == bad:
      state = state.replace(params=jax.jit(spoil)(state.params))
    return compiled.train_step(state, batch)

  feed = Feed()
  domain = whole[2].domains[bad - 1]
  with pytest.raises(
    errors.DivergedError, match=rf"step {bad}, domain {domain}"
  ):
    train(compiled, tmp_path, feed=feed, steps={"train_step": poisoned})
  assert len(feed.domains) == bad  # told when it is logged or saved
  checkpointer = checkpointing.open_existing(tmp_path, best=runs.BEST_METRIC)
  assert checkpointer.latest_step == saved
  checkpointer.close()
  results = train(compiled, tmp_path)
  assert lines(tmp_path) == lines(whole[0])
  assert results == whole[1]


def test_every_is_one_based_and_counts_the_last_step():
  due = [s for s in range(1, 11) if loop.every(s, 4, last=10)]
  assert due == [4, 8, 10]
