"""Runs are written in other forms, and come back bit for bit."""

import json

from flax import traverse_util
import jax
import numpy as np
import pytest

from tests import fakes, official, training
from tests import official_runs as runs
from tests.test_checkpointing import (
  assert_equal,
  noise,
  open_folder,
  save,
  set_up,
)
from udon_jax import (
  build,
  conversion,
  errors,
  prototypes,
  resuming,
  semantics,
  trained,
)
from udon_jax.pretrained import flax_msgpack
from udon_jax.pretrained import official as reader

STEP, BACKBONE_COUNT = 9, 4
CLIP = {"model__name": "clip_mu8", "model__mlp_dim": 128}


def flatten(tree):
  return traverse_util.flatten_dict(tree, sep="/")


def counted(state):
  """Returns a state of step 9, whose backbone was updated four times."""

  def count(x, value):
    return jax.device_put(np.asarray(value, x.dtype), x.sharding)

  def set_counts(path, x):
    name = jax.tree_util.keystr(path, simple=True, separator="/")
    if not name.endswith("/count"):
      return x
    return count(x, STEP if name.startswith("heads") else BACKBONE_COUNT)

  return state.replace(
    step=count(state.step, STEP),
    opt_state=jax.tree_util.tree_map_with_path(set_counts, state.opt_state),
    prototypes=lagging(state.prototypes),
  )


def lagging(tables):
  """Returns tables whose second domain was not trained for three steps."""
  positive = [abs(x) for x in (tables.student, tables.teacher)]
  updated = np.asarray([STEP, STEP - 3, STEP], np.int32)
  return prototypes.Prototypes(
    *positive, jax.device_put(updated, tables.updated.sharding)
  )


def save_ours(folder, **changes):
  """Saves a run of ours in which every number is another."""
  run = set_up("8x1", **changes)
  state = counted(noise(run.abstract_state))
  with open_folder(folder) as checkpointer:
    save(checkpointer, (run, state), STEP)
  return run, state


@pytest.fixture(scope="module")
def ours(tmp_path_factory):
  folder = tmp_path_factory.mktemp("ours")
  return folder, *save_ours(folder)


def convert(kind, workdir, output, *, step=None, overwrite=False):
  write = {"official": conversion.to_official, "augreg": conversion.to_augreg}
  write[kind](str(workdir), output, step=step, overwrite=overwrite)
  return output


@pytest.fixture(scope="module")
def theirs(ours, tmp_path_factory):
  folder, *_ = ours
  return convert("official", folder, tmp_path_factory.mktemp("theirs") / "run")


def resume(folder, new, shape="1x1", **changes):
  run = set_up(shape, **changes)
  with run.config.unlocked():
    run.config.resume_from = str(folder)
  with open_folder(new) as checkpointer:
    return run, resuming.restore_or_init(run, checkpointer, workdir=new)


def kept(state, run):
  """Returns what an official checkpoint keeps of a state, on the host."""
  up_to_date = training.up_to_date(run, state)
  tables = prototypes.unpack(up_to_date, run.layout)
  return jax.device_get((state.step, state.params, state.opt_state, tables))


def test_ours_to_official_to_ours(ours, theirs, tmp_path):
  """On another mesh, with the domains in another order."""
  _, run, state = ours
  again, restored = resume(theirs, tmp_path, "2x4")
  assert_equal(kept(restored, again), kept(state, run))
  names = ("met", "cars", "sop")
  other, restored = resume(theirs, tmp_path / "2", domains=names)
  index = [fakes.DOMAINS.index(name) for name in names]
  step, params, opt_state, tables = kept(restored, other)
  expected = kept(state, run)
  assert step == expected[0]
  assert_equal(tables, expected[3])
  for tree, whole in (
    (params, expected[1]),
    *(
      (
        getattr(opt_state["heads"].inner_state[0], moment),
        getattr(expected[2]["heads"].inner_state[0], moment),
      )
      for moment in ("mu", "nu")
    ),
  ):
    assert_equal(
      tree["teacher_projection"],
      jax.tree.map(lambda x: x[np.array(index)], whole["teacher_projection"]),
    )
    assert_equal(tree["student_projection"], whole["student_projection"])


