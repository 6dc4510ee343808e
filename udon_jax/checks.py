"""Whether the values of a config can be, each by itself and together.

Mistakes end a run before it starts, by the key's name. What depends on devices
or data is checked where these are known.
"""

from collections.abc import Callable, Sequence
import math
from typing import Any, TypeAlias

import ml_collections

from udon_jax import (
  default_config,
  errors,
  evaluator,
  losses,
  optim,
  own_domains,
  prototypes,
  sampling,
)
from udon_jax.models import architecture, attention, registry, vit
from udon_jax.retrieval import metrics as retrieval_metrics

# (whether a value fits, what to say where it does not)
Rule: TypeAlias = tuple[Callable[[Any], bool], str]


def _at_least(low: int) -> Rule:
  return lambda x: x >= low, f"must be at least {low}"


def _known(names: Sequence[str]) -> Rule:
  return lambda x: x in names, f"is unknown; known: {', '.join(names)}"


def _all(rule: Rule, kind: type | tuple[type, ...], words: str) -> Rule:
  """Makes the rule of one value that of every value of a tuple."""

  def fits(values):
    return all(
      isinstance(x, kind) and not isinstance(x, bool) and rule[0](x)
      for x in values
    )

  return fits, words


_FRACTION: Rule = (lambda x: 0 <= x < 1, "must be in [0, 1)")
_POSITIVE: Rule = (lambda x: 0 < x < math.inf, "must be above 0 and finite")
_NOT_NEGATIVE: Rule = (
  lambda x: 0 <= x < math.inf,
  "must be at least 0 and finite",
)
_ANY: Rule = (lambda _: True, "")
_WIDTHS = _all(_at_least(1), int, "must be a tuple of integers from 1, or ()")
_NUMBERS = (int, float)
_NAMES = _all(_ANY, str, "must be a tuple of names")

# None, where a key allows it, fits every rule.
RULES: dict[str, Rule] = {
  "semantics": _known(default_config.SEMANTICS),
  # JAX keeps 32 bits of a seed.
  "seed": (lambda x: 0 <= x < 2**32, "must be in 0 .. 4294967295"),
  "data_check": _known(("uned",)),
  "domains": _NAMES,
  "batch_size": _at_least(1),
  "num_train_steps": _at_least(1),
  "num_epochs": _POSITIVE,
  "frozen_steps": _at_least(0),
  "frozen_epochs": _NOT_NEGATIVE,
  "log_every": _at_least(1),
  "eval_every": _at_least(1),
  "checkpoint_every": _at_least(1),
  "grad_accum_steps": _at_least(1),
  "data.resize_size": _at_least(1),
  "data.crop_size": _at_least(1),
  "data.round_pixels": (lambda x: isinstance(x, bool), "must be True or False"),
  "data.exif": (lambda x: isinstance(x, bool), "must be True, False or None"),
  "data.decoder": _known(default_config.DECODERS),
  "data.on_bad_example": _known((default_config.RAISE, default_config.SKIP)),
  "data.max_bad_share": _FRACTION,
  "data.num_threads": _at_least(0),
  "data.prefetch": _at_least(1),
  "model.width": _at_least(1),
  "model.depth": _at_least(1),
  "model.num_heads": _at_least(1),
  "model.mlp_dim": _at_least(1),
  "model.activation": _known(architecture.ACTIVATIONS),
  "model.norm_eps": _POSITIVE,
  "model.num_registers": _at_least(0),
  "model.dtype": _known(tuple(registry.DTYPES)),
  "model.student_dim": _at_least(1),
  "model.teacher_dim": _at_least(1),
  "model.student_hidden": _WIDTHS,
  "model.teacher_hidden": _WIDTHS,
  "model.stochastic_depth": _FRACTION,
  "model.position_stddev": _NOT_NEGATIVE,
  "model.unroll": _at_least(1),
  "model.remat": _known(tuple(vit.REMAT)),
  "model.attention": _known(attention.KERNELS),
  "loss.classifier": _known(losses.CLASSIFIERS),
  "loss.margin": _NOT_NEGATIVE,
  "loss.scale": _POSITIVE,
  "loss.label_smoothing": _FRACTION,
  "loss.teacher_temperature": _POSITIVE,
  "loss.student_temperature": _POSITIVE,
  "loss.relation_blocks": _at_least(1),
  "prototypes.block_rows": _at_least(1),
  "prototypes.precision": _known(prototypes.PRECISIONS),
  "sampler.strategy": _known(sampling.STRATEGIES),
  "sampler.rounding": _known(sampling.ROUNDINGS),
  "sampler.update_every": _at_least(1),
  "sampler.flush_every": _at_least(1),
  "sampler.allocation": _all(
    _NOT_NEGATIVE, _NUMBERS, "must be a tuple of numbers from 0"
  ),
  "optimizer.learning_rate": _NOT_NEGATIVE,
  "optimizer.backbone_learning_rate": _NOT_NEGATIVE,
  "optimizer.schedule": _known(optim.SCHEDULES),
  "optimizer.warmup_steps": _at_least(0),
  "optimizer.moment_warmup_steps": _at_least(-1),
  "optimizer.b1": _FRACTION,
  "optimizer.b2": _FRACTION,
  "optimizer.eps": _POSITIVE,
  "optimizer.weight_decay": _NOT_NEGATIVE,
  "optimizer.grad_clip_norm": _POSITIVE,
  "eval.batch_size": _at_least(1),
  "eval.metrics": _NAMES,
  "eval.embeddings": _NAMES,
  "eval.query_chunk_size": _at_least(1),
  "eval.index_chunk_size": _at_least(1),
  "checkpoint.keep_latest": _at_least(1),
  **{f"loss.weights.{name}": _NOT_NEGATIVE for name in losses.TERMS},
}


