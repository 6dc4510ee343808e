"""Tiny data in memory, and a config that trains on it in seconds."""

import dataclasses

import numpy as np

from udon_jax import default_config, losses, prototypes, structs

DOMAINS = ("cars", "sop", "met")
NUM_CLASSES = {"cars": 5, "sop": 11, "met": 7}
CLASS_NAMES = {}  # {domain: names}; as of UnED, nothing tells them
SIZE = 16


def config():
  """Returns a locked config of three domains and a tiny model."""
  c = default_config.get_config()
  c.domains = DOMAINS
  c.batch_size = 16
  c.num_train_steps = 12
  c.log_every = 4
  c.eval_every = 6
  c.checkpoint_every = 4
  c.data.crop_size = SIZE
  c.data.resize_size = SIZE
  c.model.name = "vit_mu8"
  c.model.student_dim = 8
  c.model.teacher_dim = 16
  c.sampler.update_every = 6
  c.optimizer.backbone_learning_rate = 1e-3
  c.eval.batch_size = 16
  return c.lock()


def changed(**changes):
  """Returns the tiny config with "a.b" keys written as a__b."""
  c = config()
  for key, value in changes.items():
    group = c
    *path, last = key.split("__")
    for name in path:
      group = group[name]
    group[last] = value
  return c


def prototypes_hyper(
  *, student_dim, teacher_dim, rate=1e-3, precision="highest", **changes
):
  """Returns what training prototypes needs to know, with some changes."""
  terms = {
    "classifier": "normface",
    "margin": 0.0,
    "scale": 16.0,
    "label_smoothing": 0.0,
    "teacher_temperature": 0.1,
    "student_temperature": 0.1,
    "weights": dict.fromkeys(losses.TERMS, 1.0),
  }
  adamw = {"b1": 0.9, "b2": 0.999, "eps": 1e-8, "weight_decay": 1e-6}
  schedule = rate if callable(rate) else lambda step: rate
  return prototypes.Hyper(
    student_dim=student_dim,
    teacher_dim=teacher_dim,
    terms=prototypes.Terms(**{k: changes.pop(k, v) for k, v in terms.items()}),
    adamw=prototypes.AdamW(
      schedule, **{k: changes.pop(k, v) for k, v in adamw.items()}
    ),
    precision=precision,
    **changes,
  )


def draw(labels, rng):
  """Returns images whose pattern tells their label, with noise."""
  y, x = np.mgrid[:SIZE, :SIZE] / SIZE
  waves = [
    np.sin(2 * np.pi * ((1 + label % 3) * x + (1 + label // 3) * y))
    for label in labels
  ]
  images = 128 + 90 * np.stack(waves)[..., None] * np.ones(3)
  images = images + rng.normal(0, 10, images.shape)
  return np.clip(images, 0, 255).astype(np.uint8)


@dataclasses.dataclass(frozen=True)
class Source:
  """Training images as a function of (domain, position)."""

  name: str
  batch_size: int
  num_examples: int = 64

  @property
  def class_names(self):
    return CLASS_NAMES.get(self.name)

  @property
  def num_classes(self):
    return NUM_CLASSES[self.name]

  @property
  def fingerprint(self):
    return f"{self.name} {self.num_examples}"

  def open(self, position):
    while True:
      rng = np.random.default_rng([DOMAINS.index(self.name), position])
      labels = rng.integers(0, self.num_classes, self.batch_size)
      yield structs.HostBatch(draw(labels, rng), labels.astype(np.int32))
      position += 1


def sources(c):
  """Returns the sources of a config."""
  return [Source(name, c.batch_size) for name in c.domains]


def split(domain, name, *, num_images, batch_size):
  """Returns an evaluation split."""
  rng = np.random.default_rng([DOMAINS.index(domain), len(name), num_images])
  labels = rng.integers(0, NUM_CLASSES[domain], num_images)
  images = draw(labels, rng)

  def batches():
    for start in range(0, num_images, batch_size):
      rows = images[start : start + batch_size]
      mask = np.arange(batch_size) < len(rows)
      padding = np.zeros((batch_size - len(rows), *rows.shape[1:]), np.uint8)
      yield structs.EvalBatch(np.concatenate([rows, padding]), mask)

  return structs.ImageSplit(
    domain,
    name,
    keys=[f"{domain}/{name}/{i}.jpg" for i in range(num_images)],
    labels=labels[:, None].astype(np.int64),
    open=batches,
  )


def tasks(c):
  """Returns makers of retrieval tasks; met has an index of its own."""

  def make(name):
    made = []
    for i, domain in enumerate(c.domains):
      query = split(
        domain, name, num_images=20 + i, batch_size=c.eval.batch_size
      )
      index = query
      if domain == "met":
        index = split(
          domain, "index", num_images=30, batch_size=c.eval.batch_size
        )
      made.append(structs.RetrievalTask(domain, query, index))
    return made

  return {name: lambda name=name: make(name) for name in ("val", "test")}
