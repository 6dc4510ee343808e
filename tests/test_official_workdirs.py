"""Runs of the official code are read as they are."""

import json

from flax import serialization, traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import fakes, official, training
from tests import official_runs as runs
from tests.oracles import official as oracle
from tests.test_checkpointing import assert_equal, open_folder, set_up
from udon_jax import (
  embedder,
  errors,
  official_state,
  prototypes,
  resuming,
  trained,
)
from udon_jax.pretrained import kinds
from udon_jax.pretrained import official as reader

SHAPES = {"vit": runs.vit_shapes, "clip": runs.clip_shapes}


def udon(folder, *, family="vit", step=7, classes=runs.CLASSES, **options):
  """Writes a run of UDON; returns its state."""
  shapes = SHAPES[family]() | runs.udon_shapes(classes)
  state = runs.make_state(runs.draw(shapes), step=step)
  config = runs.make_config(classes, clip=family == "clip")
  runs.write(folder, state, config, **options)
  return state


def flatten(tree):
  return traverse_util.flatten_dict(tree, sep="/")


# Models.


def write_golden(folder):
  """Writes the official parameters of tests/golden as a run."""
  tree = traverse_util.unflatten_dict(
    official.load("tiny_vit_params.npz"), sep="/"
  )
  state = runs.TrainState(
    np.int32(11), opt_state={}, params=tree, model_state={}, metadata={}
  )
  config = {
    "dataset_name": ",".join(official.DOMAINS),
    "model_class": "udon_vit_with_embedding",
  }
  return runs.write(folder, state, config, number=-1, twice=True)


@pytest.fixture(scope="module")
def golden(tmp_path_factory):
  return trained.load(write_golden(tmp_path_factory.mktemp("golden")))


def test_parameters_are_those_that_were_mapped_by_hand(golden):
  assert_equal(flatten(golden.params), flatten(official.module_params()))
  assert golden.step == 11
  assert tuple(golden.config.domains) == official.DOMAINS


@pytest.mark.parametrize("prefix", ["d1_cars", "d5_met"])
def test_embeddings_and_cosines_are_the_official_ones(golden, tmp_path, prefix):
  domain = prefix[3:]
  numbers = official.load("tiny_vit_forward_losses.npz")
  with jax.default_matmul_precision("highest"):
    found = golden.evaluator().embed_batches(
      golden.params,
      [numbers[f"{prefix}/images_u8"]],
      domain=domain,
      names=("student", "teacher", "backbone"),
    )
  checkpoint = reader.open_checkpoint(
    write_golden(tmp_path), number=None, key=""
  )
  for ours, theirs in {
    "backbone": "backbone_out",
    "teacher": "teacher_embedd",
    "student": "universal_student_embedd",
  }.items():
    np.testing.assert_allclose(
      found[ours], numbers[f"{prefix}/{theirs}"], atol=1e-5
    )
  for role in ("teacher", "student"):
    rows = reader.load_prototypes(checkpoint, role=role, domain=domain)
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    name = f"{'universal_' * (role == 'student')}{role}_logits"
    np.testing.assert_allclose(
      found[role] @ rows.T, numbers[f"{prefix}/{name}"], atol=1e-5
    )


MODELS = {
  "vit": ("vit", runs.udon_shapes()),
  "clip": ("clip", runs.udon_shapes()),
  "mlp": ("vit", runs.udon_shapes(student=(12, 8), teacher=(24, 20, 16))),
  "uned": ("vit", runs.uned_shapes()),
  "uned clip": ("clip", runs.uned_shapes()),
  "uned backbone": ("vit", runs.uned_shapes(dim=0)),
  "uned joint": ("vit", runs.uned_shapes({"all": 23})),
}


