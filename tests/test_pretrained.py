"""Backbones from AugReg files, and what every reader of weights shares."""

import io
import logging
import zipfile

import flax
import jax
import numpy as np
import pytest

from tests import fakes
from tests.test_checkpointing import assert_equal, noise, set_up
from udon_jax import build, errors
from udon_jax.models import architecture
from udon_jax.pretrained import augreg, kinds, weights

POSITIONS = "Transformer/posembed_input/pos_embedding"


def backbone(**changes):
  """Returns the shapes of the tiny backbone."""
  return set_up("1x1", **changes).abstract_state.params["backbone"]


def official_arrays(params, rng):
  """Returns a file's arrays under AugReg's names, one a block."""
  arrays = {"head/kernel": np.zeros((32, 10), np.float32)}
  flat = flax.traverse_util.flatten_dict(params, sep="/")
  for name, leaf in flat.items():
    value = rng.normal(size=leaf.shape).astype(np.float32)
    prefix, block, inner = name.partition("encoderblock/")
    if not block:
      arrays[name] = value
      continue
    for i, part in enumerate(value):
      arrays[f"{prefix}encoderblock_{i}/{inner}"] = part
  return arrays


@pytest.fixture
def official():
  return official_arrays(backbone(), np.random.default_rng(0))


def write(folder, arrays):
  path = folder / "S_16.npz"
  np.savez(path, **arrays)
  return path


def load(path, **changes):
  """Returns a file's backbone as host arrays."""
  found = augreg.open_weights(path, key="config.pretrained")
  shapes = jax.tree.map(
    lambda x: np.broadcast_to(np.float32(0), x.shape), backbone(**changes)
  )
  return weights.load_backbone(found, shapes)


def test_augreg_names_are_those_of_the_official_files(official):
  inner = {
    f"{norm}/{leaf}"
    for norm in ("LayerNorm_0", "LayerNorm_2")
    for leaf in ("bias", "scale")
  }
  inner |= {
    f"{layer}/{leaf}"
    for layer in (
      "MlpBlock_3/Dense_0",
      "MlpBlock_3/Dense_1",
      *(
        f"MultiHeadDotProductAttention_1/{part}"
        for part in ("query", "key", "value", "out")
      ),
    )
    for leaf in ("bias", "kernel")
  }
  assert set(official) == {
    "head/kernel",
    "cls",
    "embedding/bias",
    "embedding/kernel",
    "Transformer/encoder_norm/bias",
    "Transformer/encoder_norm/scale",
    "Transformer/posembed_input/pos_embedding",
    *(f"Transformer/encoderblock_{i}/{x}" for i in range(2) for x in inner),
  }


def test_augreg_blocks_are_stacked(official, tmp_path):
  params = load(write(tmp_path, official))
  flat = flax.traverse_util.flatten_dict(params, sep="/")
  for name, value in flat.items():
    prefix, block, inner = name.partition("encoderblock/")
    if not block:
      np.testing.assert_array_equal(value, official[name])
      continue
    for i, part in enumerate(value):
      key = f"{prefix}encoderblock_{i}/{inner}"
      np.testing.assert_array_equal(part, official[key])


def test_pretrained_replaces_the_backbone_alone(official, tmp_path):
  before = noise(set_up("2x4").abstract_state.params)
  config = fakes.changed(pretrained=f"augreg:{write(tmp_path, official)}")
  after = build.load_pretrained(config, before)
  for name in ("student_projection", "teacher_projection"):
    assert_equal(after[name], before[name])
  np.testing.assert_array_equal(
    after["backbone"]["embedding"]["kernel"], official["embedding/kernel"]
  )
  jax.tree.map(
    lambda a, b: a.sharding.is_equivalent_to(b.sharding, a.ndim) or 1 / 0,
    after,
    before,
  )


@pytest.mark.parametrize("spec", ["augreg", "augreg:", "big:x", "x.npz"])
def test_pretrained_needs_a_kind_and_a_path(spec):
  with pytest.raises(errors.UserError, match=r"config.pretrained=.*KIND:PATH"):
    build.load_pretrained(fakes.changed(pretrained=spec), {"backbone": {}})


