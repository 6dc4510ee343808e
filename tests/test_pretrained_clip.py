"""Towers of CLIP: forms of files, names, and what is refused."""

import logging
import pickle

import flax
import numpy as np
import pytest

from tests import weight_files
from tests.test_pretrained_parity import shapes_of
from udon_jax import errors
from udon_jax.models import architecture
from udon_jax.pretrained import clip, weights

CASE = "clip_safetensors"  # width 36, in truth of 3 heads


@pytest.fixture
def arrays():
  return weight_files.load(CASE)


def open_arrays(folder, arrays):
  path = folder / "clip.safetensors"
  weight_files.save(path, arrays)
  return clip.open_weights(path, key="config.pretrained")


def load(found, **changes):
  tree = weights.load_backbone(
    found, shapes_of(found, image_size=32, **changes)
  )
  return flax.traverse_util.flatten_dict(tree, sep="/")


def test_what_a_file_is_is_told_from_its_arrays(arrays, tmp_path):
  found = open_arrays(tmp_path, arrays)
  assert found.architecture == architecture.Architecture(
    patch_size=8,
    width=36,
    depth=2,
    num_heads=1,
    mlp_dim=60,
    activation="quick_gelu",
    norm_eps=1e-5,
    patch_bias=False,
    pre_norm=True,
  )
  assert found.image_size == 32
  assert found.family == "clip"


@pytest.mark.parametrize(
  ("width", "heads"), [(768, 12), (1024, 16), (1280, 20)]
)
def test_heads_are_guessed_64_wide(width, heads, arrays, tmp_path):
  arrays["visual.conv1.weight"] = np.zeros((width, 3, 14, 14), np.float16)
  assert open_arrays(tmp_path, arrays).architecture.num_heads == heads


def test_what_a_file_cannot_tell_the_model_decides(arrays, tmp_path):
  """Heads and activation: LAION's are the exact GELU, their heads vary."""
  found = open_arrays(tmp_path, arrays)
  name = {"width": 36, "depth": 2, "mlp_dim": 60}
  wanted = architecture.parse("clip_8", num_heads=3, activation="gelu", **name)
  weights.check_fits(found, wanted)
  other = architecture.parse("clip_8", num_heads=3, norm_eps=1e-6, **name)
  with pytest.raises(errors.UserError, match=r"norm_eps.*--config.model.name"):
    weights.check_fits(found, other)


def test_query_key_and_value_lie_above_each_other(arrays, tmp_path):
  """As the official converter: [3, heads, dh, d] to [d, heads, dh]."""
  ours = load(open_arrays(tmp_path, arrays), num_heads=3)
  for i in range(2):
    block = f"visual.transformer.resblocks.{i}."
    kernels = arrays[f"{block}attn.in_proj_weight"].reshape(3, 3, 12, 36)
    kernels = kernels.transpose(0, 3, 1, 2)
    biases = arrays[f"{block}attn.in_proj_bias"].reshape(3, 3, 12)
    place = "Transformer/encoderblock/MultiHeadDotProductAttention_1/"
    for j, part in enumerate(("query", "key", "value")):
      np.testing.assert_array_equal(
        ours[f"{place}{part}/kernel"][i], kernels[j]
      )
      np.testing.assert_array_equal(ours[f"{place}{part}/bias"][i], biases[j])
    np.testing.assert_array_equal(
      ours[f"{place}out/kernel"][i],
      arrays[f"{block}attn.out_proj.weight"].T.reshape(3, 12, 36),
    )


FORMS = {
  "x.npy": lambda path, arrays: np.save(path, arrays, allow_pickle=True),
  "x.npz": lambda path, arrays: np.savez(path, **arrays),
  "x.safetensors": weight_files.save,
}


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("prefix", ["visual.", ""])
def test_all_forms_hold_the_same(name, prefix, arrays, tmp_path):
  """With both towers, or the one for images alone, under either name."""
  expected = load(open_arrays(tmp_path, arrays), num_heads=3)
  if not prefix:
    arrays = {
      name.removeprefix("visual."): array
      for name, array in arrays.items()
      if name.startswith("visual.")
    }
  FORMS[name](tmp_path / name, arrays)
  found = clip.open_weights(tmp_path / name, key="config.pretrained")
  ours = load(found, num_heads=3)
  assert ours.keys() == expected.keys()
  for path, value in expected.items():
    np.testing.assert_array_equal(ours[path], value)


