"""Eight small synthetic domains, a small ViT, minutes on a laptop's CPU.

  make quickstart

trains from scratch on the embedded data set.
"""

from udon_jax import default_config


def get_config():
  """Returns the config of `make quickstart`."""
  c = default_config.get_config()
  c.data_dir = "data/mini_uned"
  c.batch_size = 64
  c.num_train_steps = 1200
  # Projections and classifiers first find their way in random features; a
  # backbone that starts together with them collapses to a constant.
  c.frozen_steps = 100
  c.log_every = 25
  c.eval_every = 300
  c.checkpoint_every = 100
  c.data.resize_size = 72
  c.data.crop_size = 64
  c.model.name = "vit_xs16"
  c.model.position_stddev = 0.5
  c.sampler.update_every = 100
  c.optimizer.learning_rate = 1e-2
  c.optimizer.backbone_learning_rate = 1e-3
  c.optimizer.schedule = "cosine"
  c.optimizer.warmup_steps = 20
  c.optimizer.weight_decay = 0.05
  return c.lock()