@pytest.mark.slow
def test_clip_to_official_to_ours(tmp_path):
  run, state = save_ours(tmp_path / "ours", **CLIP)
  convert("official", tmp_path / "ours", tmp_path / "theirs")
  again, restored = resume(tmp_path / "theirs", tmp_path / "new", **CLIP)
  assert_equal(kept(restored, again), kept(state, run))
  config = json.loads((tmp_path / "theirs/config.json").read_text())
  assert config["model_class"] == "udon_clip_vit_with_embedding"


@pytest.mark.parametrize("family", ["vit", "clip"])
def test_flax_reads_it_into_the_official_state(tmp_path, family, ours, theirs):
  """Names, shapes and types are those that the official code asks for."""
  shapes = {"vit": runs.vit_shapes, "clip": runs.clip_shapes}[family]()
  classes = {name: runs.CLASSES[name] for name in fakes.DOMAINS}
  params = runs.draw(shapes | runs.udon_shapes(classes))
  folder = theirs
  if family == "clip":
    save_ours(tmp_path / "ours", **CLIP)
    folder = convert("official", tmp_path / "ours", tmp_path / "theirs")
  target = runs.make_state(params, step=0).replace(metadata={})
  found = runs.restore(folder, target, number=STEP)
  like = [(x.shape, np.asarray(x).dtype) for x in jax.tree.leaves(target)]
  assert [(x.shape, x.dtype) for x in jax.tree.leaves(found)] == like
  assert jax.tree.structure(found) == jax.tree.structure(target)
  backbone, heads = (group.inner_state[0] for group in found.opt_state)
  assert int(found.global_step) == STEP
  assert [int(x.count) for x in (backbone[0], backbone[2])] == [4, 9]
  assert [int(x.count) for x in (heads[0], heads[2])] == [9, 9]
  loaded = trained.load(folder)
  values = flatten(found.params)
  for i, name in enumerate(fakes.DOMAINS):
    assert loaded.config.domains[i] == name
    np.testing.assert_array_equal(
      loaded.params["teacher_projection"]["Dense_0"]["kernel"][i],
      values[f"teacher_projection_domain_{i}/Dense_0/kernel"],
    )


@pytest.mark.slow
def test_official_to_ours_to_official(tmp_path):
  """Every array comes back with the same bytes."""
  params = traverse_util.unflatten_dict(
    official.load("tiny_vit_params.npz"), sep="/"
  )
  state = runs.make_state(params, step=6)
  classes = {
    name: params[f"teacher_output_projection_{i}"]["kernel"].shape[1]
    for i, name in enumerate(official.DOMAINS)
  }
  config = {"dataset_name": ",".join(official.DOMAINS)}
  runs.write(tmp_path / "old", state, config)
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(fakes, "NUM_CLASSES", classes)
    run, restored = resume(
      tmp_path / "old",
      tmp_path / "new",
      "8x1",
      domains=official.DOMAINS,
      model__name="vit_16",
      model__width=64,
      model__depth=2,
      model__num_heads=2,
      model__mlp_dim=128,
      model__student_dim=64,
      model__teacher_dim=256,
      data__crop_size=224,
      data__resize_size=256,
    )
  with open_folder(tmp_path / "ours") as checkpointer:
    save(checkpointer, (run, restored), 6)
  convert("official", tmp_path / "ours", tmp_path / "again")
  old, new = (
    flax_msgpack.read(tmp_path / name / "checkpoint_6", key="")
    for name in ("old", "again")
  )
  for part in ("params", "opt_state", "global_step"):
    found, expected = (
      dict(flax_msgpack.flatten({part: file.tree[part]})) for file in (new, old)
    )
    assert found.keys() == expected.keys()
    for name, stored in expected.items():
      assert found[name].dtype == stored.dtype
      a, b = new.read(found[name]), old.read(stored)
      assert a.shape == b.shape
      assert a.tobytes() == b.tobytes()