def test_a_path_may_start_at_home(official, tmp_path, monkeypatch):
  monkeypatch.setenv("HOME", str(tmp_path))
  path = write(tmp_path, official)
  assert kinds.open_weights(f"augreg:~/{path.name}").image_size == 16


def test_a_missing_parameter_is_named(official, tmp_path):
  del official["Transformer/encoderblock_1/LayerNorm_2/scale"]
  with pytest.raises(
    errors.UserError, match=r"S_16.npz lacks .*encoderblock_1/LayerNorm_2/scale"
  ):
    load(write(tmp_path, official))


def test_another_shape_is_named(official, tmp_path):
  official["cls"] = np.zeros((1, 2, 32), np.float32)
  with pytest.raises(
    errors.UserError, match=r"S_16.npz has cls \(1, 2, 32\).*crop_size"
  ):
    load(write(tmp_path, official))


def test_positions_follow_the_size_of_the_images(official, tmp_path):
  """Linear between the grid's points, corners on corners."""
  rng = np.random.default_rng(1)
  official[POSITIONS] = rng.normal(size=(1, 17, 32)).astype(np.float32)
  loaded = load(write(tmp_path, official), data__crop_size=16)
  ours = flax.traverse_util.flatten_dict(loaded, sep="/")[POSITIONS]
  side = int(np.sqrt(ours.shape[1] - 1))
  assert side != 4
  np.testing.assert_array_equal(ours[:, 0], official[POSITIONS][:, 0])
  grid = official[POSITIONS][0, 1:].reshape(4, 4, 32)

  def stretch(values):
    return np.interp(np.linspace(0, 3, side), range(4), values)

  for axis in (0, 1):
    grid = np.apply_along_axis(stretch, axis, grid)
  np.testing.assert_allclose(ours[0, 1:], grid.reshape(-1, 32), atol=1e-5)


def test_what_a_file_is_is_told_from_its_arrays(official, tmp_path):
  found = augreg.open_weights(write(tmp_path, official), key="--pretrained")
  assert found.architecture == architecture.parse("vit_mu8")
  assert found.image_size == 16


def test_what_nothing_is_known_of_is_named(official, tmp_path):
  official["Transformer/encoderblock_0/LayerScale/scale"] = np.ones(32)
  with pytest.raises(errors.UserError, match=r"LayerScale.*no parameter"):
    load(write(tmp_path, official))


def test_another_model_is_named_with_its_name(official, tmp_path):
  path = write(tmp_path, official)
  config = fakes.changed(pretrained=f"augreg:{path}", model__name="vit_ti8")
  with pytest.raises(
    errors.UserError, match=r"width 32 .*192.*--config.model.name=vit_mu8"
  ):
    build.load_pretrained(config, {"backbone": {}})


@pytest.mark.parametrize("name", ["vit_mu8", "clip_b16", "dinov2reg_g14"])
@pytest.mark.parametrize("changes", [{}, {"width": 24, "num_heads": 3}])
def test_describe_is_the_inverse_of_parse(name, changes):
  arch = architecture.parse(name, **changes)
  family = name.partition("_")[0]
  values = architecture.describe(arch, family=family)
  assert architecture.parse(**values) == arch
  assert changes or values == {"name": name}


def test_blocks_of_another_width_are_named(official, tmp_path):
  key = "Transformer/encoderblock_1/LayerNorm_2/scale"
  official[key] = np.zeros(48, np.float32)
  with pytest.raises(errors.UserError, match=r"S_16.npz.*LayerNorm_2/scale"):
    load(write(tmp_path, official))


@pytest.mark.parametrize("contents", [b"", b"no zip", b"PK\x03\x04 torn"])
def test_a_file_that_is_no_npz_is_named(tmp_path, contents):
  path = tmp_path / "weights.npz"
  path.write_bytes(contents)
  with pytest.raises(errors.UserError, match=r"weights.npz cannot be read"):
    load(path)


def test_a_missing_file_is_named(tmp_path):
  with pytest.raises(errors.UserError, match=r"none.npz cannot be read"):
    load(tmp_path / "none.npz")


class Bomb:
  def __reduce__(self):
    return (exec, ("raise SystemExit('executed')",))


