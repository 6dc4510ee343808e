"""Folders of Hugging Face: configs, names, parts, and what is refused."""

import json
import logging
import shutil

import flax
import jax
import numpy as np
import pytest

from tests import weight_files
from tests.test_pretrained_parity import shapes_of
from udon_jax import errors
from udon_jax.models import architecture
from udon_jax.pretrained import huggingface, weights

ACTIVATIONS = {
  "gelu": "gelu",
  "gelu_new": "gelu_tanh",
  "gelu_pytorch_tanh": "gelu_tanh",
  "quick_gelu": "quick_gelu",
}


def open_folder(folder):
  return huggingface.open_weights(folder, key="config.pretrained")


def load(folder, image_size=32):
  found = open_folder(folder)
  shapes = shapes_of(found, image_size=image_size)
  tree = weights.load_backbone(found, shapes)
  return flax.traverse_util.flatten_dict(tree, sep="/")


def assert_same(ours, expected):
  assert ours.keys() == expected.keys()
  for path, value in expected.items():
    np.testing.assert_array_equal(ours[path], value)


@pytest.mark.parametrize(
  ("case", "family", "fields"),
  [
    ("hf_vit", "hfvit", {"norm_eps": 1e-12, "activation": "gelu"}),
    ("hf_vit_new", "hfvit", {"norm_eps": 1e-12, "activation": "gelu_tanh"}),
    ("hf_clip", "clip", {"norm_eps": 1e-5, "activation": "quick_gelu"}),
    ("hf_clip_vision", "clip", {"norm_eps": 1e-5, "activation": "gelu"}),
    ("hf_dinov2", "dinov2", {"patch_size": 14, "layer_scale": True}),
    # int(int(32 * 2) * 2 / 3) = 42, in steps of 8.
    ("hf_dinov2_swiglu", "dinov2", {"mlp_dim": 48, "activation": "swiglu"}),
    ("hf_dinov2_registers", "dinov2reg", {"num_registers": 4, "mlp_dim": 64}),
  ],
)
def test_what_a_folder_is_is_told_by_its_config(case, family, fields):
  found = open_folder(weight_files.PARITY / case)
  assert found.family == family
  expected = {
    "patch_size": 8,
    "width": 32,
    "depth": 2,
    "num_heads": 2,
    **fields,
  }
  for key, value in expected.items():
    assert getattr(found.architecture, key) == value
  assert found.image_size == {"hf_dinov2": 70}.get(
    case, 40 if case in ("hf_vit", "hf_clip", "hf_dinov2_registers") else 32
  )


@pytest.mark.parametrize(
  ("kind", "name"),
  [
    ("vit", "hfvit_b16"),
    ("clip_vision_model", "clip_b32"),
    ("dinov2", "dinov2_b14"),
    ("dinov2_with_registers", "dinov2reg_b14"),
  ],
)
def test_what_a_config_leaves_out_is_transformers_default(kind, name, tmp_path):
  """The base model of each kind, which its name describes too."""
  token = "class_embedding" if "clip" in kind else "cls_token"
  positions = (
    "position_embedding.weight" if "clip" in kind else "position_embeddings"
  )
  weight_files.save(
    tmp_path / "model.safetensors",
    {
      f"embeddings.{token}": np.zeros((1, 1, 768), np.float16),
      f"embeddings.{positions}": np.zeros((50, 768), np.float16),
    },
  )
  (tmp_path / "config.json").write_text(json.dumps({"model_type": kind}))
  assert open_folder(tmp_path).architecture == architecture.parse(name)


def test_the_giant_is_a_swiglu(tmp_path):
  """facebook/dinov2-giant: 4096 after two thirds, in steps of 8."""
  folder = weight_files.copy("hf_dinov2_swiglu", tmp_path)
  weight_files.edit(
    folder,
    hidden_size=1536,
    num_attention_heads=24,
    num_hidden_layers=40,
    mlp_ratio=4,
    patch_size=14,
  )
  found = open_folder(folder)
  assert found.architecture == architecture.parse("dinov2_g14")


@pytest.mark.parametrize("act", ACTIVATIONS)
def test_activations_have_other_names(act, tmp_path):
  folder = weight_files.copy("hf_vit", tmp_path)
  weight_files.edit(folder, hidden_act=act)
  assert open_folder(folder).architecture.activation == ACTIVATIONS[act]


