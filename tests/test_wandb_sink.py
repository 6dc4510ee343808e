"""Weights & Biases, offline: what arrives in its files, and what may fail."""

import json
import subprocess
import sys

import pytest
import wandb

from tests import fakes, training, wandb_files
from udon_jax import checks, errors
from udon_jax.logs import wandb_sink, writers

CONFIG = {"seed": 0, "model": {"name": "vit_mu8"}, "domains": ["cars"]}


@pytest.fixture(autouse=True)
def _isolated(tmp_path, monkeypatch):
  with wandb_files.isolated(tmp_path, monkeypatch):
    yield


def open_sink(workdir, **changes):
  workdir.mkdir(exist_ok=True)
  options = {"project": "p", "name": None, "mode": "offline", "config": CONFIG}
  return wandb_sink.WandbSink(workdir, **{**options, **changes})


def test_values_and_config_arrive(tmp_path):
  workdir = tmp_path / "a run"
  sink = open_sink(workdir)
  sink.write(writers.Record(10, {"loss": 2.5}, domain="cars", steps=4))
  sink.write(writers.Record(10, {"speed/step_time": 0.5}))
  sink.close(failed=False)
  ((run, history, metrics, exits),) = wandb_files.read(workdir)
  assert wandb_files.values(history) == [
    {"train_step": 10, "train/loss/cars": 2.5},
    {"train_step": 10, "speed/step_time": 0.5},
  ]
  config = {x.key: json.loads(x.value_json) for x in run.config.update}
  assert {k: config[k] for k in CONFIG} == CONFIG
  assert (run.project, run.display_name) == ("p", "a run")
  axes = {m.glob_name or m.name: m.step_metric for m in metrics}
  assert axes == {"train_step": "", "*": "train_step"}
  assert exits == [0]


def test_a_restart_continues_the_same_run_and_may_go_back(tmp_path):
  """A killed run goes back to its checkpoint: no value is refused for that."""
  for step, failed in ((8, True), (5, False)):
    sink = open_sink(tmp_path / "run")
    for later in range(3):
      sink.write(writers.Record(step + later, {"a": float(step + later)}))
    sink.close(failed=failed)
  other = open_sink(tmp_path / "other")
  other.close(failed=False)
  (first, rows, _, failed), (second, more, _, done) = wandb_files.read(
    tmp_path / "run"
  )
  assert first.run_id == second.run_id
  assert second.resume
  assert [x["train_step"] for x in wandb_files.values(rows)] == [8, 9, 10]
  assert wandb_files.values(more) == [
    {"train_step": x, "a": float(x)} for x in (5, 6, 7)
  ]
  assert (failed, done) == ([1], [0])
  assert wandb_files.read(tmp_path / "other")[0][0].run_id != first.run_id


def test_a_failure_ends_w_and_b_alone(tmp_path, monkeypatch, caplog):
  sink = open_sink(tmp_path / "run")
  sink.write(writers.Record(1, {"a": 1.0}))
  run = wandb.run

  def fail(*_, **__):
    raise OSError("network is down")

  with monkeypatch.context() as patch:
    patch.setattr(run, "log", fail)
    for step in (2, 3):
      sink.write(writers.Record(step, {"a": 1.0}))
    sink.close(failed=False)
  run.finish()
  told = [x.getMessage() for x in caplog.records if "W&B" in x.getMessage()]
  assert len(told) == 1
  assert "network is down" in told[0]


def test_a_start_without_network_goes_on_without_w_and_b(
  tmp_path, monkeypatch, caplog
):
  def fail(**_):
    raise wandb.errors.CommError("no answer")

  monkeypatch.setattr(wandb, "init", fail)
  sink = open_sink(tmp_path / "run")
  sink.write(writers.Record(1, {"a": 1.0}))
  sink.close(failed=False)
  assert "no answer" in caplog.text


def test_a_start_that_w_and_b_refuses_is_the_users(tmp_path, monkeypatch):
  def refuse(**_):
    raise wandb.errors.UsageError("api_key not configured\nand more")

  monkeypatch.setattr(wandb, "init", refuse)
  with pytest.raises(
    errors.UserError, match=r"'p'.*\(api_key not configured\); run `wandb login"
  ):
    open_sink(tmp_path / "run")


def test_a_project_needs_the_package_before_anything_starts(monkeypatch):
  """What was trained with it is used without it."""
  config = fakes.changed(wandb__project="p")
  training.set_up(config)
  monkeypatch.setitem(sys.modules, "wandb", None)
  with pytest.raises(
    errors.UserError, match=r"'p'.*pip install 'udon_jax\[wandb\]'"
  ):
    training.set_up(config)
  training.set_up(fakes.config())
  checks.check(config)


def test_a_folder_is_no_package(tmp_path, monkeypatch):
  """W&B leaves folders of its own name behind, which Python can import."""
  (tmp_path / "wandb").mkdir()
  monkeypatch.setattr(sys, "path", [str(tmp_path)])
  monkeypatch.delitem(sys.modules, "wandb")
  with pytest.raises(errors.UserError, match="pip install"):
    wandb_sink.check("p", mode=None)


def test_unknown_modes_are_named():
  with pytest.raises(errors.UserError, match=r"mode='of'.*online, offline"):
    training.set_up(fakes.changed(wandb__mode="of"))


def test_it_is_not_imported_unless_asked_for():
  script = (
    "import sys, udon_jax.trainer; from tests import fakes, training;"
    "training.set_up(fakes.config()); sys.exit('wandb' in sys.modules)"
  )
  subprocess.run([sys.executable, "-c", script], check=True)


def test_the_id_stays_with_the_folder(tmp_path):
  open_sink(tmp_path / "run").close(failed=False)
  (run, *_), *_ = wandb_files.read(tmp_path / "run")
  text = (tmp_path / "run" / wandb_sink.ID_FILE).read_text()
  assert text.strip() == run.run_id
