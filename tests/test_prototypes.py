"""The class tables against separate tables, autodiff and optax."""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.oracles import prototypes as oracle
from udon_jax import losses, partitioning, prototypes

NAMES, CLASSES = ("a", "b", "c"), (3, 10, 6)
BATCH, STUDENT, TEACHER, RATE = 12, 8, 16, 1e-2
HYPER = prototypes.Hyper(
  classifier="normface",
  margin=0.0,
  scale=16.0,
  label_smoothing=0.0,
  teacher_temperature=0.1,
  student_temperature=0.1,
  weights=dict.fromkeys(losses.TERMS, 1.0),
  b1=0.9,
  b2=0.999,
  eps=1e-8,
  weight_decay=1e-2,
)
EXACT = {"rtol": 1e-8, "atol": 1e-9}
VARIANTS = {
  "normface": {},
  "cosface": {"classifier": "cosface", "margin": 0.35},
  "arcface": {"classifier": "arcface", "margin": 0.5},
  "smoothing": {"label_smoothing": 0.1},
  "sharp": {"scale": 100.0, "teacher_temperature": 0.01},
  "weights": {
    "weights": dict(zip(losses.TERMS, (1.0, 2.0, 0.5, 3.0), strict=True))
  },
}


def mesh_of(data, fsdp):
  return partitioning.make_mesh(
    data=data, fsdp=fsdp, devices=jax.devices()[: data * fsdp]
  )


def batch(step):
  """Returns embeddings, labels and domain of a step; domains have gaps."""
  rng = np.random.default_rng(step)
  domain = (0, 1, 1, 2, 0, 1, 1, 1, 1, 2)[step % 10]

  def unit(x):
    x = x / np.linalg.norm(x, axis=1, keepdims=True)
    return jnp.asarray(x)

  return (
    unit(rng.normal(size=(BATCH, STUDENT))),
    unit(rng.normal(size=(BATCH, TEACHER))),
    jnp.asarray(rng.integers(0, CLASSES[domain], BATCH), jnp.int32),
    domain,
  )


def start(mesh):
  layout = prototypes.make_layout(NAMES, CLASSES, mesh)
  tables = jax.jit(
    functools.partial(
      prototypes.init,
      layout=layout,
      student_dim=STUDENT,
      teacher_dim=TEACHER,
    ),
    out_shardings=prototypes.tables_sharding(mesh),
  )(jax.random.key(0))
  return layout, tables


def split(tables, layout):
  """Returns {role: {domain: parameters}}."""
  unpacked = jax.device_get(prototypes.unpack(tables, layout))
  return {
    role: {name: x[:, 0] for name, x in by_name.items()}
    for role, by_name in unpacked.items()
  }


def run_steps(mesh, hyper, num_steps):
  """Compares steps with the oracle, in float64.

  In float32 the two differ by more than rounding: AdamW divides gradients of
  the size of eps, which cancellation leaves inexact, by themselves.
  """
  with jax.enable_x64(True):
    _run_steps(mesh, hyper, num_steps)


def _run_steps(mesh, hyper, num_steps):
  layout, tables = start(mesh)
  plain = oracle.Oracle(
    jax.tree.map(jnp.asarray, split(tables, layout)), hyper, RATE
  )
  step_fn = jax.jit(prototypes.make_step(layout, mesh, hyper))
  for step in range(num_steps):
    student, teacher, labels, domain = batch(step)
    result = step_fn(
      tables,
      student=student,
      teacher=teacher,
      labels=labels,
      domain=jnp.int32(domain),
      learning_rate=jnp.asarray(RATE),
      count=jnp.int32(step + 1),
    )
    tables = result.tables
    terms, student_grad, teacher_grad = plain.step(
      student, teacher, labels, NAMES[domain]
    )
    for name, value in terms.items():
      np.testing.assert_allclose(result.terms[name], value, **EXACT)
    np.testing.assert_allclose(result.student_grad, student_grad, **EXACT)
    np.testing.assert_allclose(result.teacher_grad, teacher_grad, **EXACT)
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, **EXACT),
    split(tables, layout),
    plain.tables,
  )


