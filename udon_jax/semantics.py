"""What config.semantics decides: ours, or what the official code does.

The length of a run and of its frozen phase, relations between images, and
which domain each step trains. The rest follows from these: see `build`.

Source: official implementation: optimizer_utils.py, loss_utils.py,
sampling_utils.py, utils.py.
"""

from collections.abc import Sequence
from typing import TypeAlias

import ml_collections

from udon_jax import default_config, errors, sampling

Config: TypeAlias = ml_collections.ConfigDict


def _in_steps(
  config: Config, steps_key: str, epochs_key: str, steps_per_epoch: int
) -> int | None:
  """Returns a length in steps that is given in steps or in epochs."""
  steps, epochs = config[steps_key], config[epochs_key]
  if steps is not None and epochs is not None:
    raise errors.UserError(
      f"config.{steps_key}={steps} and config.{epochs_key}={epochs}: set one "
      "of the two and leave the other None"
    )
  if steps is None and epochs is None:
    return None
  result = round(epochs * steps_per_epoch) if steps is None else steps
  if result < 0:
    key = epochs_key if steps is None else steps_key
    raise errors.UserError(f"config.{key}={config[key]} must not be negative")
  return result


def is_official(config: Config) -> bool:
  """Whether a run trains as the official code does."""
  return config.semantics == default_config.OFFICIAL


def honours_exif(config: Config) -> bool:
  """Whether images are turned as their EXIF orientation tells.

  The official code ignores it.
  """
  chosen = config.data.exif
  return not is_official(config) if chosen is None else chosen


def _epoch(config: Config, num_examples: Sequence[int]) -> int:
  """Returns the steps of an epoch, as the official code counts them."""
  return max(1, sum(num_examples) // config.batch_size)


def num_steps(config: Config, num_examples: Sequence[int]) -> tuple[int, int]:
  """Returns the steps of the run, and in how many the backbone sits still.

  The official code compares the number of frozen steps with that of the step
  from 0, and so trains the backbone a step later.

  Args:
    config: the config.
    num_examples: training images of every domain; an epoch is their sum
      divided by the batch size, as in the official code.
  """
  epoch = _epoch(config, num_examples)
  total = _in_steps(config, "num_train_steps", "num_epochs", epoch)
  if not total:
    raise errors.UserError(
      "config.num_train_steps or config.num_epochs must be set, above 0"
    )
  frozen = _in_steps(config, "frozen_steps", "frozen_epochs", epoch) or 0
  return total, min(frozen + is_official(config), total)


def num_ungraded(config: Config, frozen_steps: int) -> int:
  """Returns the first steps in which the backbone's gradient is not computed.

  In the rest of the frozen phase it is, for AdamW's moments. Officially it is
  in all of it.

  Args:
    config: the config.
    frozen_steps: in which the backbone sits still.
  """
  warmup = config.optimizer.moment_warmup_steps
  if is_official(config) or warmup < 0:
    return 0
  return max(0, frozen_steps - warmup)


def resolve(
  config: Config, *, num_devices: int, num_examples: Sequence[int]
) -> Config:
  """Returns the config with what its semantics choose filled in.

  So that checkpoints tell it: a start with other devices or data is another
  run, unless it gives these values.

  Args:
    config: the config.
    num_devices: of the mesh.
    num_examples: training images of every domain.
  """
  official = is_official(config)
  config = config.copy_and_resolve_references()
  loss, sampler = config.loss, config.sampler
  with config.unlocked():
    if loss.relation_blocks is None:
      loss.relation_blocks = num_devices if official else 1
    if sampler.rounding is None:
      sampler.rounding = "last" if official else "largest_fraction"
    if sampler.flush_every is None and (
      official and sampler.strategy == "dynamic"
    ):
      epoch = _epoch(config, num_examples)
      sampler.flush_every = max(1, epoch // 10)
  return config


def policy(
  config: Config, total_steps: int, num_examples: Sequence[int]
) -> sampling.Policy:
  """Returns the sampling policy of a resolved config."""
  c = config.sampler
  if not is_official(config):
    return sampling.Windows(
      strategy=c.strategy,
      update_every=c.update_every,
      rounding=c.rounding,
      seed=config.seed,
    )
  shares = sampling.shares(
    c.strategy, num_examples=num_examples, allocation=c.allocation
  )
  return sampling.Official(
    strategy=c.strategy,
    update_every=c.update_every,
    num_steps=total_steps,
    shares=tuple(shares.tolist()),
    flush_every=c.flush_every,
  )
