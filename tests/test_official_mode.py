"""With semantics="official", training is the official code's, step by step.

The oracle is `tests/oracles/official_step.py`, from the parameters and images
of `tests/golden/official`; what a whole run does is shown on the tiny config.
"""

import dataclasses

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import fakes, official, training
from tests.oracles import official_step as oracle
from udon_jax import (
  default_config,
  errors,
  losses,
  prototypes,
  reporting,
  structs,
  trainer,
  workdirs,
)
from udon_jax import run as runs
from udon_jax.models import registry

RATE, FROZEN, STEPS = 1e-3, 2, 6
# They alternate, one comes twice in a row, and six of eight never come.
SEQUENCE = ("d1_cars", "d5_met", "d1_cars", "d5_met", "d5_met", "d1_cars")
HIDDEN = 96  # of projections with a hidden layer
CASES = {
  "normface": {},
  # One device computes what four do.
  "arcface, mlp, blocks": {
    "loss__classifier": "arcface",
    "loss__margin": 0.5,
    "loss__relation_blocks": 4,
    "model__teacher_hidden": (HIDDEN,),
    "model__student_hidden": (HIDDEN,),
  },
  # Four devices do it by themselves.
  "cosface, devices": {
    "loss__classifier": "cosface",
    "loss__margin": 0.35,
    "num_devices": 4,
  },
}
# Shares of the largest absolute value of an array.
GRADIENT, AFTER_STEPS = 1e-5, 5e-5


@dataclasses.dataclass(frozen=True)
class Shape:
  """What a run must know of a domain's images to be built."""

  name: str
  num_classes: int
  num_examples: int = 64
  fingerprint: str = ""


def set_up(num_devices=1, **changes):
  """Returns a run of the golden model, on the first devices."""
  c = default_config.get_config()
  c.semantics = "official"
  c.domains = official.DOMAINS
  c.batch_size = c.eval.batch_size = 8
  c.num_train_steps, c.frozen_steps = STEPS, FROZEN
  c.data.resize_size = 224
  c.model.name = "vit_golden16"
  c.optimizer.learning_rate = c.optimizer.backbone_learning_rate = RATE
  for key, value in changes.items():
    group, name = key.split("__")
    c[group][name] = value
  golden = registry.Size(width=64, depth=2, num_heads=2, mlp_dim=128)
  devices = jax.devices()[:num_devices]
  with pytest.MonkeyPatch.context() as patch:
    patch.setitem(registry.SIZES, "golden", golden)
    patch.setattr(jax, "devices", lambda: devices)
    rows = official.class_rows("teacher")
    return runs.set_up(c.lock(), [Shape(k, len(v)) for k, v in rows.items()])


def start_params(hidden):
  """Returns the golden parameters, with hidden layers drawn where asked for."""
  raw = official.raw_params()
  if not hidden:
    return raw
  rng = np.random.default_rng(0)
  for name, dim in (
    *((oracle.TEACHER.format(i), 256) for i in range(len(official.DOMAINS))),
    (oracle.STUDENT, 64),
  ):
    for layer, (wide, narrow) in enumerate(((64, hidden), (hidden, dim))):
      raw[f"{name}/Dense_{layer}/kernel"] = rng.normal(
        0, wide**-0.5, (wide, narrow)
      )
      raw[f"{name}/Dense_{layer}/bias"] = rng.normal(0, 0.05, narrow)
    raw[f"{name}/LayerNorm_0/scale"] = rng.normal(1, 0.1, hidden)
    raw[f"{name}/LayerNorm_0/bias"] = rng.normal(0, 0.1, hidden)
  return {k: v.astype(np.float32) for k, v in raw.items()}


def start_state(run, raw):
  """Returns our state before the first step, with official parameters."""
  state = run.init_state()
  tables = {
    role: {
      k: np.stack([v, np.zeros_like(v), np.zeros_like(v)], axis=1)
      for k, v in official.class_rows(role, raw).items()
    }
    for role in ("student", "teacher")
  }
  ours = {
    "params": official.module_params(raw),
    "prototypes": prototypes.pack(tables, run.layout),
  }
  old = {"params": state.params, "prototypes": state.prototypes}
  return state.replace(
    **jax.tree.map(lambda x, y: jax.device_put(x, y.sharding), ours, old)
  )


def batches():
  """Yields (domain id, images, labels); the images of a step come once."""
  golden = official.load("tiny_vit_forward_losses.npz")
  for i, prefix in enumerate(SEQUENCE):
    images = np.roll(golden[f"{prefix}/images_u8"], 5 * i, axis=2)
    yield int(prefix[1]), images, golden[f"{prefix}/labels"].astype(np.int32)


