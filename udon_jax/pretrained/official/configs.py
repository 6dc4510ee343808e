"""The official config as ours.

Sources: nikosips/UDON, udon_configs/config_train_vit.py, utils.py,
udon_model.py; nikosips/Universal-Image-Embeddings, configs/;
google-research/scenic, lr_schedules.py.
"""

from collections.abc import Mapping
import dataclasses
from typing import Any

import ml_collections

from udon_jax import default_config
from udon_jax.models import architecture
from udon_jax.pretrained.official import checkpoint as checkpoints

# The official code resizes to 256 what it crops to 224.
_RESIZE = 8 / 7


class _Reader:
  """Values of an official config, checked for their types."""

  def __init__(self, checkpoint: checkpoints.Checkpoint):
    self._checkpoint = checkpoint

  def get(self, name: str, kind: type, *, otherwise: Any) -> Any:
    """Returns a value by its dotted name, or `otherwise` if None or missing.

    Args:
      name: such as "loss.m".
      kind: what it must be; whole numbers are floats too.
      otherwise: the value of what the config leaves out.
    """
    value: Any = self._checkpoint.config
    for part in name.split("."):
      value = value.get(part) if isinstance(value, Mapping) else None
    if value is None:
      return otherwise
    kinds = (int, float) if kind is float else kind
    if not isinstance(value, kinds) or isinstance(value, bool) != (
      kind is bool
    ):
      file = checkpoints.CONFIG_FILE
      raise self._checkpoint.error(
        f"lies beside a {file} whose {name} is {value!r}; it "
        f"must be of type {kind.__name__}"
      )
    return kind(value)


def to_config(checkpoint: checkpoints.Checkpoint) -> ml_collections.ConfigDict:
  """Returns our config of an official run.

  What decides embeddings is told by the arrays, the rest by config.json; what
  this leaves out has our defaults, which are the official ones.

  Args:
    checkpoint: of the run.

  Raises:
    UserError: a value has another type than the official code gives it.
  """
  get = _Reader(checkpoint).get
  config = default_config.get_config()
  config.domains = checkpoint.domains
  config.seed = get("rng_seed", int, otherwise=0)
  config.batch_size = get("batch_size", int, otherwise=config.batch_size)
  config.data.crop_size = checkpoint.image_size
  config.data.resize_size = round(checkpoint.image_size * _RESIZE)
  config.data.round_pixels = config.data.exif = False
  config.semantics = default_config.OFFICIAL
  _set_lengths(config, get)
  _set_model(config.model, checkpoint)
  _set_loss(config.loss, get)
  _set_sampler(config.sampler, get)
  _set_optimizer(config.optimizer, get)
  config.data_dir = get("eval_dataset_dir", str, otherwise="")
  config.eval.embeddings = tuple(
    name
    for name in config.eval.embeddings
    if {"student": checkpoint.student, "teacher": checkpoint.udon}.get(
      name, True
    )
  )
  top_k = get("top_k", int, otherwise=5)
  if f"mmp@{top_k}" not in config.eval.metrics:
    config.eval.metrics = (*config.eval.metrics, f"mmp@{top_k}")
  return config


def _set_lengths(config, get) -> None:
  """Sets the length of the run and of its frozen phase."""
  steps = get("num_training_steps", int, otherwise=None)
  epochs = get("num_training_epochs", float, otherwise=None)
  config.num_train_steps = steps
  config.num_epochs = None if steps is not None else epochs
  frozen = get("lr_configs.backbone.frozen_steps", float, otherwise=None)
  if frozen is None:
    frozen_epochs = get("frozen_epochs", float, otherwise=0.0)
    # -1 stands for all of them.
    config.frozen_epochs = epochs if frozen_epochs < 0 else frozen_epochs
  else:
    config.frozen_steps = max(0, int(frozen))