@pytest.mark.parametrize(
  ("case", "prefix"),
  [
    ("hf_vit", "vit."),
    ("hf_dinov2_swiglu", "dinov2."),
    ("hf_dinov2_registers", "dinov2_with_registers."),
    ("hf_clip_vision", "vision_model."),
  ],
)
def test_a_model_alone_is_one_inside_another(case, prefix, tmp_path):
  """The prefix is there or not; both are the same weights."""
  expected = load(weight_files.PARITY / case)
  folder = weight_files.copy(case, tmp_path)
  arrays = weight_files.load(case)
  if any(name.startswith(prefix) for name in arrays):
    arrays = {name.removeprefix(prefix): x for name, x in arrays.items()}
  else:
    arrays = {prefix + name: x for name, x in arrays.items()}
  weight_files.save(folder / "model.safetensors", arrays)
  assert_same(load(folder), expected)


def test_parts_are_one_model(tmp_path):
  """As is one file of them all."""
  folder = weight_files.copy("hf_dinov2", tmp_path)
  expected = load(folder, image_size=70)
  arrays = {}
  parts = sorted(folder.glob("model-*.safetensors"))
  assert len(parts) > 1
  for path in parts:
    arrays |= weight_files.safetensors.numpy.load_file(path)
    path.unlink()
  weight_files.save(folder / "model.safetensors", arrays)
  assert_same(load(folder, image_size=70), expected)


def test_the_second_config_of_a_clip_counts(tmp_path):
  """LAION's hold both; transformers believes vision_config_dict."""
  folder = weight_files.copy("hf_clip", tmp_path)
  values = json.loads((folder / "config.json").read_text())
  inner = values["vision_config"] | {"hidden_act": "gelu"}
  weight_files.edit(folder, vision_config_dict=inner)
  assert open_folder(folder).architecture.activation == "gelu"


@pytest.mark.parametrize(
  ("name", "settings", "expected"),
  [
    (None, None, ((0.5,) * 3, (0.5,) * 3)),
    (
      "preprocessor_config.json",
      {"image_mean": [0.1, 0.2, 0.3], "image_std": [1, 2, 3]},
      ((0.1, 0.2, 0.3), (1.0, 2.0, 3.0)),
    ),
    (
      "processor_config.json",
      {"image_processor": {"image_mean": [0.1, 0.2, 0.3]}},
      ((0.1, 0.2, 0.3), (0.5,) * 3),
    ),
    (
      "preprocessor_config.json",
      {"do_normalize": False, "image_mean": [0.1, 0.2, 0.3]},
      ((0.0,) * 3, (1.0,) * 3),
    ),
  ],
)
def test_pixels_are_those_of_the_processor(name, settings, expected, tmp_path):
  folder = weight_files.copy("hf_vit", tmp_path)
  if name:
    (folder / name).write_text(json.dumps(settings))
  found = open_folder(folder)
  assert (found.pixel_mean, found.pixel_std) == expected


def test_what_is_left_is_told_with_its_reason(caplog):
  for case, words in (
    (
      "hf_clip",
      (
        "logit_scale (of the loss against texts)",
        "text_model.embeddings.position_embedding.weight, ",
        "(the tower for text)",
        "text_projection.weight, visual_projection.weight (into the space",
      ),
    ),
    (
      "hf_dinov2_registers",
      (
        "classifier.bias, classifier.weight (the classifier of its training)",
        "embeddings.mask_token (for training with masked patches)",
      ),
    ),
  ):
    with caplog.at_level(logging.INFO, "udon_jax"):
      load(weight_files.PARITY / case, image_size=24)
    line = caplog.messages[-1]
    assert "positions resized from 26 tokens" in line
    for part in words:
      assert part in line


