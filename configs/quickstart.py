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
  c.num_train_steps = 400
  c.log_every = 20
  c.eval_every = 100
  c.checkpoint_every = 100
  c.data.resize_size = 72
  c.data.crop_size = 64
  c.model.name = "vit_xs8"
  c.sampler.update_every = 40
  c.optimizer.backbone_learning_rate = 1e-3
  c.optimizer.learning_rate = 1e-3
  c.optimizer.schedule = "cosine"
  c.optimizer.warmup_steps = 20
  c.optimizer.weight_decay = 1e-4
  c.eval.metrics = ("recall@1", "recall@5", "mmp@5", "map@r")
  return c.lock()