def _set_model(model, checkpoint: checkpoints.Checkpoint) -> None:
  """Sets architecture and projections, as the arrays have them."""
  model.update(
    architecture.describe(checkpoint.architecture, family=checkpoint.family)
  )
  *hidden, dim = (
    checkpoint.widths(checkpoint.student) if (checkpoint.student) else (0,)
  )
  model.student_hidden, model.student_dim = tuple(hidden), dim
  if checkpoint.udon:
    *hidden, dim = checkpoint.widths(checkpoint.teachers[0])
    model.teacher_hidden, model.teacher_dim = tuple(hidden), dim


def _set_loss(loss, get) -> None:
  loss.classifier = get(
    "loss.transform_logits_type", str, otherwise=loss.classifier
  )
  loss.margin = get("loss.m", float, otherwise=loss.margin)
  loss.scale = get("loss.scale", float, otherwise=loss.scale)
  loss.label_smoothing = get("label_smoothing", float, otherwise=0.0)
  temperature = "loss.distill_udon_logits_temperature"
  for ours, theirs in (
    ("teacher", "teacher"),
    ("student", "universal_student"),
  ):
    loss[f"{ours}_temperature"] = get(
      f"{temperature}.{theirs}", float, otherwise=loss[f"{ours}_temperature"]
    )
  on = get("loss.classif_losses_on", str, otherwise="teacher,universal_student")
  for term, official in TERMS.items():
    used = (
      official.used in on.split(",")
      if official.listed
      else get(f"loss.{official.used}", bool, otherwise=True)
    )
    weight = get(f"loss.{official.weight}", float, otherwise=1.0)
    loss.weights[term] = weight if used else 0.0


@dataclasses.dataclass(frozen=True)
class Term:
  """Keys below `loss` that a term of the loss has.

  Attributes:
    weight: key of its weight.
    used: what switches it on: a name in classif_losses_on, or a key.
    listed: whether it is such a name.
  """

  weight: str
  used: str
  listed: bool


TERMS = {
  "teacher_classification": Term(
    "classif_udon_teacher_weight", "teacher", True
  ),
  "student_classification": Term(
    "classif_udon_universal_student_weight", "universal_student", True
  ),
  "logit_distillation": Term(
    "distill_udon_logits_weight", "distill_udon_logits", False
  ),
  "relation_distillation": Term(
    "distill_udon_simils_weight", "distill_udon_batch_simils", False
  ),
}


def _set_sampler(sampler, get) -> None:
  sampler.strategy = get("sampling_strategy", str, otherwise="round_robin")
  if get("update_sampler", bool, otherwise=False):
    sampler.strategy = "dynamic"
  sampler.update_every = get(
    "update_sampler_every_steps", int, otherwise=sampler.update_every
  )
  sampler.rounding = "last"
  sampler.allocation = tuple(get("specialist_top_steps", list, otherwise=()))


def _set_optimizer(optimizer, get) -> None:
  rate = get(
    "lr_configs.base_learning_rate", float, otherwise=optimizer.learning_rate
  )
  optimizer.learning_rate = rate
  optimizer.backbone_learning_rate = get(
    "lr_configs.backbone.base_learning_rate",
    float,
    otherwise=rate
    * get("backbone_learning_rate_multiplier", float, otherwise=1e-2),
  )
  for ours, theirs in OPTIMIZER.items():
    optimizer[ours] = get(
      f"optimizer_configs.{theirs}", float, otherwise=optimizer[ours]
    )
  factors = get("lr_configs.factors", str, otherwise="constant")
  if "cosine_decay" in factors:
    optimizer.schedule = "cosine"
  if "linear_warmup" in factors:
    optimizer.warmup_steps = get("lr_configs.warmup_steps", int, otherwise=0)
  optimizer.grad_clip_norm = get("max_grad_norm", float, otherwise=None)


OPTIMIZER = {"b1": "beta1", "b2": "beta2", "weight_decay": "weight_decay"}