CONFIGS = [
  ({"model_type": "siglip"}, r"model_type 'siglip'; known: vit, clip"),
  ({"model_type": None}, "model_type None"),
  ({"model_type": ["vit"]}, r"model_type \['vit'\]"),
  ({"hidden_size": 0}, "hidden_size=0"),
  ({"hidden_size": "32"}, "hidden_size='32'"),
  ({"hidden_size": 32.0}, "hidden_size=32.0"),
  ({"num_hidden_layers": True}, "num_hidden_layers=True"),
  ({"patch_size": [8, 16]}, r"patch_size=\[8, 16\]"),
  ({"patch_size": [{}, {}]}, r"patch_size=\{\}"),
  ({"patch_size": []}, r"patch_size=\[\]"),
  ({"num_attention_heads": 3}, "num_attention_heads=3"),
  ({"num_channels": 1}, "num_channels=1"),
  ({"layer_norm_eps": "small"}, "layer_norm_eps='small'"),
  ({"layer_norm_eps": 0}, "layer_norm_eps=0"),
  ({"hidden_act": "relu"}, "hidden_act='relu'; known: gelu"),
  ({"hidden_act": {}}, "hidden_act="),
  ({"intermediate_size": -1}, "intermediate_size=-1"),
]


@pytest.mark.parametrize(("settings", "words"), CONFIGS)
def test_configs_that_cannot_be_are_named(settings, words, tmp_path):
  folder = weight_files.copy("hf_vit", tmp_path)
  weight_files.edit(folder, **settings)
  with pytest.raises(errors.UserError, match=words) as found:
    open_folder(folder)
  assert str(found.value).startswith(f"config.pretrained: {folder} ")
  assert "\n" not in str(found.value)


@pytest.mark.parametrize(
  ("case", "settings", "words"),
  [
    ("hf_dinov2", {"mlp_ratio": "4"}, "mlp_ratio='4'"),
    ("hf_dinov2", {"mlp_ratio": float("inf")}, "mlp_ratio=inf"),
    ("hf_dinov2_registers", {"num_register_tokens": -1}, "num_register_tokens"),
    ("hf_clip", {"vision_config": 3}, "without vision_config"),
    ("hf_clip", {"vision_config": None}, "without vision_config"),
  ],
)
def test_configs_of_others_too(case, settings, words, tmp_path):
  folder = weight_files.copy(case, tmp_path)
  weight_files.edit(folder, **settings)
  with pytest.raises(errors.UserError, match=words):
    open_folder(folder)


@pytest.mark.parametrize("contents", ["", "{", "[]", "3", "[" * 100_000, "\0"])
@pytest.mark.parametrize(
  "name", ["config.json", "preprocessor_config.json", "processor_config.json"]
)
def test_what_is_no_config_is_named(name, contents, tmp_path):
  folder = weight_files.copy("hf_vit", tmp_path)
  (folder / name).write_text(contents)
  with pytest.raises(errors.UserError, match=rf"has a {name} that is no"):
    open_folder(folder)


def test_bytes_that_are_no_text_are_no_config(tmp_path):
  folder = weight_files.copy("hf_vit", tmp_path)
  (folder / "config.json").write_bytes(b"\xff\xfe\x00")
  with pytest.raises(errors.UserError, match=r"config.json that is no JSON"):
    open_folder(folder)


@pytest.mark.parametrize("mean", [3, [1, 2], ["a", "b", "c"], {"a": 1}])
def test_pixels_that_are_none_are_named(mean, tmp_path):
  folder = weight_files.copy("hf_vit", tmp_path)
  path = folder / "preprocessor_config.json"
  path.write_text(json.dumps({"image_mean": mean}))
  with pytest.raises(errors.UserError, match=r"image_mean=.*three numbers"):
    open_folder(folder)


def test_a_standard_deviation_of_zero_is_named(tmp_path):
  folder = weight_files.copy("hf_vit", tmp_path)
  path = folder / "preprocessor_config.json"
  path.write_text(json.dumps({"image_std": [0.5, 0, 0.5]}))
  with pytest.raises(errors.UserError, match=r"image_std=.*three numbers"):
    open_folder(folder)


def test_folders_without_a_config_or_none_at_all_are_named(tmp_path):
  folder = weight_files.copy("hf_vit", tmp_path)
  for path in (tmp_path / "none", folder / "model.safetensors", tmp_path):
    with pytest.raises(errors.UserError, match=r"config.json.*give the folder"):
      open_folder(path)


