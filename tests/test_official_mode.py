"""With semantics="official", training is the official code's, step by step.

The oracle is `tests/oracles/official_step.py`, from the parameters and images
of `tests/golden/official`; what a whole run does is shown on the tiny config.
The sampler has its own oracle, in `tests/test_sampling_official.py`.
"""

import dataclasses

import flax
import jax
import numpy as np
import pytest

from tests import fakes, official, training
from tests.oracles import official_sampling as sampling_oracle
from tests.oracles import official_step as oracle
from udon_jax import (
  build,
  default_config,
  errors,
  losses,
  partitioning,
  prototypes,
  reporting,
  semantics,
  structs,
  trainer,
  workdirs,
)
from udon_jax import run as runs

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
# Shares of the largest absolute value of an array: the largest error, and of
# parameters the mean error too. Where a gradient is almost zero, AdamW makes
# steps of its rounding: single elements of 131,072 are off by 6e-5.
GRADIENT = MOMENTS = 1e-5
PARAMETER, MEAN = 2e-4, 2e-7


@dataclasses.dataclass(frozen=True)
class Shape:
  """What a run must know of a domain's images to be built."""

  name: str
  num_classes: int
  num_examples: int = 64
  fingerprint: str = ""
  class_names: None = None


def set_up(num_devices=1, **changes):
  """Returns a run of the golden model, on the first devices."""
  c = default_config.get_config()
  c.semantics = "official"
  c.domains = official.DOMAINS
  c.batch_size = c.eval.batch_size = 8
  c.num_train_steps, c.frozen_steps = STEPS, FROZEN
  c.data.resize_size = 224
  c.optimizer.learning_rate = c.optimizer.backbone_learning_rate = RATE
  for key, value in changes.items():
    group, name = key.split("__")
    c[group][name] = value
  golden = official.model().clone(
    teacher_hidden=tuple(c.model.teacher_hidden),
    student_hidden=tuple(c.model.student_hidden),
  )
  devices = jax.devices()[:num_devices]
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(build, "model", lambda *_, **__: golden)
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
  state = jax.tree.map(  # all but the parameters starts at zero
    lambda x: jax.device_put(np.zeros(x.shape, x.dtype), x.sharding),
    run.abstract_state,
  )
  tables = {
    role: {
      k: np.stack([v, np.zeros_like(v), np.zeros_like(v)], axis=1)
      for k, v in official.class_rows(role, raw).items()
    }
    for role in ("student", "teacher")
  }
  ours = {
    "params": official.module_params(raw),
    "prototypes": prototypes.pack(
      tables, np.zeros(len(run.layout.names), np.int32), run.layout
    ),
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
  up_to_date = training.up_to_date(run, state)
  state = jax.device_get(state)
  tables = prototypes.unpack(up_to_date, run.layout)
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


@pytest.fixture(
  scope="module",
  params=[
    "normface",
    pytest.param("arcface, mlp, blocks", marks=pytest.mark.slow),
    pytest.param("cosface, devices", marks=pytest.mark.slow),
  ],
)
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
      *partitioning.put_batch((images, labels), run.mesh),
      partitioning.put_replicated(np.int32(domain), run.mesh),
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
  expected = theirs(trained.oracle.params)
  assert_close(params, expected, PARAMETER)
  for name, value in expected.items():
    error = np.abs(params[name] - value).mean()
    assert error <= MEAN * np.abs(value).max(), name
  start = theirs(trained.start)
  backbone = [k for k in params if k.startswith("backbone")]
  assert all(np.any(params[k] != start[k]) for k in backbone)


def test_moments_and_counts(trained):
  _, mu, nu = ours(trained.run, trained.state)
  (count, *backbone), (heads_count, *heads) = trained.oracle.moments()
  assert_close(mu, theirs(backbone[0] | heads[0]), MOMENTS)
  assert_close(nu, theirs(backbone[1] | heads[1]), MOMENTS)
  adams = trained.state.opt_state
  for name, expected in (("backbone", count), ("heads", heads_count)):
    assert int(adams[name].inner_state[0].count) == int(expected) == STEPS


# A run of the tiny config: windows start at steps 1, 4, 8 and 12, losses are
# forgotten after 1, 6, 11 and 12, and step 5 is saved, within all of it.
WINDOWS, LAST, SAVED, KILLED = [1, 4, 8, 12], 12, 5, 9
TINY = {
  "semantics": "official",
  "num_train_steps": LAST,
  "frozen_steps": FROZEN,
  "log_every": 1,
  "eval_every": LAST,
  "checkpoint_every": SAVED,
  "sampler__update_every": 4,
  "sampler__flush_every": 5,
  "eval__embeddings": ("student",),
}


class Killed(Exception):
  """Ends a run as a kill would, between two steps."""


@dataclasses.dataclass(frozen=True)
class Source(fakes.Source):
  """A source that notes its batches, and kills the run at one of them."""

  taken: list = dataclasses.field(default_factory=list)
  last: int = LAST

  def open(self, position):
    for batch in super().open(position):
      if len(self.taken) == self.last:
        raise Killed
      self.taken.append(self.name)
      yield batch


@pytest.fixture(scope="module")
def compiled():
  """One device's programs, for all runs."""
  with pytest.MonkeyPatch.context() as patch:
    return training.set_up(
      fakes.changed(**TINY), num_devices=1, monkeypatch=patch
    )


def train(compiled, workdir, *, last=LAST):
  """Runs the trainer; returns the results, and the domains trained."""
  c, taken = fakes.changed(**TINY), []
  sources = [
    Source(name, c.batch_size, taken=taken, last=last) for name in c.domains
  ]
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(runs, "set_up", lambda *_: compiled)
    results = trainer.train(c, workdir, sources=sources, tasks=fakes.tasks(c))
  return results, taken


def lines(workdir):
  return [
    x
    for x in reporting.read_metrics(workdir)
    if not any(k.startswith("speed/") for k in x)
  ]


@pytest.fixture(scope="module")
def whole(compiled, tmp_path_factory):
  """A run that nothing interrupted: folder, results, domains trained."""
  workdir = tmp_path_factory.mktemp("whole")
  return workdir, *train(compiled, workdir)


@pytest.mark.slow
def test_a_killed_run_continues_as_if_nothing_had_been(
  compiled, whole, tmp_path
):
  with pytest.raises(Killed):
    train(compiled, tmp_path, last=KILLED - 1)
  results, taken = train(compiled, tmp_path)
  assert taken == whole[2][SAVED:]
  assert results == whole[1]
  assert lines(tmp_path) == lines(whole[0])


def test_a_run_draws_its_domains_as_the_host_loop(whole):
  """With the losses that the run wrote down."""
  workdir, _, taken = whole
  written = {
    x["step"]: x["teacher_classification"]
    for x in lines(workdir)
    if "domain" in x
  }
  host = sampling_oracle.Dynamic(
    num_domains=3, num_steps=LAST, update_every=4, flush_every=5
  )
  trained = host.run([written[step] for step in range(1, LAST + 1)])
  assert taken == [fakes.DOMAINS[i] for i in trained]
  weights = {
    x["step"]: [x[f"sampler_weight/{name}"] for name in fakes.DOMAINS]
    for x in lines(workdir)
    if "sampler_weight/cars" in x
  }
  assert list(weights) == WINDOWS
  for step, expected, _ in host.updates:
    np.testing.assert_allclose(weights[step], expected, rtol=1e-6)


def test_what_is_told_of_the_frozen_phase(compiled, whole):
  workdir = whole[0]
  rates = {
    x["step"]: x["learning_rate/backbone"]
    for x in lines(workdir)
    if "learning_rate/backbone" in x
  }
  peak = compiled.config.optimizer.backbone_learning_rate
  assert rates == {
    s: 0.0 if s <= FROZEN + 1 else pytest.approx(peak)
    for s in range(1, LAST + 1)
  }
  schedule = compiled.optimizer.groups["backbone"].schedule
  for step, rate in rates.items():  # what the compiled step evaluates
    assert float(jax.jit(schedule)(np.int32(step))) == rate
  told = reporting.read_json(workdir / reporting.ENVIRONMENT_FILE)
  assert told["frozen_steps"] == FROZEN + 1
  assert not any(map(compiled.is_frozen, range(1, LAST + 1)))


def test_one_program_takes_all_steps(compiled, whole):
  assert whole
  assert compiled.train_step._cache_size() == 1
  assert compiled.frozen_step._cache_size() == 0


def test_the_frozen_backbone_sits_still_while_its_moments_move(compiled):
  def backbone(state):
    adam = state.opt_state["backbone"].inner_state[0]
    return jax.device_get(
      (state.params["backbone"], adam.mu["backbone"], adam.count)
    )

  def same(a, b):
    return [
      np.array_equal(x, y)
      for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    ]

  state = compiled.init_state()
  start, moved, _ = backbone(state)
  for step in range(1, FROZEN + 3):
    state, _ = training.take_steps(compiled, state, (0,))
    params, mu, count = backbone(state)
    assert all(same(params, start)) == (step <= FROZEN + 1)
    assert not any(same(mu, moved))
    assert count == step
    moved = mu


@pytest.mark.parametrize(
  ("frozen_steps", "still"), [(None, 1), (0, 1), (3, 4), (LAST, LAST)]
)
def test_the_backbone_sits_still_a_step_longer(frozen_steps, still):
  config = fakes.changed(**{**TINY, "frozen_steps": frozen_steps})
  assert semantics.num_steps(config, [64] * 3) == (LAST, still)


def test_other_devices_must_say_how_many_they_stand_for(monkeypatch):
  """The number of devices is part of the loss, and no longer free."""

  def meta(**changes):
    config = fakes.changed(semantics="official", **changes)
    return training.set_up(config).meta.config

  saved = meta()
  assert saved["loss"]["relation_blocks"] == 8
  devices = jax.devices()[:2]
  monkeypatch.setattr(jax, "devices", lambda: devices)
  workdirs.check_same_run("w", saved=saved, given=meta(loss__relation_blocks=8))
  with pytest.raises(
    errors.UserError, match=r"config\.loss\.relation_blocks is 8 there and 2"
  ):
    workdirs.check_same_run("w", saved=saved, given=meta())
