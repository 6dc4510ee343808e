"""From a config to the objects that it describes.

The config has passed `checks.check`; what devices or data decide is checked
here.
"""

from collections.abc import Mapping, Sequence
import json
from typing import Any, TypeAlias

import jax
from jax.sharding import Mesh
import ml_collections

from udon_jax import (
  default_config,
  errors,
  evaluator,
  losses,
  optim,
  own_files,
  partitioning,
  prototypes,
  sampling,
  semantics,
  train_step,
)
from udon_jax.models import architecture, registry, udon
from udon_jax.pretrained import kinds, weights

Config: TypeAlias = ml_collections.ConfigDict
# Fields of an architecture that config.model may set.
_OVERRIDES = (
  "width",
  "depth",
  "num_heads",
  "mlp_dim",
  "activation",
  "norm_eps",
  "num_registers",
)


def mesh(config: Config, devices: Sequence[jax.Device] | None = None) -> Mesh:
  """Returns the mesh, after checking the batch on it.

  Args:
    config: the config.
    devices: all that JAX sees by default.
  """
  result = partitioning.make_mesh(
    data=config.mesh.data, fsdp=config.mesh.fsdp, devices=devices
  )
  partitioning.check_batch_size("config.batch_size", config.batch_size, result)
  partitioning.check_batch_size(
    "config.eval.batch_size", config.eval.batch_size, result
  )
  parts = config.grad_accum_steps * result.size
  if config.batch_size % parts:
    raise errors.UserError(
      f"config.batch_size={config.batch_size} is not divisible by "
      f"config.grad_accum_steps x devices = {parts}"
    )
  return result


def eval_mesh(config: Config, *, key: str = "config.eval.batch_size") -> Mesh:
  """Returns a mesh of all devices on which the model is whole.

  A run's checkpoints are used on any machine, whatever mesh trained them.

  Args:
    config: the config.
    key: what the user set its batch size of evaluation with, for the message.
  """
  result = partitioning.make_mesh(data=-1, fsdp=1)
  partitioning.check_batch_size(key, config.eval.batch_size, result)
  return result


def arch(config: Config) -> architecture.Architecture:
  """Returns the architecture of the backbone."""
  return architecture.parse(
    config.model.name, **{key: config.model[key] for key in _OVERRIDES}
  )


def model(
  config: Config,
  num_domains: int,
  *,
  cut_on: Mesh | None = None,
  remat: bool = False,
) -> udon.Udon:
  """Returns the module.

  Args:
    config: the config; with config.model.student_dim=0 there is no student.
    num_domains: number of teachers; 0 for none.
    cut_on: the devices on which the parameters are cut, for a module that
      gathers them where it uses them; it cannot be initialised.
    remat: whether its backward pass may compute again what it needs, as
      config.model.remat says.
  """
  mean, std = _pixels(config)
  return udon.Udon(
    backbone=registry.get_backbone(
      arch(config),
      image_size=config.data.crop_size,
      dtype=config.model.dtype,
      stochastic_depth=config.model.stochastic_depth,
      position_stddev=config.model.position_stddev,
      unroll=config.model.unroll,
      remat=config.model.remat if remat else None,
      attention=config.model.attention,
      mesh=cut_on,
    ),
    num_domains=num_domains,
    teacher_dim=config.model.teacher_dim,
    teacher_hidden=tuple(config.model.teacher_hidden),
    student_dim=config.model.student_dim,
    student_hidden=tuple(config.model.student_hidden),
    pixel_mean=mean,
    pixel_std=std,
  )


def step_model(
  config: Config, num_domains: int, *, device_mesh: Mesh
) -> udon.Udon:
  """Returns the module that steps call: what is cut it gathers for its use."""
  is_cut = device_mesh.shape["fsdp"] > 1
  return model(
    config,
    num_domains,
    cut_on=device_mesh if is_cut else None,
    remat=True,
  )


def _pixels(config: Config) -> tuple[tuple[float, ...], tuple[float, ...]]:
  """Returns mean and standard deviation of the images."""
  family = architecture.family(config.model.name)
  return (
    tuple(config.model.pixel_mean or family.pixel_mean),
    tuple(config.model.pixel_std or family.pixel_std),
  )


def loss_weights(config: Config) -> dict[str, float]:
  """Returns the weight of every loss term."""
  return {name: float(config.loss.weights[name]) for name in losses.TERMS}