def test_the_config_says_what_the_run_was(tmp_path, caplog):
  changes = {
    "batch_size": 24,
    "num_train_steps": None,
    "num_epochs": 2.0,
    "frozen_epochs": 1.0,
    "loss__classifier": "cosface",
    "loss__margin": 0.2,
    "loss__label_smoothing": 0.1,
    "loss__weights__logit_distillation": 0.0,
    "loss__weights__teacher_classification": 2.0,
    "sampler__strategy": "specialist_top_steps",
    "sampler__allocation": (1.0, 2.0, 3.0),
    "optimizer__weight_decay": 1e-4,
    "optimizer__grad_clip_norm": 1.5,
    "optimizer__schedule": "cosine",
    "optimizer__warmup_steps": 3,
    "model__teacher_hidden": (24,),
    "seed": 3,
  }
  save_ours(tmp_path / "ours", **changes)
  convert("official", tmp_path / "ours", tmp_path / "theirs")
  assert "backbone's rate constant" in caplog.text
  assert "crops to 224 pixels and this model was trained on 16" in caplog.text
  config = json.loads((tmp_path / "theirs/config.json").read_text())
  factors = config["lr_configs"]["factors"]
  assert factors == "constant*linear_warmup*cosine_decay"
  assert config["steps_per_epoch"] == 3 * 64 // 24
  assert config["num_training_epochs"] == 2
  assert config["num_training_steps"] == 16
  # Officially frozen while the count from 0 is at most that.
  assert config["lr_configs"]["backbone"]["frozen_steps"] == 7
  assert config["loss"]["classif_losses_on"] == "teacher,universal_student"
  assert not config["loss"]["distill_udon_logits"]
  assert config["model"]["teacher_dim"] == [24, 16]
  assert config["model_type"] == "Mu/8"
  ours, theirs = (
    trained.load(tmp_path / name).config for name in ("ours", "theirs")
  )
  for key in ("seed", "domains", "batch_size", "model", "loss", "optimizer"):
    got, expected = (
      c[key].to_dict() if hasattr(c[key], "to_dict") else c[key]
      for c in (theirs, ours)
    )
    assert got == expected or tuple(got) == tuple(expected), key
  assert theirs.sampler.allocation == (1.0, 2.0, 3.0)
  steps = [semantics.num_steps(c, [64, 64, 64]) for c in (ours, theirs)]
  assert steps == [(16, 8)] * 2


KEYS = """
dataset_name model_class model_type classifier batch_size eval_batch_size
label_smoothing sampling_strategy update_sampler update_sampler_every_steps
update_sampler_logit_type frozen_epochs backbone_learning_rate_multiplier
num_training_epochs max_grad_norm rng_seed pretrained_ckpt eval_dataset_dir
train_dataset_dir info_files_dir knn_eval_names top_k params_early_train
model.hidden_size model.patches.size model.num_heads model.mlp_dim
model.num_layers model.classifier model.output_dim model.universal_student_dim
model.teacher_dim model.representation_size model.positional_embedding
model.dropout_rate model.attention_dropout_rate loss.m loss.scale
loss.transform_logits_type loss.distill_udon_logits
loss.distill_udon_logits_temperature.teacher
loss.distill_udon_logits_temperature.universal_student
loss.distill_udon_batch_simils loss.classif_udon_universal_student_weight
loss.classif_udon_teacher_weight loss.distill_udon_logits_weight
loss.distill_udon_simils_weight loss.classif_losses_on optimizer
optimizer_configs.beta1 optimizer_configs.beta2 optimizer_configs.weight_decay
lr_configs.learning_rate_schedule lr_configs.factors
lr_configs.base_learning_rate lr_configs.backbone.base_learning_rate
lr_configs.backbone.frozen_steps embedd_to_eval universal_embedding_is
"""


@pytest.mark.parametrize("key", KEYS.split())
def test_the_config_has_what_the_official_code_reads(theirs, key):
  value = json.loads((theirs / "config.json").read_text())
  for part in key.split("."):
    value = value[part]


@pytest.mark.parametrize(
  ("data_dir", "info_files_dir", "expected"),
  [
    ("d", None, ("d/tfds", "d/info_files")),
    ("d/tfds/", None, ("d/tfds", "d/info_files")),
    ("d/tfds", "lists", ("d/tfds", "lists")),
  ],
)
def test_the_config_says_where_the_data_lay(data_dir, info_files_dir, expected):
  config = fakes.changed(data_dir=data_dir, info_files_dir=info_files_dir)
  written = reader.from_config(
    config,
    arch=build.arch(config),
    family="vit",
    steps=(4, 2),
    steps_per_epoch=2,
  )
  records, lists = expected
  assert written["eval_dataset_dir"] == written["train_dataset_dir"] == records
  assert written["info_files_dir"] == lists