def test_nothing_in_a_file_is_executed(official, tmp_path):
  """Arrays of objects are pickles, which can run anything."""
  path = write(tmp_path, official)
  pickled = io.BytesIO()
  np.save(pickled, np.asarray([Bomb()], object), allow_pickle=True)
  with zipfile.ZipFile(path, "a") as file:
    file.writestr("evil.npy", pickled.getvalue())
  with pytest.raises(errors.UserError, match=r"S_16.npz cannot be read"):
    load(path)


@pytest.mark.parametrize("array", [np.asarray([Bomb()], object), np.ones(3)])
def test_a_bare_array_is_refused(tmp_path, array):
  path = tmp_path / "vit_b16.npy"
  np.save(path, array, allow_pickle=True)
  with pytest.raises(errors.UserError, match=r"vit_b16.npy cannot be read"):
    load(path)


def test_an_empty_file_is_named(tmp_path):
  with pytest.raises(errors.UserError, match=r"S_16.npz lacks 'embedding/ker"):
    load(write(tmp_path, {}))


def test_a_hybrid_is_refused(official, tmp_path):
  official["conv_root/kernel"] = np.zeros((7, 7, 3, 8), np.float32)
  with pytest.raises(errors.UserError, match=r"ResNet before.*B_16"):
    load(write(tmp_path, official))


@pytest.mark.parametrize("patch", [8, 14, 16, 32])
@pytest.mark.parametrize("size", ["ti", "s", "b", "l", "h"])
def test_all_sizes_are_told_from_their_arrays(size, patch, tmp_path):
  """Of shapes alone: one number stands for every one."""
  expected = architecture.parse(f"vit_{size}{patch}")
  width, heads = expected.width, expected.num_heads
  block = "Transformer/encoderblock_"
  shapes = {
    "embedding/kernel": (patch, patch, 3, width),
    POSITIONS: (1, (224 // patch) ** 2 + 1, width),
    f"{block}0/MlpBlock_3/Dense_0/kernel": (width, expected.mlp_dim),
    f"{block}0/MultiHeadDotProductAttention_1/query/kernel": (
      *(width, heads, width // heads),
    ),
    f"{block}{expected.depth - 1}/LayerNorm_0/scale": (width,),
  }
  file = tmp_path / "x.npz"
  with zipfile.ZipFile(file, "w") as archive:
    for name, shape in shapes.items():
      header = io.BytesIO()
      np.lib.format.write_array_header_1_0(
        header,
        {"descr": "<f4", "fortran_order": False, "shape": shape},
      )
      archive.writestr(f"{name}.npy", header.getvalue())
  found = augreg.open_weights(file, key="config.pretrained")
  assert found.architecture == expected
  assert found.image_size == 224
  with pytest.raises(errors.UserError, match=r"is damaged at embedding/kernel"):
    found.arrays.take("embedding/kernel", most=10**7)


def test_what_is_left_is_told_with_its_reason(official, tmp_path, caplog):
  official["pre_logits/bias"] = np.zeros(32, np.float32)
  with caplog.at_level(logging.INFO, "udon_jax"):
    load(write(tmp_path, official))
  (line,) = [m for m in caplog.messages if "parameters from" in m]
  assert line.endswith(
    "S_16.npz: 22 parameters from 38 arrays; left in the file: head/kernel "
    "(the classifier of its training); pre_logits/bias (a layer before that "
    "classifier)"
  )


@pytest.mark.parametrize(
  ("values", "cure"),
  [
    ({}, None),
    ({"model__pixel_mean": (0.5, 0.5, 0.4)}, "pixel_mean='(0.5, 0.5, 0.5)'"),
    ({"model__pixel_std": (1.0, 1.0, 1.0)}, "pixel_std='(0.5, 0.5, 0.5)'"),
  ],
)
def test_other_pixels_are_told_with_the_cure(
  values, cure, official, tmp_path, caplog
):
  path = write(tmp_path, official)
  config = fakes.changed(pretrained=f"augreg:{path}", **values)
  params = set_up("1x1").abstract_state.params
  with caplog.at_level(logging.WARNING, "udon_jax"):
    build.load_pretrained(config, params)
  warned = [m for m in caplog.messages if "mean or standard deviation" in m]
  assert len(warned) == (cure is not None)
  assert not cure or f"set --config.model.{cure}" in warned[0]
