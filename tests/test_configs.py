"""Every config of configs/: complete, locked, and what it says it is."""

import importlib.util
import inspect
import pathlib

import jax
import pytest

from tests import command_lines
from udon_jax import (
  build,
  checks,
  default_config,
  domains,
  errors,
  reporting,
)

FOLDER = pathlib.Path(__file__).parent.parent / "configs"
NAMES = sorted(path.stem for path in FOLDER.glob("*.py"))


def load(name):
  """Returns the module of a config file, read as the command line does."""
  spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def configs(name):
  """Returns {variant: config} of a file; "" stands for no variant."""
  module = load(name)
  variants = getattr(module, "VARIANTS", {})
  return {
    "": module.get_config(),
    **{v: module.get_config(v) for v in variants},
  }


ALL = {
  f"{name}:{variant}".rstrip(":"): config
  for name in NAMES
  for variant, config in configs(name).items()
}


def keys(config, prefix=""):
  """Returns the paths of all values."""
  for key, value in config.items(preserve_field_references=True):
    if hasattr(value, "items"):
      yield from keys(value, f"{prefix}{key}.")
    else:
      yield f"{prefix}{key}"


@pytest.mark.parametrize("name", ALL)
def test_complete_and_locked(name):
  assert ALL[name].is_locked
  assert set(keys(ALL[name])) == set(keys(default_config.get_config()))


@pytest.mark.parametrize("name", ALL)
def test_values_fit_each_other(name):
  config = ALL[name]
  checks.check(config)
  build.hyper(config)
  sizes = [domains.UNED[d].num_examples["train"] for d in config.domains]
  steps, frozen = build.num_steps(config, sizes)
  assert 0 <= frozen < steps
  build.optimizer(config, steps)
  model = build.model(config, len(sizes))
  size = config.data.crop_size
  jax.eval_shape(
    lambda x: model.init(jax.random.key(0), x, 0, train=False),
    jax.ShapeDtypeStruct((1, size, size, 3), "uint8"),
  )


@pytest.mark.parametrize("name", NAMES)
def test_says_how_to_run_it(name):
  text = inspect.getdoc(load(name))
  assert f"configs/{name}.py" in text or "make " in text


@pytest.mark.parametrize("name", ["uned_vitb16", "uned_vits16"])
def test_unknown_variants_are_named(name):
  with pytest.raises(errors.UserError, match=r"'smoke2' is unknown.*smoke"):
    load(name).get_config("smoke2")


def test_the_papers_setting():
  config = ALL["uned_vitb16"]
  uned = [domains.UNED[d].num_examples["train"] for d in config.domains]
  steps, frozen = build.num_steps(config, uned)
  assert (steps, frozen) == (221_180, 44_236)
  assert config.domains == domains.UNED_NAMES
  assert config.batch_size == 128
  optimizer = config.optimizer
  assert (optimizer.learning_rate, optimizer.backbone_learning_rate) == (
    1e-3,
    1e-5,
  )
  assert (optimizer.b1, optimizer.b2, optimizer.eps) == (0.9, 0.999, 1e-8)
  assert (optimizer.weight_decay, optimizer.schedule) == (1e-6, "constant")
  assert (config.sampler.strategy, config.sampler.update_every) == (
    "dynamic",
    1000,
  )
  assert (config.data.resize_size, config.data.crop_size) == (256, 224)
  assert (config.model.student_dim, config.model.teacher_dim) == (64, 256)
  loss = config.loss
  assert (loss.classifier, loss.scale) == ("normface", 16.0)
  assert (loss.teacher_temperature, loss.student_temperature) == (0.1, 0.1)
  assert set(loss.weights.values()) == {1.0}


@pytest.mark.parametrize("variant", ["", ":smoke"])
def test_the_smaller_model_differs_in_the_model_alone(variant):
  base = ALL[f"uned_vitb16{variant}"].copy_and_resolve_references()
  small = ALL[f"uned_vits16{variant}"].copy_and_resolve_references()
  if not variant:
    assert (base.model.name, small.model.name) == ("vit_b16", "vit_s16")
  small.model.name = base.model.name
  assert small.to_dict() == base.to_dict()


@pytest.mark.slow
def test_the_smoke_variant_trains(tmp_path):
  data, workdir = tmp_path / "data", tmp_path / "run"
  commands = {
    "draw": ("udon_jax.data.synthetic", f"--output={data}", "--size=smoke"),
    "prepare": ("udon_jax.data.prepare", f"--data_dir={data}"),
    "train": (
      "udon_jax.main",
      f"--config={FOLDER / 'uned_vitb16.py'}:smoke",
      f"--config.data_dir={data}",
      f"--workdir={workdir}",
    ),
  }
  answers = command_lines.run_all(commands, XLA_FLAGS="")
  for code, _, message in answers.values():
    assert code == 0, message
  assert "student merged" in answers["train"][2]
  results = reporting.read_json(workdir / reporting.RESULTS_FILE)
  assert set(results["student"]["merged"]["test"]) == {
    *domains.UNED_NAMES,
    "mean",
  }