@pytest.mark.parametrize("name", MODELS)
def test_models_are_those_of_the_oracle(tmp_path, name):
  family, heads = MODELS[name]
  params = runs.draw(SHAPES[family]() | heads)
  config = runs.make_config(
    clip=family == "clip", udon="uned" not in name, eval_batch_size=1024
  )
  if "joint" in name:
    config["classifier"] = "joint"
  if name == "mlp":
    del config["model"]["universal_student_dim"], config["model"]["teacher_dim"]
  folder = runs.write(tmp_path, runs.make_state(params, step=3), config)
  found = trained.load(folder)
  images = np.random.default_rng(0).integers(0, 256, (8, 16, 16, 3), np.uint8)
  for number, domain in enumerate(runs.CLASSES):
    expected = [oracle.embed(image, params, domain=number) for image in images]
    assert set(found.model.embeddings) == set(expected[0])
    with jax.default_matmul_precision("highest"):
      ours = found.evaluator().embed_batches(
        found.params, [images], domain=domain, names=found.model.embeddings
      )
    for embedding, rows in ours.items():
      np.testing.assert_allclose(
        rows, np.stack([e[embedding] for e in expected]), atol=2e-6
      )


# Which checkpoint.


def test_the_best_comes_first_and_any_can_be_named(tmp_path):
  for step, number in ((8, None), (12, None), (10, -1)):
    udon(tmp_path, step=step, number=number)
  (tmp_path / "checkpoint_14tmp").write_bytes(b"half")
  (tmp_path / "events.out.tfevents.1").write_bytes(b"")
  assert trained.load(tmp_path).step == 10
  assert [trained.load(tmp_path, step=i).step for i in (-1, 8, 12)] == [
    *(10, 8, 12)
  ]
  with pytest.raises(errors.UserError, match=r"step 9; it has \[-1, 8, 12\]"):
    trained.load(tmp_path, step=9)
  (tmp_path / "checkpoint_-1").unlink()
  assert trained.load(tmp_path).step == 12


def test_folders_are_told_from_ours(tmp_path):
  assert not reader.is_official(tmp_path)
  assert not reader.is_official(tmp_path / "nowhere")
  udon(tmp_path)
  assert reader.is_official(tmp_path)
  (tmp_path / "checkpoints").mkdir()
  assert not reader.is_official(tmp_path)


def test_a_path_may_start_at_home(tmp_path, monkeypatch):
  udon(tmp_path / "old")
  monkeypatch.setenv("HOME", str(tmp_path))
  assert embedder.load("~/old").step == 7
  new = start(set_up("1x1"), tmp_path / "new", resume_from="~/old")
  assert int(new.step) == 7


def test_the_embedder_asks_a_teacher_by_its_name(tmp_path):
  state = udon(tmp_path)
  image = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
  for domain in ("sop", "met"):
    model = embedder.load(tmp_path, embedding="teacher", domain=domain)
    number = list(runs.CLASSES).index(domain)
    expected = oracle.embed(image, state.params, domain=number)["teacher"]
    np.testing.assert_allclose(model.embed([image])[0], expected, atol=1e-5)
  assert model.batch_size == 128
  assert model.step == 7


def test_the_log_leaves_only_classifiers_in_the_file(tmp_path, caplog):
  udon(tmp_path)
  with caplog.at_level("INFO", "udon_jax"):
    embedder.load(tmp_path)
  (line,) = [m for m in caplog.messages if "parameters from" in m]
  assert "output_projection_0/kernel" in line
  assert "(classifiers)" in line
  # The projections are part of what was loaded.
  assert "Dense" not in line


@pytest.mark.parametrize(
  ("changes", "told"),
  [
    ({"dataset_name": "cars,../../met,sop"}, "dataset_name: '../../met'"),
    ({"top_k": 0}, "read as a config of ours: config.eval.metrics"),
  ],
)
def test_a_value_that_cannot_be_ours_is_named_with_its_file(
  tmp_path, changes, told
):
  udon(tmp_path)
  path = tmp_path / "config.json"
  path.write_text(json.dumps(json.loads(path.read_text()) | changes))
  with pytest.raises(errors.UserError) as caught:
    embedder.load(tmp_path)
  assert str(path) in str(caught.value)
  assert told in str(caught.value)