def check(config: ml_collections.ConfigDict) -> None:
  """Raises a UserError for values that cannot be."""
  _check_set(config, default_config.get_config())
  for key, (fits, words) in RULES.items():
    value = config
    for part in key.split("."):
      value = value[part]
    if value is not None and not fits(value):
      raise errors.UserError(f"config.{key}={value!r} {words}")
  _check_pixels(config.model)
  own_domains.parse_all(config.own.to_dict())
  names = tuple(config.domains)
  if not names or len(set(names)) != len(names):
    raise errors.UserError(
      f"config.domains={names} must name at least one domain, each once"
    )
  if config.data.crop_size > config.data.resize_size:
    raise errors.UserError(
      f"config.data.crop_size={config.data.crop_size} must not exceed "
      f"config.data.resize_size={config.data.resize_size}"
    )
  blocks = config.loss.relation_blocks
  if blocks is not None and config.batch_size % blocks:
    raise errors.UserError(
      f"config.loss.relation_blocks={blocks} does not divide "
      f"config.batch_size={config.batch_size}; choose a divisor"
    )
  _check_sampler(config)
  warmup = config.optimizer.moment_warmup_steps
  if warmup and config.semantics == default_config.OFFICIAL:
    raise errors.UserError(
      f"config.optimizer.moment_warmup_steps={warmup} is what "
      "config.semantics='official' does in the whole frozen phase; leave it 0"
    )
  if not any(config.loss.weights[name] for name in losses.TERMS):
    raise errors.UserError(
      "config.loss.weights are all 0; set one of them above 0"
    )
  if "recall@1" not in config.eval.metrics:
    raise errors.UserError(
      "config.eval.metrics must hold 'recall@1', by which the best checkpoint "
      "is chosen"
    )
  retrieval_metrics.parse(config.eval.metrics)
  if "student" not in config.eval.embeddings:
    raise errors.UserError(
      f"config.eval.embeddings={tuple(config.eval.embeddings)} must hold "
      "'student', by which the best checkpoint is chosen"
    )
  evaluator.check_embeddings(config.eval.embeddings)


def _check_set(
  config: ml_collections.ConfigDict,
  defaults: ml_collections.ConfigDict,
  prefix: str = "config.",
) -> None:
  """Raises a UserError if a key is None whose default is not."""
  for key, default in defaults.items():
    value = config[key]
    if isinstance(default, ml_collections.ConfigDict):
      _check_set(value, default, f"{prefix}{key}.")
    elif value is None and default is not None:
      raise errors.UserError(
        f"{prefix}{key}=None must have a value; the default is {default!r}"
      )


def _check_sampler(config: ml_collections.ConfigDict) -> None:
  """Raises a UserError for a value that the semantics would not use."""
  is_official = config.semantics == default_config.OFFICIAL
  c = config.sampler
  if is_official and c.rounding not in (None, "last"):
    raise errors.UserError(
      f"config.sampler.rounding={c.rounding!r} is not what "
      "config.semantics='official' does; leave it None, or set 'last'"
    )
  if c.flush_every is not None and not (
    is_official and c.strategy == "dynamic"
  ):
    raise errors.UserError(
      f"config.sampler.flush_every={c.flush_every} is of the dynamic strategy "
      "with config.semantics='official' alone; leave it None"
    )


def _check_pixels(model: ml_collections.ConfigDict) -> None:
  """Raises a UserError unless three channels can be normalised."""
  for key, rule in (("pixel_mean", _ANY), ("pixel_std", _POSITIVE)):
    if model[key] is None:
      continue
    fits, _ = _all(rule, _NUMBERS, "")
    if len(model[key]) != 3 or not fits(model[key]):
      what = "numbers above 0" if key == "pixel_std" else "numbers"
      raise errors.UserError(
        f"config.model.{key}={tuple(model[key])} must be three {what}, one for "
        "each of red, green and blue"
      )
