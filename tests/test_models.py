"""The ViT, the projections and the model against numpy and known numbers."""

import dataclasses

from flax import linen as nn
from flax import traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import fakes
from tests.oracles import vit as oracle
from udon_jax import build, errors
from udon_jax.models import architecture, heads, registry, vit

# Parameters of the backbone without a head, 224 pixels (timm's numbers for
# vit_*_patch16_224 less the head; l: arXiv 2010.11929).
KNOWN = {
  "vit_ti16": (192, 5_524_416),
  "vit_s16": (384, 21_665_664),
  "vit_b16": (768, 85_798_656),
  "vit_l16": (1024, 303_301_632),
}
PATCH, SIDE, DOMAIN = 8, 16, 2


def backbone(name, *, image_size=224, **changes):
  options = {
    "dtype": "float32",
    "stochastic_depth": 0.0,
    "position_stddev": 0.02,
    "unroll": 1,
    **changes,
  }
  arch = architecture.parse(name)
  return registry.get_backbone(arch, image_size=image_size, **options)


@pytest.mark.parametrize("name", KNOWN)
def test_shapes_and_sizes_are_the_known_ones(name):
  width, count = KNOWN[name]
  images = jax.ShapeDtypeStruct((2, 224, 224, 3), jnp.float32)
  model = backbone(name)
  out, variables = jax.eval_shape(
    lambda x: model.init_with_output(jax.random.key(0), x, train=False), images
  )
  assert out.shape == (2, width)
  leaves = jax.tree.leaves(variables["params"])
  assert sum(x.size for x in leaves) == count
  flat = traverse_util.flatten_dict(variables["params"], sep="/")
  positions = flat["Transformer/posembed_input/pos_embedding"]
  assert positions.shape == (1, 197, width)


@pytest.mark.parametrize(
  "changes, message",
  [
    ({"name": "vit_z16"}, r"config.model.name='vit_z16' is unknown.*sizes mu"),
    ({"name": "resnet50"}, r"config.model.name='resnet50' is unknown"),
    ({"name": "vit_b0"}, r"config.model.name='vit_b0' is unknown"),
    ({"name": "vit_b"}, r"config.model.name='vit_b' is unknown"),
    ({"image_size": 230}, r"config.data.crop_size=230 is not a multiple"),
    ({"stochastic_depth": 1.0}, r"config.model.stochastic_depth=1.0"),
    ({"dtype": "float16"}, r"config.model.dtype='float16'.*bfloat16"),
  ],
)
def test_what_cannot_be_built_is_named(changes, message):
  with pytest.raises(errors.UserError, match=message):
    backbone(**{"name": "vit_b16", **changes})


def images_of(seed=0, number=3):
  rng = np.random.default_rng(seed)
  return rng.integers(0, 256, (number, SIDE, SIDE, 3)).astype(np.uint8)


def noise(params, seed=0):
  """Returns parameters of the same shapes, none of them zero or one."""
  rng = np.random.default_rng(seed)
  return jax.tree.map(
    lambda x: jnp.asarray(rng.normal(0, 0.3, x.shape), x.dtype), params
  )


@pytest.fixture(scope="module")
def tiny():
  """A model of three domains, with parameters that are all at work."""
  model = build.model(fakes.config(), len(fakes.DOMAINS))
  shapes = jax.eval_shape(
    lambda x: model.init(jax.random.key(0), x, jnp.int32(0), train=False),
    images_of(),
  )
  return model, noise(shapes["params"])


def apply(model, params, domain=DOMAIN, **options):
  options = {"train": False, **options}
  return jax.jit(
    lambda p, x, d, **rngs: model.apply({"params": p}, x, d, **options, **rngs)
  )(params, images_of(), jnp.int32(domain))


def in_float64(tree):
  return jax.tree.map(lambda x: np.asarray(x, np.float64), tree)


def test_attention_and_blocks_are_those_of_numpy(tiny):
  """Float64 on both sides, but for the softmax, which JAX does in float32."""
  model, params = tiny
  width = model.backbone.arch.width
  with jax.enable_x64(True):
    params = jax.tree.map(
      lambda x: jnp.asarray(x, jnp.float64), params["backbone"]
    )
    block = oracle.take(params["Transformer"]["encoderblock"], 1)
    x = jnp.asarray(np.random.default_rng(1).normal(size=(2, 5, width)))
    module = vit.EncoderBlock(model.backbone.arch, jnp.float64, "xla")
    ours, _ = module.apply({"params": block}, x, None)
    expected = [oracle.block(row, in_float64(block)) for row in np.asarray(x)]
    np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-6)