def flat(module, tables):
  """Returns one flat dict of a module's tree and both class tables."""
  leaves = flax.traverse_util.flatten_dict(module, sep="/")
  for role, by_domain in tables.items():
    leaves |= {f"{role}/{name}": rows for name, rows in by_domain.items()}
  return {
    # The true gradient of a key's bias is zero: AdamW makes steps of rounding.
    k: np.asarray(v)
    for k, v in leaves.items()
    if not k.endswith("key/bias")
  }


def theirs(raw):
  """Returns official parameters, gradients or moments in our form."""
  tables = {
    role: official.class_rows(role, raw) for role in ("student", "teacher")
  }
  return flat(official.module_params(raw), tables)


def ours(run, state):
  """Returns parameters and both moments."""
  state = jax.device_get(state)
  tables = prototypes.unpack(state.prototypes, run.layout)
  adams = {k: v.inner_state[0] for k, v in state.opt_state.items()}

  def module(part):
    backbone, heads = (getattr(adams[k], part) for k in ("backbone", "heads"))
    return {**heads, "backbone": backbone["backbone"]}

  return (
    flat(
      tree, {r: {k: v[:, i] for k, v in t.items()} for r, t in tables.items()}
    )
    for i, tree in enumerate((state.params, module("mu"), module("nu")))
  )


def assert_close(found, expected, share):
  assert found.keys() == expected.keys()
  for name, value in expected.items():
    error = np.abs(found[name] - value).max()
    assert error <= share * np.abs(value).max(), name


@dataclasses.dataclass(frozen=True)
class Trained:
  """Both sides after all steps: ours and the oracle's.

  Attributes:
    run: what trained ours.
    start: parameters before the first step.
    state: ours.
    oracle: a `oracle.Trainer`.
    values: of every step, {loss and terms: (ours, the oracle's)}.
    gradients: of the first step: ours, the oracle's.
  """

  run: runs.Run = dataclasses.field(repr=False)
  start: dict = dataclasses.field(repr=False)
  state: object = dataclasses.field(repr=False)
  oracle: oracle.Trainer
  values: list
  gradients: tuple


@pytest.fixture(scope="module", params=CASES)
def trained(request):
  changes = CASES[request.param]
  run = set_up(**changes)
  loss = run.config.loss
  raw = start_params(HIDDEN if "mlp" in request.param else None)
  state = start_state(run, raw)
  official_trainer = oracle.Trainer(
    raw,
    classifier=loss.classifier,
    margin=loss.margin,
    num_devices=4 if len(changes) > 2 else 1,
    frozen_steps=FROZEN,
    backbone_rate=RATE,
    heads_rate=RATE,
  )
  values, gradients = [], None
  for domain, images, labels in batches():
    before = meters(state, domain)
    batch = structs.Batch(
      *runs.partitioning.put_batch((images, labels), run.mesh),
      runs.partitioning.put_replicated(np.int32(domain), run.mesh),
    )
    state = run.train_step(state, batch)
    expected, grads = official_trainer.step(images, labels, domain)
    values.append(
      {
        k: (meters(state, domain)[k] - before[k], float(expected[k]))
        for k in before
      }
    )
    if gradients is None:  # moments were zero: the first one tells
      _, mu, _ = ours(run, state)
      gradients = {k: v / 0.1 for k, v in mu.items()}, theirs(grads)
  return Trained(run, raw, state, official_trainer, values, gradients)


def meters(state, domain):
  sums = jax.device_get(state.meters.sums)
  return {k: float(sums[k][domain]) for k in ("loss", *losses.TERMS)}


def test_losses_of_every_step(trained):
  assert len(trained.values) == STEPS
  for values in trained.values:
    for name, (found, expected) in values.items():
      assert found == pytest.approx(expected, rel=2e-5, abs=2e-5), name


def test_gradients_of_the_first_step(trained):
  """Those of the backbone too, which sits still."""
  assert_close(*trained.gradients, GRADIENT)
  found, _ = trained.gradients
  assert all(v.any() for k, v in found.items() if k.startswith("backbone"))


def test_parameters_after_the_thaw(trained):
  params, *_ = ours(trained.run, trained.state)
  assert_close(params, theirs(trained.oracle.params), AFTER_STEPS)
  start = theirs(trained.start)
  backbone = [k for k in params if k.startswith("backbone")]
  assert all(np.any(params[k] != start[k]) for k in backbone)


def test_moments_and_counts(trained):
  _, mu, nu = ours(trained.run, trained.state)
  (count, *backbone), (heads_count, *heads) = trained.oracle.moments()
  assert_close(mu, theirs(backbone[0] | heads[0]), AFTER_STEPS)
  assert_close(nu, theirs(backbone[1] | heads[1]), AFTER_STEPS)
  adams = trained.state.opt_state
  for name, expected in (("backbone", count), ("heads", heads_count)):
    assert int(adams[name].inner_state[0].count) == int(expected) == STEPS
