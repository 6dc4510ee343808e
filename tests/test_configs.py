"""Every config of configs/: complete, locked, and what it says it is."""

import importlib.util
import inspect
import itertools
import pathlib

import jax
import pytest

from tests import command_lines, compiling, official
from udon_jax import (
  build,
  checks,
  default_config,
  domains,
  errors,
  reporting,
  semantics,
  variants,
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
  """Returns {variant: config} of a file, of one name, two names and none.

  "" stands for no variant.
  """
  module = load(name)
  known = getattr(module, "VARIANTS", {})
  pairs = [",".join(pair) for pair in itertools.permutations(known, 2)]
  return {
    "": module.get_config(),
    **{v: module.get_config(v) for v in (*known, *pairs)},
  }


ALL = {
  f"{name}:{variant}".rstrip(":"): config
  for name in NAMES
  for variant, config in configs(name).items()
}


def leaves(config, prefix=""):
  """Returns the paths of all values, each with its value."""
  for key, value in config.items():
    if hasattr(value, "items"):
      yield from leaves(value, f"{prefix}{key}.")
    else:
      yield f"{prefix}{key}", value


def keys(config):
  """Returns all keys but those of descriptions, which a config chooses."""
  return {key for key, _ in leaves(config) if not key.startswith("own.")}


@pytest.mark.parametrize("name", ALL)
def test_complete_and_locked(name):
  assert ALL[name].is_locked
  assert keys(ALL[name]) == keys(default_config.get_config())


@pytest.mark.parametrize("name", ALL)
def test_values_fit_each_other(name):
  config = ALL[name]
  checks.check(config)
  sizes = [
    domains.UNED[d].num_examples["train"] if d in domains.UNED else 10_000
    for d in config.domains
  ]
  steps, frozen = semantics.num_steps(config, sizes)
  assert 0 <= frozen < steps
  adamw = build.optimizer(config, steps, frozen_steps=frozen)
  build.hyper(config, adamw)
  model = build.model(config, len(sizes))
  size = config.data.crop_size
  jax.eval_shape(
    lambda x: model.init(jax.random.key(0), x, 0, train=False),
    jax.ShapeDtypeStruct((1, size, size, 3), "uint8"),
  )


def test_domains_of_ones_own_are_described():
  for suffix in ("", ":smoke", ":clip", ":mlp"):
    config = ALL[f"own{suffix}"]
    assert set(config.domains) == set(config.own) == {"shoes", "bags"}
  assert ALL["own:clip"].model.name == "clip_b16"
  assert ALL["own:smoke,clip"].own == ALL["own:smoke"].own
  paper, own = ALL["uned_vitb16"], ALL["own"]
  known = dict(leaves(paper))
  differing = {k for k, v in leaves(own) if v != known.get(k)}
  assert {k.partition(".")[0] for k in differing} == {
    "own",
    "domains",
    "data_dir",
  }


@pytest.mark.parametrize("name", NAMES)
def test_says_how_to_run_it(name):
  text = inspect.getdoc(load(name))
  assert f"configs/{name}.py" in text or "make " in text


@pytest.mark.parametrize("name", ["uned_vitb16", "uned_vits16", "own"])
@pytest.mark.parametrize("variant", ["smoke2", "smoke,smoke2", "smoke2,smoke"])
def test_unknown_variants_are_named(name, variant):
  with pytest.raises(errors.UserError, match=r"'smoke2' is unknown.*smoke"):
    load(name).get_config(variant)


@pytest.mark.parametrize("variant", ["smoke,", ",", "smoke, official"])
def test_what_stands_between_commas_is_a_name(variant):
  with pytest.raises(errors.UserError, match=r"variant '.*' is unknown"):
    load("uned_vitb16").get_config(variant)


def test_variants_are_applied_in_order():
  def set_seed(value):
    return lambda config: config.update({"seed": value})

  known = {"one": set_seed(1), "two": set_seed(2)}
  for names, seed in (("one,two", 2), ("two,one", 1), ("one", 1), ("", 0)):
    config = variants.vary(default_config.get_config(), names, known)
    assert config.seed == seed
    assert config.is_locked


def differing(variant):
  """Returns {key: value} of what a variant changes of the paper's setting."""
  base, varied = (
    dict(leaves(ALL[f"uned_vitb16{suffix}"])) for suffix in ("", f":{variant}")
  )
  return {k: v for k, v in varied.items() if v != base[k]}


def test_the_official_variant_sets_what_differs_officially():
  changes = differing("official")
  assert changes == {
    "semantics": "official",
    "data.round_pixels": False,
    "domains": official.DOMAINS,
    "eval_every": 2_831_222 // 128,  # an epoch
  }
  assert set(official.DOMAINS) == set(domains.UNED_NAMES)


def test_the_mlp_variant_sets_hidden_layers():
  assert differing("mlp") == {
    "model.student_hidden": (768,),
    "model.teacher_hidden": (768,),
  }
  assert differing("official,mlp") == differing("official") | differing("mlp")


def test_the_clip_variant_is_clip():
  config = ALL["uned_vitb16:clip"]
  assert differing("clip") == {"model.name": "clip_b16"}
  model = build.model(config, 8)
  assert model.pixel_mean[0] == 0.48145466
  assert model.backbone.arch.activation == "quick_gelu"


def test_the_official_run_is_frozen_a_step_longer():
  config = ALL["uned_vitb16:official"]
  uned = [domains.UNED[d].num_examples["train"] for d in config.domains]
  assert semantics.num_steps(config, uned) == (221_180, 44_237)
  resolved = semantics.resolve(config, num_devices=8, num_examples=uned)
  assert resolved.loss.relation_blocks == 8
  assert resolved.sampler.rounding == "last"
  assert resolved.sampler.flush_every == 2_211
  checks.check(resolved)


def test_the_papers_setting():
  config = ALL["uned_vitb16"]
  uned = [domains.UNED[d].num_examples["train"] for d in config.domains]
  steps, frozen = semantics.num_steps(config, uned)
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


def test_by_default_the_batch_is_one_block_and_fractions_decide():
  """Of as many devices as there are."""
  resolved = semantics.resolve(
    ALL["uned_vitb16"], num_devices=8, num_examples=[1000] * 8
  )
  assert resolved.is_locked
  assert resolved.loss.relation_blocks == 1
  assert resolved.sampler.rounding == "largest_fraction"
  assert resolved.sampler.flush_every is None
  checks.check(resolved)


@pytest.mark.parametrize("strategy", ["round_robin", "balanced"])
def test_an_official_run_that_reads_no_losses_forgets_none(strategy):
  config = ALL["uned_vitb16:official"].copy_and_resolve_references()
  config.sampler.strategy = strategy
  resolved = semantics.resolve(config, num_devices=8, num_examples=[1000] * 8)
  assert resolved.sampler.flush_every is None
  checks.check(resolved)


@pytest.mark.parametrize(
  ("num_examples", "explicit", "expected"),
  [
    (128 * 100, None, 10),
    (128 * 109 + 127, None, 10),
    (128 * 9, None, 1),  # a tenth of an epoch is no step
    (5, None, 1),
    (128 * 100, 3, 3),
  ],
)
def test_losses_are_forgotten_every_tenth_of_an_epoch(
  num_examples, explicit, expected
):
  config = ALL["uned_vitb16:official"].copy_and_resolve_references()
  config.sampler.flush_every = explicit
  resolved = semantics.resolve(
    config, num_devices=1, num_examples=[num_examples - 2, 1, 1]
  )
  assert resolved.sampler.flush_every == expected


@pytest.mark.parametrize(
  "variant", [x.removeprefix("uned_vitb16") for x in ALL if "vitb16" in x]
)
def test_the_smaller_model_differs_in_the_model_alone(variant):
  base = ALL[f"uned_vitb16{variant}"].copy_and_resolve_references()
  small = ALL[f"uned_vits16{variant}"].copy_and_resolve_references()
  if not {"smoke", "clip"} & set(variant.strip(":").split(",")):
    assert (base.model.name, small.model.name) == ("vit_b16", "vit_s16")
  small.model.name = base.model.name
  assert small.to_dict() == base.to_dict()


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["smoke", "official,mlp,smoke"])
def test_the_smoke_variant_trains(tmp_path, variant):
  data, workdir = tmp_path / "data", tmp_path / "run"
  commands = {
    "draw": ("udon_jax.data.synthetic", f"--output={data}", "--size=smoke"),
    "prepare": ("udon_jax.data.prepare", f"--data_dir={data}"),
    "train": (
      "udon_jax.main",
      f"--config={FOLDER / 'uned_vitb16.py'}:{variant}",
      f"--config.data_dir={data}",
      f"--workdir={workdir}",
    ),
  }
  answers = command_lines.run_all(commands, XLA_FLAGS=compiling.FLAGS)
  for code, _, message in answers.values():
    assert code == 0, message
  assert "student merged" in answers["train"][2]
  results = reporting.read_json(workdir / reporting.RESULTS_FILE)
  assert set(results["student"]["merged"]["test"]) == {
    *domains.UNED_NAMES,
    "mean",
  }