def hyper(config: Config, adamw: optim.AdamW) -> prototypes.Hyper:
  """Returns what training the class prototypes needs to know.

  Args:
    config: the config.
    adamw: the optimizer of the module, whose heads' rate they share.
  """
  loss = config.loss
  return prototypes.Hyper(
    student_dim=config.model.student_dim,
    teacher_dim=config.model.teacher_dim,
    terms=prototypes.Terms(
      classifier=loss.classifier,
      margin=loss.margin,
      scale=loss.scale,
      label_smoothing=loss.label_smoothing,
      teacher_temperature=loss.teacher_temperature,
      student_temperature=loss.student_temperature,
      weights=loss_weights(config),
    ),
    adamw=prototypes.AdamW(
      adamw.groups[train_step.HEADS].schedule,
      b1=adamw.b1,
      b2=adamw.b2,
      eps=adamw.eps,
      weight_decay=adamw.weight_decay,
    ),
    precision=config.prototypes.precision,
  )


def optimizer(
  config: Config, total_steps: int, *, frozen_steps: int
) -> optim.AdamW:
  """Returns the optimizer of the module.

  Args:
    config: the config.
    total_steps: of the run.
    frozen_steps: in which the backbone sits still: as another program takes
      them, or as its rate is 0.
  """
  c = config.optimizer
  by_rate = semantics.num_ungraded(config, frozen_steps) < frozen_steps

  def group(pattern, peak, *, still_steps):
    schedule = optim.make_schedule(
      c.schedule,
      peak=peak,
      num_steps=total_steps,
      warmup_steps=c.warmup_steps,
    )
    if still_steps:
      schedule = optim.hold_back(schedule, still_steps)
    return optim.Group(pattern, schedule)

  return optim.AdamW(
    groups={
      train_step.BACKBONE: group(
        "backbone/.*",
        c.backbone_learning_rate,
        still_steps=frozen_steps if by_rate else 0,
      ),
      train_step.HEADS: group(
        "(teacher|student)_projection/.*", c.learning_rate, still_steps=0
      ),
    },
    b1=c.b1,
    b2=c.b2,
    eps=c.eps,
    weight_decay=c.weight_decay,
    grad_clip_norm=c.grad_clip_norm,
  )


def step_config(
  config: Config, sampling_policy: sampling.Policy
) -> train_step.StepConfig:
  """Returns the static parts of a training step, of a resolved config."""
  return train_step.StepConfig(
    seed=config.seed,
    loss_weights=loss_weights(config),
    relation_blocks=config.loss.relation_blocks,
    grad_accum_steps=config.grad_accum_steps,
    policy=sampling_policy,
  )


def make_evaluator(
  config: Config, module: udon.Udon, device_mesh: Mesh
) -> evaluator.Evaluator:
  """Returns the evaluator of the config's domains and metrics."""
  return evaluator.Evaluator(
    model=module,
    mesh=device_mesh,
    domain_ids={name: i for i, name in enumerate(config.domains)},
    metrics=tuple(config.eval.metrics),
    query_chunk_size=config.eval.query_chunk_size,
    index_chunk_size=config.eval.index_chunk_size,
  )


def abstract_params(
  config: Config, module: udon.Udon, device_mesh: Mesh
) -> Any:
  """Returns shapes and shardings of the module's parameters."""
  size = config.data.crop_size
  images = jax.ShapeDtypeStruct((1, size, size, 3), "uint8")
  domain = jax.ShapeDtypeStruct((), "int32")
  shapes = jax.eval_shape(
    lambda x, d: module.init(jax.random.key(0), x, d, train=False)["params"],
    images,
    domain,
  )
  places = partitioning.tree_shardings({"module": shapes}, device_mesh)
  return jax.tree.map(
    lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
    shapes,
    places["module"],
  )


def with_own_file(config: Config) -> Config:
  """Returns a config whose file of own domains, if any, is part of it.

  Raises:
    UserError: the file is wrong, or describes a domain that the config does.
  """
  if config.own_file is None:
    return config
  found = own_files.read(config.own_file, key="config.own_file")
  config = config.copy_and_resolve_references()
  for name in found:
    if name in config.own:
      raise errors.UserError(
        f"config.own.{name} is also described in {config.own_file}; leave one"
        " of the two out"
      )
  with config.unlocked():
    config.own.update(found)
    config.own_file = None
  return config


def to_json(config: Config) -> dict[str, Any]:
  """Returns the config as plain values that JSON can hold."""
  return json.loads(config.to_json_best_effort())


def from_json(values: Mapping[str, Any]) -> Config:
  """Returns a config of saved values, on top of today's defaults."""
  config = default_config.get_config()
  config.update(values)
  return ml_collections.ConfigDict(config).lock()


def load_pretrained(config: Config, params: Any) -> Any:
  """Returns parameters with what config.pretrained holds.

  Args:
    config: its `pretrained` is KIND:PATH.
    params: of the module; they give shapes, places, and all other values.

  Raises:
    UserError: the file cannot be read or is of another model.
  """
  found = kinds.open_weights(config.pretrained)
  weights.check_fits(found, arch(config))
  mean, std = _pixels(config)
  weights.check_pixels(found, mean=mean, std=std)
  backbone = weights.load_backbone(found, params["backbone"])
  return {**params, "backbone": backbone}