def test_ours_to_augreg_to_ours(ours, tmp_path):
  folder, _, state = ours
  path = convert("augreg", folder, tmp_path / "backbone.npz")
  new = set_up("1x1")
  with new.config.unlocked():
    new.config.pretrained = f"augreg:{path}"
  with open_folder(tmp_path / "new") as checkpointer:
    loaded = resuming.restore_or_init(
      new, checkpointer, workdir=tmp_path / "new"
    )
  assert_equal(
    jax.device_get(loaded.params["backbone"]),
    jax.device_get(state.params["backbone"]),
  )


def test_official_to_augreg(tmp_path):
  params = runs.draw(runs.vit_shapes() | runs.udon_shapes())
  runs.write(
    tmp_path / "old", runs.make_state(params, step=3), runs.make_config()
  )
  path = convert("augreg", tmp_path / "old", tmp_path / "backbone.npz", step=3)
  with np.load(path, allow_pickle=False) as file:
    found = dict(file)
  names = {v: k for k, v in official.BLOCK_NAMES.items()}
  for name, value in found.items():
    parts = [names.get(part, part) for part in name.split("/")]
    np.testing.assert_array_equal(value, flatten(params)["/".join(parts)])
  assert len(found) == len(runs.vit_shapes())


def listed(folder):
  return sorted(path.name for path in folder.iterdir())


def test_nothing_is_overwritten_unasked(ours, tmp_path):
  folder, *_ = ours
  theirs = tmp_path / "theirs"
  for kind, path in (("augreg", tmp_path / "x.npz"), ("official", theirs)):
    convert(kind, folder, path)
    with pytest.raises(errors.UserError, match=r"exists.*--overwrite"):
      convert(kind, folder, path)
    convert(kind, folder, path, overwrite=True)
  assert listed(tmp_path) == ["theirs", "x.npz"]
  assert listed(theirs) == ["checkpoint_9", "config.json"]
  (theirs / "notes.txt").write_text("precious")
  for path in (theirs, folder):
    with pytest.raises(errors.UserError, match="does not replace"):
      convert("official", folder, path, overwrite=True)
  with pytest.raises(errors.UserError, match="does not replace"):
    (tmp_path / "dir.npz").mkdir()
    convert("augreg", folder, tmp_path / "dir.npz", overwrite=True)
  assert listed(theirs) == ["checkpoint_9", "config.json", "notes.txt"]


@pytest.mark.parametrize("overwrite", [False, True])
def test_what_fails_half_way_leaves_nothing(
  ours, tmp_path, monkeypatch, overwrite
):
  folder, *_ = ours
  path = tmp_path / "theirs"
  if overwrite:
    path.mkdir()
    (path / "checkpoint_1").write_bytes(b"old")

  def fail(file, tree):
    file.write(b"half")
    raise OSError(28, "No space left on device")

  monkeypatch.setattr(flax_msgpack, "write", fail)
  with pytest.raises(errors.DiskFullError, match="is full"):
    convert("official", folder, path, overwrite=overwrite)
  assert listed(tmp_path) == ["theirs"] * overwrite
  if overwrite:
    assert (path / "checkpoint_1").read_bytes() == b"old"


MISTAKES = {
  "a suffix": ("augreg", "x.npy", {}, r"ends in .npz"),
  "a family": ("augreg", "x.npz", CLIP, "clip_mu8 .*is no ViT of AugReg"),
  "an activation": (
    *("augreg", "x.npz", {"model__activation": "gelu"}),
    "is no ViT of AugReg",
  ),
  "dino": (
    *("official", "x", {"model__name": "dinov2_mu8"}),
    "dinov2; the official code has vit and clip alone",
  ),
  "an epsilon": (
    *("official", "x", {"model__norm_eps": 1e-3}),
    "no vit with another activation, norm_eps",
  ),
  "narrow clip": (
    *("official", "x", {"model__name": "clip_mu8"}),
    "no clip with an mlp_dim of 64",
  ),
  "pixels": (
    *("official", "x", {"model__pixel_std": (0.2, 0.2, 0.2)}),
    "no vit with config.model.pixel_std",
  ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_what_cannot_be_written_is_named(tmp_path, name):
  kind, output, changes, words = MISTAKES[name]
  save_ours(tmp_path / "ours", **changes)
  with pytest.raises(errors.UserError, match=words):
    convert(kind, tmp_path / "ours", tmp_path / output)
  assert listed(tmp_path) == ["ours"]


def test_what_is_official_already_is_not_written_again(theirs, tmp_path):
  assert reader.is_official(theirs)
  with pytest.raises(errors.UserError, match="is of the official code already"):
    convert("official", theirs, tmp_path / "x")
