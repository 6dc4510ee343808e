"""What whole runs write besides losses: rates, speed, a profile, W&B."""

import pytest

from tests import test_trainer, wandb_files
from udon_jax import partitioning, reporting
from udon_jax.logs import profiling, writers

# The programs and the run of that file, made once more for this one.
compiled, whole = test_trainer.compiled, test_trainer.whole
LOG, SAVE = test_trainer.LOG, test_trainer.SAVE
FROZEN, NUM_STEPS = test_trainer.FROZEN, test_trainer.NUM_STEPS


def test_rates_are_those_of_the_logged_step(whole):
  """The backbone's is 0 while it is frozen."""
  workdir, *_ = whole
  told = [x for x in test_trainer.lines(workdir) if "learning_rate/heads" in x]
  optimizer = test_trainer.config().optimizer
  assert told == [
    {
      "step": step,
      "learning_rate/backbone": pytest.approx(
        (step > FROZEN) * optimizer.backbone_learning_rate
      ),
      "learning_rate/heads": pytest.approx(optimizer.learning_rate),
    }
    for step in range(LOG, NUM_STEPS + 1, LOG)
  ]


def test_every_step_counts_for_what_it_computes(whole, compiled):
  """The second log window is frozen at first, and full after that."""
  workdir, *_ = whole
  work = compiled.count_work()
  speeds = [x for x in reporting.read_metrics(workdir) if "speed/mfu" in x]
  assert [x["step"] for x in speeds] == [*range(LOG, NUM_STEPS + 1, LOG)]
  for line in speeds:
    seconds = line["speed/step_time"] * LOG
    frozen = sum(
      step <= FROZEN for step in range(line["step"] - LOG + 1, line["step"] + 1)
    )
    expected = frozen * work.frozen_step + (LOG - frozen) * work.full_step
    rate = 1e12 * line["speed/tflops_per_device"]
    assert rate * seconds == pytest.approx(expected)
    assert line["speed/mfu"] == pytest.approx(rate / test_trainer.PEAK)


def test_a_profile_changes_nothing_else(whole, compiled, tmp_path):
  feed, fetches = test_trainer.Feed(), []
  fetch = partitioning.fetch

  def count(tree):
    fetches.append(len(feed.domains))
    return fetch(tree)

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(partitioning, "fetch", count)
    results = test_trainer.train(
      compiled, tmp_path, feed=feed, profile_steps=(4, 6)
    )
  assert test_trainer.lines(tmp_path) == test_trainer.lines(whole[0])
  assert (results, fetches) == (whole[1], whole[3])
  found = (tmp_path / profiling.FOLDER).glob("plugins/profile/*/*.xplane.pb")
  assert len(list(found)) == 1


def test_w_and_b_is_told_what_the_file_is(compiled, tmp_path, monkeypatch):
  """By two starts, of which the second goes back to the last checkpoint."""
  options = {"wandb__project": "p", "wandb__mode": "offline"}
  workdir = tmp_path / "run"
  workdir.mkdir()
  with wandb_files.isolated(tmp_path, monkeypatch):
    with pytest.raises(test_trainer.Killed):
      test_trainer.train(
        compiled, workdir, feed=test_trainer.Feed(last=10), **options
      )
    before = reporting.read_metrics(workdir)
    test_trainer.train(compiled, workdir, **options)
    first, second = wandb_files.read(workdir)
  after = [x for x in reporting.read_metrics(workdir) if x["step"] > SAVE]
  for (_, history, _, code), told, failed in (
    (first, before, 1),
    (second, after, 0),
  ):
    assert wandb_files.values(history) == [as_w_and_b(x) for x in told]
    assert code == [failed]
  assert before[-1]["step"] > SAVE


def as_w_and_b(line):
  """Returns a line of metrics.jsonl under the names of the other sinks."""
  values = dict(line)
  step, domain = values.pop("step"), values.pop("domain", "")
  steps = values.pop("steps", 0)
  record = writers.Record(step, values, domain=domain, steps=steps)
  return {"train_step": step, **record.tags()}