def test_an_embedding_that_a_model_lacks_is_named(tmp_path):
  params = runs.draw(runs.vit_shapes() | runs.uned_shapes(dim=0))
  config = runs.make_config(udon=False)
  runs.write(tmp_path, runs.make_state(params, step=3), config)
  assert embedder.load(tmp_path, embedding="backbone").dim == runs.WIDTH
  for name in ("student", "teacher"):
    with pytest.raises(errors.UserError, match=r"has none; it has backbone"):
      embedder.load(tmp_path, embedding=name, domain="cars")


# What does not fit.


def test_config_values_become_ours(tmp_path):
  config = runs.make_config(
    rng_seed=5,
    label_smoothing=0.1,
    num_training_epochs=3,
    sampling_strategy="round_robin",
    update_sampler=True,
    update_sampler_every_steps=50,
    optimizer_configs={"beta1": 0.8, "beta2": 0.99, "weight_decay": 1e-4},
    lr_configs={
      "base_learning_rate": 2e-3,
      "backbone": {"base_learning_rate": 2e-5, "frozen_steps": 20},
    },
    max_grad_norm=1.0,
    loss={
      "m": 0.3,
      "scale": 32,
      "transform_logits_type": "arcface",
      "distill_udon_logits": False,
      "distill_udon_logits_temperature": {"universal_student": 0.2},
      "distill_udon_simils_weight": 2.0,
      "classif_losses_on": "universal_student",
    },
    top_k=10,
  )
  state = runs.make_state(
    runs.draw(runs.vit_shapes() | runs.udon_shapes()), step=1
  )
  runs.write(tmp_path, state, config)
  found = trained.load(tmp_path).config
  assert found.seed == 5
  assert found.num_epochs == 3.0
  assert dict(found.loss.weights) == {
    "teacher_classification": 0.0,
    "student_classification": 1.0,
    "logit_distillation": 0.0,
    "relation_distillation": 2.0,
  }
  assert (found.loss.classifier, found.loss.margin) == ("arcface", 0.3)
  assert (found.loss.scale, found.loss.label_smoothing) == (32.0, 0.1)
  assert found.loss.student_temperature == 0.2
  assert (found.sampler.strategy, found.sampler.update_every) == ("dynamic", 50)
  optimizer = found.optimizer
  assert (optimizer.learning_rate, optimizer.b1) == (2e-3, 0.8)
  assert optimizer.backbone_learning_rate == 2e-5
  assert optimizer.grad_clip_norm == 1.0
  assert "mmp@10" in found.eval.metrics
  assert found.model.name == "vit_mu8"


CONTRADICTIONS = {
  "width": ({"model": {"hidden_size": 64}}, r"hidden_size 64 .*arrays: 32"),
  "heads": ({"model": {"num_heads": 4}}, r"num_heads 4 .*arrays: 2"),
  "class": ({"model_class": "vit_with_embedding"}, r"model_class vit_with"),
  "domains": ({"dataset_name": "cars,met"}, r"by dataset_name \[0, 1\]"),
  "twice": ({"dataset_name": "cars,met,met"}, r"by dataset_name \[0, 1\]"),
  "teachers": ({"model": {"teacher_dim": [32]}}, r"teacher_dim \[32\]"),
  "student": ({"model": {"universal_student_dim": 9}}, r"student_dim \[9\]"),
  "patches": ({"model": {"patches": {"size": [16, 16]}}}, r"\[16, 16\]"),
}


@pytest.mark.parametrize("name", CONTRADICTIONS)
def test_config_and_arrays_of_two_runs_are_named(tmp_path, name):
  changes, words = CONTRADICTIONS[name]
  udon(tmp_path)
  path = tmp_path / "config.json"
  path.write_text(json.dumps(json.loads(path.read_text()) | changes))
  with pytest.raises(errors.UserError, match=f"not of one run.*{words}"):
    trained.load(tmp_path)