def test_pickles_alone_are_refused_with_the_cure(tmp_path):
  folder = weight_files.copy("hf_vit", tmp_path)
  (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
  with pytest.raises(errors.UserError, match=r"only pytorch_mo.*convert"):
    open_folder(folder)
  (folder / "pytorch_model.bin").unlink()
  with pytest.raises(errors.UserError, match=r"holds none; convert"):
    open_folder(folder)


@pytest.mark.parametrize(
  "part",
  ["../secret.safetensors", "/etc/passwd", "a/b", "..", ".", "", "a\\b", "C:a"],
)
def test_an_index_does_not_lead_out_of_its_folder(part, tmp_path):
  folder = weight_files.copy("hf_dinov2", tmp_path)
  source = folder / "model-00001-of-00003.safetensors"
  shutil.copy(source, tmp_path / "secret.safetensors")
  index = folder / "model.safetensors.index.json"
  values = json.loads(index.read_text())
  values["weight_map"]["embeddings.cls_token"] = part
  index.write_text(json.dumps(values))
  with pytest.raises(errors.UserError, match=r"no file of the folder"):
    open_folder(folder)


@pytest.mark.parametrize(
  ("contents", "words"),
  [
    ("{", "no JSON"),
    ("{}", "without weight_map"),
    ('{"weight_map": []}', "without weight_map"),
    ('{"weight_map": {"x": "none.safetensors"}}', "lacks none.safetensors"),
  ],
)
def test_an_index_that_is_none_is_named(contents, words, tmp_path):
  folder = weight_files.copy("hf_dinov2", tmp_path)
  (folder / "model.safetensors.index.json").write_text(contents)
  with pytest.raises(errors.UserError, match=words):
    open_folder(folder)


def test_a_missing_part_is_named(tmp_path):
  folder = weight_files.copy("hf_dinov2", tmp_path)
  (folder / "model-00002-of-00003.safetensors").unlink()
  with pytest.raises(errors.UserError, match=r"lacks model-00002.*download"):
    open_folder(folder)


@pytest.mark.parametrize("key", ["num_hidden_layers", "intermediate_size"])
def test_sizes_that_no_memory_holds_are_one_error(key, tmp_path):
  """Nothing is made that the file could not fill."""
  folder = weight_files.copy("hf_vit", tmp_path)
  weight_files.edit(folder, **{key: 2**50})
  found = open_folder(folder)
  small = shapes_of(open_folder(weight_files.PARITY / "hf_vit"), image_size=32)
  flat = flax.traverse_util.flatten_dict(small, sep="/")
  for path, leaf in flat.items():
    if path.startswith(weights.BLOCK):
      shape = (2**50, *leaf.shape[1:])
      if key == "intermediate_size":
        shape = tuple(2**50 if x == 64 else x for x in leaf.shape)
      flat[path] = jax.ShapeDtypeStruct(shape, leaf.dtype)
  tree = flax.traverse_util.unflatten_dict(flat, sep="/")
  with pytest.raises(errors.UserError, match=r"hf_vit (lacks|has)"):
    weights.load_backbone(found, tree)


@pytest.mark.parametrize(
  ("name", "shape", "words"),
  [
    ("vit.encoder.layer.1.layernorm_after.bias", None, "lacks 'vit.encoder"),
    ("vit.layers.0.attention.q_proj.bias", (32,), "no parameter"),
    ("vit.embeddings.cls_token", None, "lacks 'embeddings.cls_token'"),
    ("vit.layernorm.bias", None, "lacks 'vit.layernorm.bias'"),
    ("vit.embeddings.position_embeddings", (1, 26, 8, 4), "pos_embedding"),
    ("vit.embeddings.position_embeddings", (26,), "no positions"),
    ("vit.encoder.layer.1.output.dense.weight", (32, 60), "Dense_1/kernel"),
    (
      "vit.encoder.layer.1.attention.output.dense.weight",
      (32, 31),
      "too small",
    ),
    ("vit.embeddings.patch_embeddings.projection.weight", (32, 3), "make no"),
  ],
)
def test_another_file_is_named(name, shape, words, tmp_path):
  folder = weight_files.copy("hf_vit", tmp_path)
  arrays = weight_files.load("hf_vit")
  arrays.pop(name, None)
  if shape is not None:
    arrays[name] = np.zeros(shape, np.float32)
  weight_files.save(folder / "model.safetensors", arrays)
  with pytest.raises(errors.UserError, match=words) as error:
    load(folder)
  assert "\n" not in str(error.value)
