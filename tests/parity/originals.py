"""Originals of other libraries with seeded weights, saved as they save them.

Needs the `parity` extra: torch, transformers, timm. Every function writes one
folder of weights, in the very form that users have, and returns the original as
a function from images to embeddings.
"""

import collections
import functools

import numpy as np
import safetensors.torch
import timm.models.vision_transformer as timm_vit
import torch
from torch import nn
import transformers

torch.set_grad_enabled(False)


def draw(shape, rng, *, around=0.0, spread=None):
  """Returns seeded numbers, spread so that activations keep their size."""
  if spread is None:
    spread = np.prod(shape[1:]) ** -0.5 if len(shape) > 1 else 0.1
  return np.asarray(around + spread * rng.normal(size=shape), np.float32)


def shake(model, rng):
  """Gives every parameter of a model numbers that matter to its output."""
  for name, parameter in model.named_parameters():
    scales = "norm" in name and name.endswith("weight")
    around = 1.0 if scales or "lambda" in name else 0.0
    token = any(x in name for x in ("token", "position", "class_embedding"))
    values = draw(
      tuple(parameter.shape),
      rng,
      around=around,
      spread=0.5 if token else None,
    )
    parameter.copy_(torch.from_numpy(values))
  return model.eval()


def _pixels(images, mean, std):
  """Returns normalised images [n, 3, h, w] of uint8 images [n, h, w, 3]."""
  values = images.astype(np.float32) / 255
  values = (values - np.float32(mean)) / np.float32(std)
  return torch.from_numpy(values.transpose(0, 3, 1, 2).copy())


def _embed(model, mean, std, call):
  def embed(images):
    return call(model, _pixels(images, mean, std)).numpy()

  return embed


HALF = ((0.5,) * 3, (0.5,) * 3)
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CLIP = (
  (0.48145466, 0.4578275, 0.40821073),
  (0.26862954, 0.26130258, 0.27577711),
)


def _timm_vit(size, **options):
  return timm_vit.VisionTransformer(
    img_size=size["image"],
    patch_size=size["patch"],
    embed_dim=size["width"],
    depth=size["depth"],
    num_heads=size["heads"],
    mlp_ratio=size["mlp"] / size["width"],
    num_classes=3,
    **options,
  ).eval()