@pytest.mark.parametrize("variant", VARIANTS)
def test_step_is_autodiff_and_dense_adamw(variant):
  hyper = dataclasses.replace(HYPER, **VARIANTS[variant])
  run_steps(mesh_of(1, 1), hyper, 6)


@pytest.mark.parametrize("shape", [(1, 1), (8, 1), (2, 4), (1, 8)])
def test_fifty_steps_with_idle_domains_on_any_mesh(shape):
  run_steps(mesh_of(*shape), HYPER, 50)


def test_sampler_loss_is_not_smoothed():
  mesh = mesh_of(1, 1)
  layout, tables = start(mesh)
  student, teacher, labels, domain = batch(0)
  step = {
    smoothing: jax.jit(
      prototypes.make_step(
        layout, mesh, dataclasses.replace(HYPER, label_smoothing=smoothing)
      )
    )(
      tables,
      student=student,
      teacher=teacher,
      labels=labels,
      domain=jnp.int32(domain),
      learning_rate=jnp.float32(RATE),
      count=jnp.int32(1),
    )
    for smoothing in (0.0, 0.2)
  }
  np.testing.assert_allclose(
    step[0.2].sampler_loss, step[0.0].terms["teacher_classification"], rtol=1e-6
  )
  assert step[0.2].terms["teacher_classification"] != step[0.2].sampler_loss


def test_initial_values_do_not_depend_on_devices():
  for shape in ((1, 1), (2, 4)):
    layout, tables = start(mesh_of(*shape))
    values = split(tables, layout)
    if shape == (1, 1):
      expected = values
  jax.tree.map(np.testing.assert_array_equal, values, expected)
  for by_name, dim in (
    (values["student"], STUDENT),
    (values["teacher"], TEACHER),
  ):
    rows = np.concatenate(list(by_name.values()))
    assert np.abs(rows).max() <= np.sqrt(3 / dim)
    np.testing.assert_allclose(rows.var(), 1 / dim, rtol=0.3)


def test_pack_is_the_inverse_of_unpack():
  layout, tables = start(mesh_of(2, 4))
  again = prototypes.pack(prototypes.unpack(tables, layout), layout)
  jax.tree.map(np.testing.assert_array_equal, tables, again)


def test_nothing_that_grows_with_the_classes_travels():
  """The largest collective is that of the embeddings, on every mesh."""
  for shape in ((8, 1), (2, 4), (1, 8)):
    mesh = mesh_of(*shape)
    layout = prototypes.make_layout(NAMES, (3000, 10_000, 6001), mesh)
    place = prototypes.tables_sharding(mesh)
    tables = jax.tree.map(
      lambda x, place=place: jax.ShapeDtypeStruct(
        x.shape, x.dtype, sharding=place
      ),
      jax.eval_shape(
        lambda layout=layout: prototypes.init(
          jax.random.key(0), layout, student_dim=64, teacher_dim=256
        )
      ),
    )
    rows = partitioning.batch_sharding(mesh)
    compiled = (
      jax.jit(prototypes.make_step(layout, mesh, HYPER))
      .lower(
        tables,
        student=shape_of((32, 64), jnp.float32, rows),
        teacher=shape_of((32, 256), jnp.float32, rows),
        labels=shape_of((32,), jnp.int32, rows),
        domain=shape_of((), jnp.int32),
        learning_rate=shape_of((), jnp.float32),
        count=shape_of((), jnp.int32),
      )
      .compile()
    )
    sizes = collective_sizes(compiled.as_text())
    assert sizes
    assert max(sizes) <= 32 * 256, sizes


def shape_of(shape, dtype, sharding=None):
  return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)


def collective_sizes(text):
  """Returns the elements of every array that a collective gives back."""
  sizes = []
  for line in text.splitlines():
    match = re.search(
      r"= (.*?) (all-gather|all-reduce|all-to-all|collective-permute|"
      r"reduce-scatter)(-start)?\(",
      line,
    )
    if match:
      for dims in re.findall(r"\[([\d,]*)\]", match[1]):
        sizes.append(
          int(np.prod([int(x) for x in dims.split(",") if x] or [1]))
        )
  return sizes