def test_what_is_left_is_told_with_its_reason(arrays, tmp_path, caplog):
  with caplog.at_level(logging.INFO, "udon_jax"):
    load(open_arrays(tmp_path, arrays), num_heads=3)
  (line,) = [m for m in caplog.messages if "parameters from" in m]
  assert "23 parameters from 31 arrays" in line
  for words in (
    "visual.proj (into the space shared with text)",
    "ln_final.bias, ln_final.weight, positional_embedding and 14 more (the "
    "tower for text)",
    "logit_scale (of the loss against texts)",
  ):
    assert words in line


def rename(old, new):
  return lambda x: {k.replace(old, new): v for k, v in x.items()}


def drop(name):
  return lambda x: {k: v for k, v in x.items() if k != name}


def add(name, shape):
  return lambda x: x | {name: np.zeros(shape, np.float32)}


BLOCK = "visual.transformer.resblocks."


@pytest.mark.parametrize(
  ("change", "words"),
  [
    (rename("transformer.resblocks.0", "layer1.0"), "holds a ResNet"),
    (add("visual.attnpool.c_proj.weight", (2, 2)), "holds a ResNet"),
    (rename("visual.", "vision."), "lacks 'visual.class_embedding'"),
    (drop("visual.ln_pre.bias"), "lacks 'visual.ln_pre.bias'"),
    (drop(f"{BLOCK}1.ln_2.weight"), f"lacks '{BLOCK}1.ln_2.weight'"),
    (drop(f"{BLOCK}0.mlp.c_fc.weight"), f"lacks '{BLOCK}0.mlp.c_fc.weight'"),
    (add(f"{BLOCK}0.ls_1.gamma", (36,)), r"ls_1.gamma', which no parameter"),
    (add("visual.conv1.weight", (36, 3, 8)), "other ranks"),
    (add("visual.positional_embedding", (17,)), "other ranks"),
    (
      add(f"{BLOCK}0.attn.in_proj_weight", (107, 36)),
      "in_proj.*make no",
    ),
    (add(f"{BLOCK}1.mlp.c_fc.weight", (61, 36)), "Dense_0/kernel"),
    (add(f"{BLOCK}2.ln_1.weight", (36,)), "depth 3"),
  ],
)
def test_another_file_is_named(change, words, arrays, tmp_path):
  with pytest.raises(errors.UserError, match=words) as error:
    found = open_arrays(tmp_path, change(arrays))
    wanted = architecture.parse(
      "clip_8", width=36, depth=2, num_heads=3, mlp_dim=60
    )
    weights.check_fits(found, wanted)
    load(found, num_heads=3)
  assert str(error.value).startswith(f"config.pretrained: {tmp_path}")
  assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["x.pt", "x.bin", "x"])
def test_files_of_pytorch_are_refused_with_the_cure(name, tmp_path):
  path = tmp_path / name
  path.write_bytes(pickle.dumps({"visual.proj": 1}))
  with pytest.raises(errors.UserError, match=r"run code; convert it: safetens"):
    clip.open_weights(path, key="config.pretrained")


@pytest.mark.parametrize("contents", [b"", b"no weights at all", b"\x93NUMPY"])
def test_what_is_no_file_of_weights_is_named(contents, tmp_path):
  path = tmp_path / "clip.npy"
  path.write_bytes(contents)
  with pytest.raises(errors.UserError, match=r"clip.npy cannot be read"):
    clip.open_weights(path, key="config.pretrained")


@pytest.mark.parametrize("path", ["none.npy", "."])
def test_a_missing_file_is_named(path, tmp_path):
  with pytest.raises(errors.UserError, match=r"cannot be read.*give the file"):
    clip.open_weights(tmp_path / path, key="config.pretrained")
