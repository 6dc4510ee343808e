"""Operations counted from jaxprs: hand formulas, and laws of composition."""

import functools

import jax
from jax import lax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
import pytest

from udon_jax import flops, partitioning
from udon_jax.models import architecture, registry


def shape(*dims):
  return jax.ShapeDtypeStruct(dims, jnp.float32)


def count(function, *args):
  found = flops.count(function, *args)
  assert found.open_loops == 0
  return found.flops


@pytest.mark.parametrize(
  "formula, left, right, expected",
  [
    ("mk,kn->mn", (3, 5), (5, 7), 2 * 3 * 5 * 7),
    ("bmk,bkn->bmn", (4, 3, 5), (4, 5, 7), 2 * 4 * 3 * 5 * 7),
    ("bqhd,bkhd->bhqk", (2, 9, 4, 8), (2, 6, 4, 8), 2 * 2 * 4 * 9 * 6 * 8),
    ("ijk,jki->", (2, 3, 4), (3, 4, 2), 2 * 2 * 3 * 4),
  ],
)
def test_products(formula, left, right, expected):
  product = functools.partial(jnp.einsum, formula)
  assert count(product, shape(*left), shape(*right)) == expected


def conv(x, kernel, **options):
  return lax.conv_general_dilated(
    x, kernel, dimension_numbers=("NHWC", "HWIO", "NHWC"), **options
  )


def pairs_by_loop(size, kernel, stride, padding, dilation):
  """Counts the products of a row of a convolution one by one."""
  found, start = 0, -padding
  while start + (kernel - 1) * dilation < size + padding:
    reached = (start + k * dilation for k in range(kernel))
    found += sum(0 <= position < size for position in reached)
    start += stride
  return found


CONVS = [  # size, kernel, stride, padding, dilation, groups
  (16, 4, 4, 0, 1, 1),
  (9, 3, 1, 1, 1, 1),
  (11, 3, 2, 2, 2, 1),
  (8, 3, 1, 1, 1, 2),
]