GARBAGE = {
  "nothing": ("", "no JSON"),
  "half": ('{"dataset_name": "ca', "no JSON"),
  "bytes": (b"\xff\xfe", "no JSON"),
  "deep": ("[" * 100_000, "no JSON"),
  "a list": ("[1]", "no dataset_name"),
  "no names": ('{"dataset_name": ["cars"]}', "no dataset_name"),
  "twice encoded": (json.dumps('{"a'), "no JSON"),
  "a word for a number": (
    '{"dataset_name": "met,cars,sop", "loss": {"m": "much"}}',
    r"loss.m is 'much'",
  ),
  "a value that cannot be": (
    '{"dataset_name": "met,cars,sop", "loss": {"scale": -1}}',
    r"loss.scale",
  ),
}


@pytest.mark.parametrize("name", GARBAGE)
def test_a_damaged_config_is_named(tmp_path, name):
  text, words = GARBAGE[name]
  udon(tmp_path)
  path = tmp_path / "config.json"
  path.write_bytes(text if isinstance(text, bytes) else text.encode())
  with pytest.raises(errors.UserError, match=words):
    trained.load(tmp_path)
  path.unlink()
  with pytest.raises(errors.UserError, match=r"config.json is missing"):
    trained.load(tmp_path)


def drop(*names):
  def change(params):
    return {k: x for k, x in params.items() if k not in names}

  return change


def reshape(name, shape):
  return lambda params: params | {name: np.zeros(shape, np.float32)}