def test_the_class_token_is_that_of_numpy(tiny):
  model, params = tiny
  images = images_of() / 127.5 - 1.0
  ours = jax.jit(lambda p, x: model.backbone.apply(p, x, train=False))(
    {"params": params["backbone"]}, images.astype(np.float32)
  )
  expected = [
    oracle.vit(image, in_float64(params["backbone"]), patch=PATCH)
    for image in images
  ]
  np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-4)


def normalize(x):
  return x / np.linalg.norm(x, axis=-1, keepdims=True)


@pytest.mark.parametrize("domain", range(3))
def test_the_teacher_is_that_of_the_traced_domain(tiny, domain):
  model, params = tiny
  outputs = jax.device_get(apply(model, params, domain))
  own = oracle.take(in_float64(params["teacher_projection"]), domain)
  student = in_float64(params["student_projection"])
  features = outputs.backbone.astype(np.float64)
  for found, projection in (
    (outputs.teacher, own),
    (outputs.student, student),
  ):
    expected = normalize(oracle.dense(features, projection["Dense_0"]))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_pixels_are_normalised_by_the_statistics_of_the_config(tiny):
  """(x / 255 - mean) / std: a shift of the mean is a shift of the pixels."""
  model, params = tiny
  clip = dataclasses.replace(
    model, pixel_mean=(0.48, 0.45, 0.40), pixel_std=(0.27, 0.26, 0.28)
  )
  pixels = (images_of() / 255 - clip.pixel_mean) / np.asarray(clip.pixel_std)
  expected = [
    oracle.vit(image, in_float64(params["backbone"]), patch=PATCH)
    for image in pixels
  ]
  np.testing.assert_allclose(
    apply(clip, params).backbone, normalize(expected), rtol=1e-4, atol=1e-5
  )


def with_backbone(model, **changes):
  return dataclasses.replace(
    model, backbone=dataclasses.replace(model.backbone, **changes)
  )


def test_unrolling_changes_nothing(tiny):
  model, params = tiny
  ours = apply(with_backbone(model, unroll=2), params)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
    ours,
    apply(model, params),
  )


def test_bfloat16_computes_what_float32_does_but_for_rounding(tiny):
  model, params = tiny
  rough = with_backbone(model, dtype=jnp.bfloat16)
  shapes = jax.eval_shape(
    lambda x: rough.init(jax.random.key(0), x, jnp.int32(0), train=False),
    images_of(),
  )
  assert {x.dtype for x in jax.tree.leaves(shapes)} == {jnp.dtype("float32")}
  params = jax.tree.map(lambda x: x / 3, params)
  exact, found = apply(model, params), apply(rough, params)
  differs = False
  for a, b in zip(jax.tree.leaves(exact), jax.tree.leaves(found), strict=True):
    assert b.dtype == jnp.float32
    np.testing.assert_allclose(np.linalg.norm(b, axis=1), 1.0, rtol=1e-5)
    assert np.sum(a * b, axis=1).min() > 0.995  # cosine
    differs |= not np.array_equal(a, b)
  assert differs  # it is not float32 in disguise


def embed(model, params, key, *, train=True):
  """Returns the class tokens, with branches dropped by a key."""
  return model.backbone.apply(
    {"params": params["backbone"]},
    images_of() / 127.5 - 1.0,
    train=train,
    rngs={"dropout": key},
  )


def test_branches_are_dropped_in_training_alone(tiny):
  model, params = tiny
  dropping = with_backbone(model, stochastic_depth=0.9)
  jitted = jax.jit(lambda k: embed(dropping, params, k))
  first, second = (jitted(jax.random.key(i)) for i in range(2))
  assert np.abs(first - second).max() > 1e-3
  np.testing.assert_array_equal(first, jitted(jax.random.key(0)))
  plain = embed(model, params, jax.random.key(0), train=False)
  for key in range(2):
    still = embed(dropping, params, jax.random.key(key), train=False)
    np.testing.assert_allclose(still, plain, rtol=1e-5, atol=1e-5)