@pytest.mark.parametrize(
  "size, kernel, stride, padding, dilation, groups", CONVS
)
def test_convolutions_and_their_gradients(
  size, kernel, stride, padding, dilation, groups
):
  """Products with padding do not count; each gradient costs what it costs."""
  function = functools.partial(
    conv,
    window_strides=(stride, stride),
    padding=[(padding, padding)] * 2,
    rhs_dilation=(dilation, dilation),
    feature_group_count=groups,
  )
  x, w = shape(5, size, size, 6), shape(kernel, kernel, 6 // groups, 4)
  row = pairs_by_loop(size, kernel, stride, padding, dilation)
  expected = 2 * 5 * row**2 * 4 * (6 // groups)
  assert count(function, x, w) == expected

  def loss(x, w):
    return jnp.sum(function(x, w) ** 2)

  assert count(jax.grad(loss, argnums=1), x, w) == 2 * expected
  assert count(jax.grad(loss, argnums=(0, 1)), x, w) == 3 * expected


def vit_flops(size, *, patch, width, depth, mlp):
  """Multiply-adds of a ViT by hand, times two."""
  patches = (size // patch) ** 2
  tokens = patches + 1
  block = 4 * tokens * width**2  # query, key, value, out
  block += 2 * tokens**2 * width  # scores, and what they weigh
  block += 2 * tokens * width * mlp
  return 2 * (patches * patch**2 * 3 * width + depth * block)


def make_vit(name, size, **options):
  """Returns the forward pass, and shapes of its arguments."""
  model = registry.get_backbone(
    architecture.parse(name),
    image_size=size,
    **{
      "dtype": "float32",
      "stochastic_depth": 0.0,
      "position_stddev": 0.02,
      "unroll": 1,
      **options,
    },
  )
  images = shape(1, size, size, 3)
  variables = jax.eval_shape(
    lambda x: model.init(jax.random.key(0), x, train=False), images
  )
  return lambda v, x: model.apply(v, x, train=False), variables, images


def test_vit_b16_as_published():
  """17.56 G multiply-adds an image of 224 pixels, and three times in training.

  The gradient of the pixels is not computed.
  """
  forward, *args = make_vit("vit_b16", 224)
  expected = vit_flops(224, patch=16, width=768, depth=12, mlp=3072)
  assert count(forward, *args) == expected
  assert expected == pytest.approx(35.1e9, rel=2e-3)
  step = jax.value_and_grad(lambda v, x: jnp.sum(forward(v, x)))
  pixels = 2 * 196 * 16 * 16 * 3 * 768
  assert count(step, *args) == 3 * expected - pixels
  assert count(step, *args) == pytest.approx(105.4e9, rel=4e-3)


def test_loops_count_as_often_as_they_run():
  """A scan over layers, and its gradient, cost what layers in a row cost."""

  def layer(x, w):
    return jnp.tanh(x @ w)

  def scanned(x, stack):
    return jnp.sum(lax.scan(lambda x, w: (layer(x, w), None), x, stack)[0])

  def in_a_row(x, stack):
    for i in range(5):
      x = layer(x, stack[i])
    return jnp.sum(x)

  args = shape(3, 8), shape(5, 8, 8)
  assert count(scanned, *args) == count(in_a_row, *args) == 5 * 2 * 3 * 8**2
  both = (0, 1)
  assert count(jax.grad(scanned, both), *args) == count(
    jax.grad(in_a_row, both), *args
  )


def test_loops_of_unknown_length_count_once_and_are_told():
  def until_small(x):
    return lax.while_loop(lambda y: jnp.sum(y) > 1, lambda y: y @ y, x)

  x = shape(8, 8)
  assert flops.count(until_small, x) == flops.Count(2 * 8**3, open_loops=1)
  twice = flops.count(lambda x: until_small(until_small(x)), x)
  assert twice == flops.Count(4 * 8**3, open_loops=2)

  def counter(x):
    return lax.while_loop(lambda y: jnp.sum(y) > 1, lambda y: y / 2, x)

  assert flops.count(counter, x) == flops.Count()


def test_the_dearest_branch_counts():
  def branches(i, x):
    return lax.switch(i, [lambda x: x, lambda x: x @ x @ x, lambda x: x @ x], x)

  index = jax.ShapeDtypeStruct((), jnp.int32)
  assert count(branches, index, shape(8, 8)) == 2 * 2 * 8**3


def square(x):
  return x @ x


@jax.custom_vjp
def own_vjp(x):
  return square(x)


own_vjp.defvjp(lambda x: (square(x), x), lambda x, g: (g @ x,))


@jax.custom_jvp
def own_jvp(x):
  return square(x)


own_jvp.defjvp(lambda x, t: (square(*x), x[0] @ t[0]))


@pytest.mark.parametrize(
  "function", [jax.jit(square), jax.checkpoint(square), own_vjp, own_jvp]
)
def test_calls_cost_what_they_call(function):
  assert count(function, shape(8, 8)) == 2 * 8**3
  assert count(jax.vmap(function), shape(5, 8, 8)) == 5 * 2 * 8**3


def test_custom_gradients_are_followed():
  loss = jax.value_and_grad(lambda x: jnp.sum(own_vjp(x)))
  assert count(loss, shape(8, 8)) == 2 * 2 * 8**3


@pytest.mark.parametrize("data, fsdp", [(8, 1), (2, 4)])
def test_every_device_does_its_share(data, fsdp):
  mesh = partitioning.make_mesh(data=data, fsdp=fsdp)
  rows, whole = P(partitioning.AXES), P()
  product = jax.shard_map(
    lambda x, w: x @ w, mesh=mesh, in_specs=(rows, whole), out_specs=rows
  )
  assert count(product, shape(16, 5), shape(5, 7)) == 2 * 16 * 5 * 7


def test_what_nobody_asks_for_is_not_counted():
  def wasteful(x):
    unused = x @ x @ x
    del unused
    return x @ x

  assert count(wasteful, shape(8, 8)) == 2 * 8**3
