"""Rules of the values of a config; tests/test_mistakes.py shows their words."""

import pytest

from tests import fakes
from udon_jax import checks, default_config, errors

# Judged where devices, files or the model's table of sizes are known, or below
# RULES in `checks`.
ELSEWHERE = {
  "data_dir",
  "info_files_dir",
  "own_file",
  "pretrained",
  "profile_steps",
  "resume_from",
  "mesh.data",
  "mesh.fsdp",
  "model.name",
  "model.pixel_mean",
  "model.pixel_std",
  "wandb.project",
  "wandb.name",
  "wandb.mode",
}


def leaves(config, prefix=""):
  for key, value in config.items():
    if hasattr(value, "items"):
      yield from leaves(value, f"{prefix}{key}.")
    else:
      yield prefix + key


def test_every_key_has_a_rule():
  keys = set(leaves(default_config.get_config()))
  assert keys == checks.RULES.keys() | ELSEWHERE
  assert not checks.RULES.keys() & ELSEWHERE


@pytest.mark.parametrize("key", checks.RULES)
def test_no_rule_lets_what_is_no_number_pass(key):
  """NaN compares false with everything, as do names with what is unknown."""
  fits, words = checks.RULES[key]
  nan = float("nan")
  default = default_config.get_config()
  for part in key.split("."):
    default = default[part]
  assert default is None or fits(default)
  assert not fits((nan,) if isinstance(default, tuple) else nan)
  assert words


@pytest.mark.parametrize(
  "changes",
  [
    {"loss__relation_blocks": 16, "batch_size": 16},
    {"loss__weights__teacher_classification": 0.0},
    {"sampler__allocation": (0, 0.5, 1)},
    {"model__student_hidden": (8, 4), "optimizer__grad_clip_norm": 1.0},
    {"frozen_steps": 0, "optimizer__learning_rate": 0.0},
    {"seed": 2**32 - 1},
    {"semantics": "official", "sampler__rounding": "last"},
    {"semantics": "official", "sampler__flush_every": 1},
  ],
)
def test_what_can_be_passes(changes):
  checks.check(fakes.changed(**changes))


@pytest.mark.parametrize(
  ("changes", "words"),
  [
    ({"loss__relation_blocks": 3}, "relation_blocks=3 does not divide"),
    ({"model__teacher_hidden": (True,)}, "teacher_hidden"),
    ({"sampler__allocation": (float("inf"), 1.0)}, "allocation"),
    ({"eval__embeddings": ("teacher",)}, "must hold 'student'"),
    ({"model__pixel_std": (1.0, 1.0)}, "three numbers above 0"),
    ({"semantics": "scenic"}, "semantics='scenic' is unknown"),
    (
      {"semantics": "official", "sampler__rounding": "largest_fraction"},
      "sampler.rounding='largest_fraction' is not what .*leave it None",
    ),
    ({"sampler__flush_every": 9}, "flush_every=9 is of .*'official' alone"),
    (
      {
        "semantics": "official",
        "sampler__flush_every": 9,
        "sampler__strategy": "balanced",
      },
      "flush_every=9 is of the dynamic strategy",
    ),
  ],
)
def test_what_cannot_be_is_named(changes, words):
  with pytest.raises(errors.UserError, match=words):
    checks.check(fakes.changed(**changes))


def test_none_is_a_value_where_it_is_the_default_alone():
  keys = [*leaves(default_config.get_config())]
  for key in keys:
    config = default_config.get_config()
    *groups, name = key.split(".")
    group = config
    for part in groups:
      group = group[part]
    default = group[name]
    with group.unlocked():
      group[name] = None
    if default is None:
      checks.check(config)
    else:
      with pytest.raises(errors.UserError, match=f"config.{key}=None"):
        checks.check(config)