def test_the_first_block_drops_nothing_and_the_last_the_full_share(tiny):
  """Rates climb linearly: 0 at block 0, the share at the last of two."""
  model, params = tiny
  dropping = with_backbone(model, stochastic_depth=0.999)
  blocks = params["backbone"]["Transformer"]["encoderblock"]

  def silenced(layer):
    """Returns the parameters with both branches of a block at zero."""
    flat = traverse_util.flatten_dict(blocks, sep="/")
    for name in ("MultiHeadDotProductAttention_1/out", "MlpBlock_3/Dense_1"):
      for leaf in ("kernel", "bias"):
        key = f"{name}/{leaf}"
        flat[key] = flat[key].at[layer].set(0.0)
    encoder = params["backbone"]["Transformer"]
    encoder = {
      **encoder,
      "encoderblock": traverse_util.unflatten_dict(flat, sep="/"),
    }
    return {"backbone": {**params["backbone"], "Transformer": encoder}}

  found = embed(dropping, params, jax.random.key(0))
  without_last = embed(model, silenced(1), jax.random.key(0), train=False)
  without_first = embed(model, silenced(0), jax.random.key(0), train=False)
  np.testing.assert_allclose(found, without_last, rtol=1e-4, atol=1e-4)
  assert np.abs(found - without_first).max() > 1e-2


@pytest.mark.parametrize("rate", [0.0, 0.3, 0.7])
def test_dropping_keeps_the_mean_of_a_branch(rate):
  block = vit.EncoderBlock(architecture.parse("vit_mu8"), jnp.float32, "xla")
  branch = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3, 4)))

  def drop(key):
    return block.apply(
      {},
      branch,
      jnp.float32(rate),
      rngs={"dropout": key},
      method=vit.EncoderBlock._drop_path,
    )

  many = np.asarray(
    jax.jit(jax.vmap(drop))(jax.random.split(jax.random.key(0), 4000))
  )
  np.testing.assert_allclose(
    many.mean(0, dtype=np.float64),
    branch,
    rtol=5 * (rate / (1 - rate) / 4000) ** 0.5 + 1e-5,
  )
  dropped = (many == 0).all((2, 3))  # for whole images, each by itself
  np.testing.assert_allclose(dropped.mean(0), rate, atol=0.05)
  both = dropped.all(1).mean()
  np.testing.assert_allclose(both, rate**2, atol=0.05)
  kept = many[~dropped] * (1 - rate)
  rows = np.broadcast_to(branch, many.shape)[~dropped]
  np.testing.assert_allclose(kept, rows, rtol=1e-5)


@pytest.mark.parametrize("hidden", [(), (12,), (12, 20)])
def test_projections_of_any_depth(hidden):
  """Dense, LayerNorm, GELU between layers and none after the last."""
  module = heads.Projection(hidden, 5)
  x = np.random.default_rng(0).normal(size=(4, 7)).astype(np.float32)
  params = module.init(jax.random.key(0), x)["params"]
  names = {f"Dense_{k}" for k in range(len(hidden) + 1)}
  assert set(params) == names | {f"LayerNorm_{k}" for k in range(len(hidden))}
  params = noise(params)
  expected, plain = x.astype(np.float64), in_float64(params)
  for k in range(len(hidden)):
    expected = oracle.dense(expected, plain[f"Dense_{k}"])
    expected = oracle.gelu(oracle.layer_norm(expected, plain[f"LayerNorm_{k}"]))
  expected = oracle.dense(expected, plain[f"Dense_{len(hidden)}"])
  found = module.apply({"params": params}, x)
  np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_teachers_of_a_model_with_hidden_layers_are_stacked():
  config = fakes.changed(model__teacher_hidden=(12,))
  model = build.model(config, 3)

  def init(images):  # the rest is not computed
    variables = model.init(jax.random.key(0), images, jnp.int32(0), train=False)
    return variables["params"]["teacher_projection"]

  params = jax.jit(init)(images_of())
  assert params["Dense_0"]["kernel"].shape == (3, 32, 12)
  assert params["LayerNorm_0"]["scale"].shape == (3, 12)
  kernel = np.asarray(params["Dense_1"]["kernel"])
  for i in range(3):  # no two teachers start alike
    assert not np.allclose(kernel[i], kernel[i - 1])


def test_normalize_leaves_zero_rows():
  x = jnp.asarray([[3.0, 4.0], [0.0, 0.0], [1e-3, 0.0]])
  expected = [[0.6, 0.8], [0.0, 0.0], [1.0, 0.0]]
  np.testing.assert_allclose(heads.normalize(x), expected, rtol=1e-6)
  grad = jax.grad(lambda x: heads.normalize(x).sum())(x)
  assert np.isfinite(grad).all()


def test_modules_stay_in_their_room():
  """The model is Linen, and frozen configs reach it as plain values."""
  model = build.model(fakes.config(), 3)
  assert isinstance(model, nn.Module)
  assert hash(model) == hash(build.model(fakes.config(), 3))