QUERY = "Transformer/encoderblock_0/MultiHeadDotProductAttention_0/query/kernel"
DAMAGED = {
  "no params": (lambda _: {}, "no params of a ViT"),
  "no norm": (
    drop("Transformer/encoderblock_1/LayerNorm_1/scale"),
    "lacks .*encoderblock_1/LayerNorm_1/scale",
  ),
  "half a teacher": (
    drop("teacher_projection_domain_1/Dense_0/bias"),
    "teacher_projection_domain_1 of 16",
  ),
  "no query": (drop(QUERY), "lacks .*query/kernel"),
  "flat query": (reshape(QUERY, (32, 32)), "other ranks"),
  "wide query": (reshape(QUERY, (32, 2, 32)), "no ViT"),
  "no square": (
    reshape("Transformer/posembed_input/pos_embedding", (1, 7, 32)),
    "7 positions: no ViT",
  ),
  "unknown": (reshape("gate/kernel", (3,)), "holds 'gate/kernel'"),
  "other teacher": (
    reshape("teacher_projection_domain_1/Dense_0/kernel", (32, 24)),
    r"set config.model.teacher_dim=24",
  ),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_arrays_that_make_no_model_are_named(tmp_path, name):
  change, words = DAMAGED[name]
  flat = change(flatten(runs.draw(runs.vit_shapes() | runs.udon_shapes())))
  state = runs.TrainState(
    np.int32(3), params=traverse_util.unflatten_dict(flat, sep="/")
  )
  runs.write(tmp_path, state, {"dataset_name": ",".join(runs.CLASSES)})
  with pytest.raises(errors.UserError, match=words):
    trained.load(tmp_path)


def test_a_checkpoint_without_step_is_named(tmp_path):
  params = runs.draw(runs.vit_shapes() | runs.udon_shapes())
  runs.write(tmp_path, runs.TrainState(0, params=params), runs.make_config())
  path = tmp_path / "checkpoint_0"
  path.write_bytes(serialization.msgpack_serialize({"params": params}))
  with pytest.raises(errors.UserError, match="no global_step"):
    trained.load(tmp_path)


def test_folders_of_orbax_are_refused(tmp_path):
  (tmp_path / "checkpoint_5").mkdir()
  with pytest.raises(
    errors.UserError, match=r"checkpoint_5 is a folder.*Orbax"
  ):
    trained.load(tmp_path)


# Weights for a new run.


def start(run, folder, **changes):
  with run.config.unlocked():
    run.config.update(changes)
  with open_folder(folder) as checkpointer:
    return resuming.restore_or_init(run, checkpointer, workdir=folder)


def expected_tables(state, run, *, moments):
  """Returns {role: {domain: [classes, 3, dim]}} of an official state."""
  names = list(runs.CLASSES)
  trees = [flatten(state.params)]
  if moments:
    groups = [g.inner_state[0][0] for g in state.opt_state]
    trees += [flatten(groups[1].mu), flatten(groups[1].nu)]
  tables = {}
  for role in ("student", "teacher"):
    official_role = {"student": "universal_student"}.get(role, role)
    tables[role] = {
      name: np.stack(
        [
          tree[
            f"{official_role}_output_projection_{names.index(name)}/kernel"
          ].T
          for tree in trees
        ],
        axis=1,
      )
      for name in run.layout.names
    }
  return tables


def expected_params(tree, domains):
  """Returns an official tree of backbone and projections as ours, by hand."""
  flat = flatten(tree)
  ours, names = {}, list(runs.CLASSES)
  for name, value in flat.items():
    parts = name.split("/")
    if "output_projection" in name or "teacher_projection" in name:
      continue
    if parts[0] == "universal_student_projection_domain_0":
      ours["/".join(["student_projection", *parts[1:]])] = value
    elif "encoderblock_" in name:
      inner = "/".join([official.BLOCK_NAMES[parts[2]], *parts[3:]])
      path = f"backbone/Transformer/encoderblock/{inner}"
      ours.setdefault(path, []).append(value)
    else:
      ours[f"backbone/{name}"] = value
  for leaf in ("Dense_0/kernel", "Dense_0/bias"):
    ours[f"teacher_projection/{leaf}"] = [
      flat[f"teacher_projection_domain_{names.index(d)}/{leaf}"]
      for d in domains
    ]
  return {k: np.stack(v) if isinstance(v, list) else v for k, v in ours.items()}


def test_pretrained_gives_weights_by_the_names_of_domains(tmp_path):
  """Our domains are cars, sop, met; the file's are met, cars, sop."""
  state = udon(tmp_path / "old")
  run = set_up("2x4")
  new = start(run, tmp_path / "new", pretrained=f"official:{tmp_path / 'old'}")
  assert_equal(
    flatten(jax.device_get(new.params)),
    expected_params(state.params, fakes.DOMAINS),
  )
  tables = jax.device_get(prototypes.unpack(new.prototypes, run.layout))
  for role, by_name in expected_tables(state, run, moments=False).items():
    for name, rows in by_name.items():
      np.testing.assert_array_equal(tables[role][name][:, :1], rows)
      assert not tables[role][name][:, 1:].any()
  assert not int(new.step)
  assert not any(np.asarray(x).any() for x in jax.tree.leaves(new.opt_state))
  jax.tree.map(
    lambda a, b: a.sharding.is_equivalent_to(b.sharding, a.ndim) or 1 / 0,
    new,
    run.abstract_state,
  )


def test_what_a_run_does_not_have_stays_new_and_is_listed(tmp_path, caplog):
  classes = {"inat": 4, "cars": 6, "met": 7}  # cars has 5 classes here
  state = udon(tmp_path / "old", classes=classes)
  run = set_up("1x1")
  fresh = jax.device_get(run.init_state())
  with caplog.at_level("INFO", "udon_jax"):
    new = start(run, tmp_path, pretrained=f"official:{tmp_path / 'old'}")
  old = prototypes.unpack(fresh.prototypes, run.layout)
  tables = jax.device_get(prototypes.unpack(new.prototypes, run.layout))
  flat = flatten(state.params)
  for role in ("student", "teacher"):
    for name in ("cars", "sop"):
      assert_equal(tables[role][name], old[role][name])
    prefix = {"student": "universal_student"}.get(role, role)
    np.testing.assert_array_equal(
      tables[role]["met"][:, 0], flat[f"{prefix}_output_projection_2/kernel"].T
    )
  for leaf in ("kernel", "bias"):
    teachers = new.params["teacher_projection"]["Dense_0"][leaf]
    before = fresh.params["teacher_projection"]["Dense_0"][leaf]
    cars, sop, met = np.asarray(teachers)
    np.testing.assert_array_equal(sop, before[1])
    for row, number in ((cars, 1), (met, 2)):
      np.testing.assert_array_equal(
        row, flat[f"teacher_projection_domain_{number}/Dense_0/{leaf}"]
      )
  tables = "student prototypes, {}teacher prototypes"
  all_parts = tables.format("teacher, ")
  assert f"student; cars (teacher); met ({all_parts}); new: " in caplog.text
  lacking = tables.format("")
  assert f"new: cars ({lacking}); sop ({all_parts})" in caplog.text


def test_pretrained_of_uned_gives_student_and_its_prototypes(tmp_path):
  params = runs.draw(runs.clip_shapes() | runs.uned_shapes())
  config = runs.make_config(clip=True, udon=False)
  runs.write(tmp_path / "old", runs.make_state(params, step=3), config)
  run = set_up("1x1", model__name="clip_mu8", model__mlp_dim=128)
  new = start(run, tmp_path, pretrained=f"official:{tmp_path / 'old'}")
  np.testing.assert_array_equal(
    new.params["student_projection"]["Dense_0"]["kernel"],
    params["projection"]["kernel"],
  )
  tables = prototypes.unpack(new.prototypes, run.layout)["student"]
  np.testing.assert_array_equal(
    tables["met"][:, 0], params["output_projection_0"]["kernel"].T
  )


def test_positions_follow_the_images_of_the_new_run(tmp_path):
  shapes = runs.vit_shapes(size=32) | runs.udon_shapes()
  state = runs.make_state(runs.draw(shapes), step=3)
  runs.write(tmp_path / "old", state, runs.make_config())
  new = start(
    set_up("1x1"), tmp_path, pretrained=f"official:{tmp_path / 'old'}"
  )
  old = state.params["Transformer"]["posembed_input"]["pos_embedding"][0]
  ours = new.params["backbone"]["Transformer"]["posembed_input"]
  grid = old[1:].reshape(4, 4, -1)[::3, ::3]  # corners stay corners
  expected = np.concatenate([old[:1], grid.reshape(4, -1)])
  np.testing.assert_allclose(ours["pos_embedding"][0], expected, atol=1e-6)


def test_heads_of_other_widths_are_named_with_the_cure(tmp_path):
  udon(tmp_path / "old")
  run = set_up("1x1", model__student_dim=4)
  with pytest.raises(
    errors.UserError, match=r"set config.model.student_dim=8 and .*hidden=\(\)"
  ):
    start(run, tmp_path, pretrained=f"official:{tmp_path / 'old'}")
  for path, words in (
    (tmp_path / "none", "is no folder"),
    (tmp_path, "holds no checkpoint_<step>"),
  ):
    with pytest.raises(errors.UserError, match=words):
      kinds.open_weights(f"official:{path}")


# A run that goes on.


@pytest.mark.parametrize("shape", ["1x1", "2x4"])
def test_a_run_goes_on_from_all_of_an_official_state(tmp_path, shape):
  """Also where its domains have another order, on any mesh."""
  state = udon(tmp_path / "old", step=9, twice=True)
  udon(tmp_path / "old", step=5, number=-1)
  run = set_up(shape)
  new = start(run, tmp_path, resume_from=str(tmp_path / "old"))
  assert int(new.step) == 9
  host = jax.device_get(new)
  backbone, heads = (g.inner_state[0][0] for g in state.opt_state)
  assert_equal(
    flatten(host.params), expected_params(state.params, fakes.DOMAINS)
  )
  for moment in ("mu", "nu"):
    theirs = {
      k: v
      for tree in (backbone, heads)
      for k, v in flatten(getattr(tree, moment)).items()
      if isinstance(v, np.ndarray)
    }
    expected = expected_params(
      traverse_util.unflatten_dict(theirs, sep="/"), fakes.DOMAINS
    )
    found = {
      k: v
      for group in host.opt_state.values()
      for k, v in flatten(getattr(group.inner_state[0], moment)).items()
      if isinstance(v, np.ndarray)
    }
    assert_equal(found, expected)
  for group in host.opt_state.values():
    assert int(group.inner_state[0].count) == 9
  assert_equal(
    jax.device_get(prototypes.unpack(new.prototypes, run.layout)),
    expected_tables(state, run, moments=True),
  )
  fresh = jax.device_get(run.init_state())
  assert_equal(host.sampler, fresh.sampler)
  assert_equal(host.data_position, fresh.data_position)


def test_the_next_update_is_the_official_one(tmp_path):
  """AdamW of optax on the official tree, and ours, with the same gradient."""
  state = udon(tmp_path / "old", step=9)
  grads = runs.draw(runs.vit_shapes() | runs.udon_shapes(), seed=5)
  optimizer = runs.make_optimizer(state.params)
  updates, _ = jax.jit(optimizer.update)(grads, state.opt_state, state.params)
  theirs = jax.tree.map(np.add, state.params, updates)
  run = set_up("1x1", optimizer__backbone_learning_rate=1e-5)
  new = start(run, tmp_path, resume_from=str(tmp_path / "old"))
  ours_grads = traverse_util.unflatten_dict(
    expected_params(grads, fakes.DOMAINS), sep="/"
  )
  ours, _, _ = jax.jit(run.optimizer.update)(
    ours_grads, new.opt_state, new.params, step=jnp.int32(10)
  )
  expected = expected_params(theirs, fakes.DOMAINS)
  for name, value in flatten(jax.device_get(ours)).items():
    np.testing.assert_allclose(value, expected[name], rtol=1e-6, atol=1e-7)


def test_a_run_takes_steps_after_an_official_one(tmp_path):
  udon(tmp_path / "old", step=9)
  run = set_up("1x1")
  new = start(run, tmp_path, resume_from=str(tmp_path / "old"))
  after, losses = training.take_steps(run, new, (0, 2))
  assert int(after.step) == 11
  assert not int(after.failed_step)
  assert np.isfinite(losses).all()


def other(**changes):
  return lambda folder: udon(folder, **changes)


def write_uned(folder):
  params = runs.draw(runs.vit_shapes() | runs.uned_shapes())
  config = runs.make_config(udon=False)
  runs.write(folder, runs.make_state(params, step=3), config)


def write_weights(folder):
  params = runs.draw(runs.vit_shapes() | runs.udon_shapes())
  runs.write(folder, runs.TrainState(3, params=params), runs.make_config())


def write_later(folder):
  params = runs.draw(runs.vit_shapes() | runs.udon_shapes())
  state = runs.make_state(params, step=3).replace(global_step=np.int32(8))
  runs.write(folder, state, runs.make_config())


def write_joint(folder):
  heads = runs.udon_shapes()
  for i in (1, 2):
    for role in ("teacher", "universal_student"):
      del heads[f"{role}_output_projection_{i}/kernel"]
  params = runs.draw(runs.vit_shapes() | heads)
  config = runs.make_config(classifier="joint")
  runs.write(folder, runs.make_state(params, step=3), config)


UNFIT = {
  "classes": (
    other(classes={"met": 7, "cars": 5, "sop": 12}),
    {},
    r"'sop', 12\).*this run has.*'sop', 11.*in any order",
  ),
  "domains": (
    other(classes={"met": 7, "cars": 5, "inat": 11}),
    {},
    r"'inat', 11.*use the same",
  ),
  "fewer": (other(classes={"met": 7}), {}, "use the same data"),
  "uned": (write_uned, {}, "is of UnED, not UDON.*pretrained=official:"),
  "joint": (write_joint, {}, "a joint classifier"),
  "weights alone": (write_weights, {}, "has 0 states of Adam below opt_state"),
  "another start": (write_later, {}, "of step 8, but its optimizer made 3"),
  "model": (other(), {"model__name": "vit_ti8"}, "width 32 .*192"),
  "images": (
    other(),
    {"data__crop_size": 8},
    r"images of 16 pixels.*crop_size=16 \(it is 8",
  ),
  "student": (
    other(),
    {"model__student_dim": 4},
    "set config.model.student_dim=8",
  ),
}


@pytest.mark.parametrize("name", UNFIT)
def test_what_no_run_can_go_on_from_is_named(tmp_path, name):
  write, changes, words = UNFIT[name]
  write(tmp_path / "old")
  run = set_up("1x1", **changes)
  with pytest.raises(errors.UserError, match=words):
    official_state.restore(run, tmp_path / "old")