def augreg(folder, size, rng):
  """Writes an AugReg .npz, which timm's own reader of these files reads."""
  width, mlp, heads = size["width"], size["mlp"], size["heads"]
  patch, tokens = size["patch"], (size["image"] // size["patch"]) ** 2 + 1
  values = {
    "cls": draw((1, 1, width), rng, spread=0.5),
    "embedding/kernel": draw(
      (patch, patch, 3, width), rng, spread=(3 * patch**2) ** -0.5
    ),
    "embedding/bias": draw((width,), rng),
    "Transformer/posembed_input/pos_embedding": draw(
      (1, tokens, width), rng, spread=0.5
    ),
    "Transformer/encoder_norm/scale": draw((width,), rng, around=1.0),
    "Transformer/encoder_norm/bias": draw((width,), rng),
    "pre_logits/kernel": draw((width, width), rng),
    "pre_logits/bias": draw((width,), rng),
    "head/kernel": draw((width, 3), rng),
    "head/bias": draw((3,), rng),
  }
  for i in range(size["depth"]):
    block = f"Transformer/encoderblock_{i}/"
    for norm in ("LayerNorm_0", "LayerNorm_2"):
      values[f"{block}{norm}/scale"] = draw((width,), rng, around=1.0)
      values[f"{block}{norm}/bias"] = draw((width,), rng)
    split = (heads, width // heads)
    for part in ("query", "key", "value"):
      name = f"{block}MultiHeadDotProductAttention_1/{part}/"
      values[name + "kernel"] = draw((width, *split), rng, spread=width**-0.5)
      values[name + "bias"] = draw(split, rng, spread=0.1)
    name = f"{block}MultiHeadDotProductAttention_1/out/"
    values[name + "kernel"] = draw((*split, width), rng, spread=width**-0.5)
    values[name + "bias"] = draw((width,), rng)
    for dense, shape in (("Dense_0", (width, mlp)), ("Dense_1", (mlp, width))):
      name = f"{block}MlpBlock_3/{dense}/"
      values[name + "kernel"] = draw(shape, rng, spread=shape[0] ** -0.5)
      values[name + "bias"] = draw(shape[1:], rng)
  np.savez(folder / "weights.npz", **values)
  model = _timm_vit(
    size,
    act_layer=functools.partial(nn.GELU, approximate="tanh"),
    norm_layer=functools.partial(nn.LayerNorm, eps=1e-6),
  )
  model.load_pretrained(str(folder / "weights.npz"))
  return _embed(model, *HALF, lambda m, x: m.forward_features(x)[:, 0])


def _openai(size, rng):
  """Returns a CLIP's arrays under the names of openai/CLIP."""
  width, mlp = size["width"], size["mlp"]
  patch, tokens = size["patch"], (size["image"] // size["patch"]) ** 2 + 1
  values = {
    "visual.class_embedding": draw((width,), rng, spread=0.5),
    "visual.positional_embedding": draw((tokens, width), rng, spread=0.5),
    "visual.proj": draw((width, 8), rng),
    "visual.conv1.weight": draw((width, 3, patch, patch), rng),
    "visual.ln_pre.weight": draw((width,), rng, around=1.0),
    "visual.ln_pre.bias": draw((width,), rng),
    "visual.ln_post.weight": draw((width,), rng, around=1.0),
    "visual.ln_post.bias": draw((width,), rng),
  }

  def block(name, width, mlp):
    for norm in ("ln_1", "ln_2"):
      values[f"{name}{norm}.weight"] = draw((width,), rng, around=1.0)
      values[f"{name}{norm}.bias"] = draw((width,), rng)
    for layer, shape in (
      ("attn.in_proj_", (3 * width, width)),
      ("attn.out_proj.", (width, width)),
      ("mlp.c_fc.", (mlp, width)),
      ("mlp.c_proj.", (width, mlp)),
    ):
      values[f"{name}{layer}weight"] = draw(shape, rng)
      values[f"{name}{layer}bias"] = draw(shape[:1], rng)

  for i in range(size["depth"]):
    block(f"visual.transformer.resblocks.{i}.", width, mlp)
  block("transformer.resblocks.0.", 8, 16)
  values |= {
    "token_embedding.weight": draw((5, 8), rng),
    "positional_embedding": draw((4, 8), rng),
    "ln_final.weight": draw((8,), rng),
    "ln_final.bias": draw((8,), rng),
    "text_projection": draw((8, 8), rng),
    "logit_scale": np.asarray(4.6, np.float32),
  }
  return values


_SETTINGS = {"context_length": 4, "input_resolution": 32, "vocab_size": 5}


def _from_openai(values, size):
  """Returns timm's ViT of a CLIP's arrays, by timm's own converter."""
  model = _timm_vit(
    size,
    pre_norm=True,
    act_layer=timm_vit.get_act_layer("quick_gelu"),
    norm_layer=functools.partial(nn.LayerNorm, eps=1e-5),
  )
  tensors = {
    name: torch.from_numpy(np.asarray(value, np.float32))
    for name, value in values.items()
  }
  state = timm_vit.checkpoint_filter_fn(tensors, model)
  state = {k: v for k, v in state.items() if not k.startswith("head.")}
  lost, unknown = model.load_state_dict(state, strict=False)
  # timm writes the missing bias of the patches as one of zeros.
  assert not unknown
  assert set(lost) <= {"head.weight", "head.bias", "patch_embed.proj.bias"}
  if "patch_embed.proj.bias" in lost:
    model.patch_embed.proj.bias.zero_()
  return _embed(model, *CLIP, lambda m, x: m.forward_features(x)[:, 0])


def clip_npy(folder, size, rng):
  """Writes a CLIP as scenic's vit_b16.npy is: a pickled dict, float16."""
  values = _openai(size, rng)
  values = {
    name: value if "ln_" in name else value.astype(np.float16)
    for name, value in values.items()
  }
  settings = {name: np.asarray(value) for name, value in _SETTINGS.items()}
  np.save(folder / "weights.npy", values | settings, allow_pickle=True)
  return _from_openai(values, size)


def clip_safetensors(folder, size, rng):
  """Writes a CLIP as open_clip does."""
  values = _openai(size, rng)
  safetensors.torch.save_file(
    {name: torch.from_numpy(np.array(value)) for name, value in values.items()},
    folder / "weights.safetensors",
  )
  return _from_openai(values, size)


def _hf(size, **more):
  """Returns what the configs of transformers call the sizes."""
  return {
    "hidden_size": size["width"],
    "num_hidden_layers": size["depth"],
    "num_attention_heads": size["heads"],
    "image_size": size["image"],
    "patch_size": size["patch"],
    **more,
  }


def hf_vit(folder, size, rng, *, options, **save):
  """Writes an image classifier of Hugging Face."""
  config = transformers.ViTConfig(
    **_hf(size, intermediate_size=size["mlp"], **options)
  )
  model = shake(transformers.ViTForImageClassification(config), rng)
  model.save_pretrained(folder, **save)

  def call(m, x):
    return m.vit(x, interpolate_pos_encoding=True).last_hidden_state[:, 0]

  return _embed(model, *HALF, call)


def hf_vit_bfloat16(folder, size, rng):
  """Writes a ViT in bfloat16, computed with in float32."""
  config = transformers.ViTConfig(**_hf(size, intermediate_size=size["mlp"]))
  model = shake(transformers.ViTModel(config), rng)
  model.to(torch.bfloat16).save_pretrained(folder)
  return _embed(
    model.to(torch.float32), *HALF, lambda m, x: m(x).last_hidden_state[:, 0]
  )


def hf_clip(folder, size, rng):
  """Writes both towers of a CLIP of Hugging Face."""
  text = {
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "vocab_size": 5,
    "max_position_embeddings": 4,
    "bos_token_id": 0,
    "eos_token_id": 1,
  }
  config = transformers.CLIPConfig(
    text_config=text,
    vision_config=_hf(size, intermediate_size=size["mlp"]),
    projection_dim=8,
  )
  model = shake(transformers.CLIPModel(config), rng)
  model.save_pretrained(folder)

  def call(m, x):
    return m.vision_model(x, interpolate_pos_encoding=True).pooler_output

  return _embed(model, *CLIP, call)


def hf_clip_vision(folder, size, rng, **save):
  """Writes the tower for images of a CLIP of Hugging Face, alone."""
  config = transformers.CLIPVisionConfig(
    **_hf(size, intermediate_size=size["mlp"], hidden_act="gelu")
  )
  model = shake(transformers.CLIPVisionModel(config), rng)
  model.save_pretrained(folder, **save)
  return _embed(model, *CLIP, lambda m, x: m(x).pooler_output)


def _dinov2(kind, folder, size, rng, *, swiglu, **save):
  config = {
    "Dinov2": transformers.Dinov2Config,
    "Dinov2WithRegisters": transformers.Dinov2WithRegistersConfig,
  }[kind](
    **_hf(
      size,
      mlp_ratio=size["mlp"] // size["width"],
      use_swiglu_ffn=swiglu,
      layerscale_value=1.0,
    )
  )
  model = {
    "Dinov2": transformers.Dinov2Model,
    "Dinov2WithRegisters": (
      transformers.Dinov2WithRegistersForImageClassification
    ),
  }[kind](config)
  model = shake(model, rng)
  model.save_pretrained(folder, **save)
  inner = getattr(model, "dinov2_with_registers", model)
  return _embed(inner, *IMAGENET, lambda m, x: m(x).pooler_output)


dinov2 = functools.partial(_dinov2, "Dinov2", swiglu=False)
dinov2_swiglu = functools.partial(_dinov2, "Dinov2", swiglu=True)
dinov2_registers = functools.partial(
  _dinov2, "Dinov2WithRegisters", swiglu=False
)
dinov2_registers_swiglu = functools.partial(
  _dinov2, "Dinov2WithRegisters", swiglu=True
)

# {name: (what makes it, kind, the file in its folder)}.
NEW = {"save_original_format": False}  # names of version 5
CASES = collections.OrderedDict(
  augreg=(augreg, "augreg", "weights.npz"),
  clip_npy=(clip_npy, "clip", "weights.npy"),
  clip_safetensors=(clip_safetensors, "clip", "weights.safetensors"),
  hf_vit=(functools.partial(hf_vit, options={}), "hf", ""),
  hf_vit_new=(
    functools.partial(
      hf_vit,
      options={"qkv_bias": False, "hidden_act": "gelu_pytorch_tanh"},
      **NEW,
    ),
    "hf",
    "",
  ),
  hf_vit_bfloat16=(hf_vit_bfloat16, "hf", ""),
  hf_clip=(hf_clip, "hf", ""),
  hf_clip_vision=(hf_clip_vision, "hf", ""),
  hf_dinov2=(
    functools.partial(dinov2, max_shard_size="40KB"),
    "hf",
    "",
  ),
  hf_dinov2_swiglu=(dinov2_swiglu, "hf", ""),
  hf_dinov2_registers=(dinov2_registers, "hf", ""),
  hf_dinov2_registers_swiglu_new=(
    functools.partial(dinov2_registers_swiglu, **NEW),
    "hf",
    "",
  ),
)
