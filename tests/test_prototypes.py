"""The class tables against separate tables, autodiff and dense AdamW."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import fakes, hlo
from tests.oracles import prototypes as oracle
from udon_jax import losses, optim, partitioning, prototypes

NAMES, CLASSES = ("a", "b", "c"), (3, 21, 6)
BATCH, STUDENT, TEACHER, RATE = 12, 8, 16, 1e-2
# Domains take turns with gaps of up to nine steps.
SEQUENCE = (0, 1, 1, 2, 0, 1, 1, 1, 1, 2)
EXACT = {"rtol": 1e-8, "atol": 1e-9}
VARIANTS = {
  "normface": {},
  "cosface": {"classifier": "cosface", "margin": 0.35},
  "arcface": {"classifier": "arcface", "margin": 0.5},
  "smoothing": {"label_smoothing": 0.1},
  "smooth_margin": {
    "classifier": "arcface",
    "margin": 0.3,
    "label_smoothing": 0.2,
  },
  "sharp": {"scale": 100.0, "teacher_temperature": 0.01},
  "sharp_student": {"student_temperature": 0.005},
  "weights": {
    "weights": dict(zip(losses.TERMS, (1.0, 2.0, 0.5, 3.0), strict=True))
  },
}
MESHES = {"1x1": (1, 1), "8x1": (8, 1), "2x4": (2, 4), "1x8": (1, 8)}


def mesh_of(name):
  data, fsdp = MESHES[name]
  return partitioning.make_mesh(
    data=data, fsdp=fsdp, devices=jax.devices()[: data * fsdp]
  )


def make_hyper(**changes):
  given = {"rate": RATE, "weight_decay": 1e-2, **changes}
  return fakes.prototypes_hyper(
    student_dim=STUDENT, teacher_dim=TEACHER, **given
  )


def batch(step, sequence=SEQUENCE, classes=CLASSES):
  """Returns embeddings, labels and domain of a step."""
  rng = np.random.default_rng(step)
  domain = sequence[step % len(sequence)]

  def unit(x):
    return jnp.asarray(x / np.linalg.norm(x, axis=1, keepdims=True))

  return prototypes.Batch(
    unit(rng.normal(size=(BATCH, STUDENT))),
    unit(rng.normal(size=(BATCH, TEACHER))),
    jnp.asarray(rng.integers(0, classes[domain], BATCH), jnp.int32),
    jnp.int32(domain),
    jnp.int32(step + 1),
  )


def start(mesh, rows=None, classes=CLASSES):
  layout = prototypes.make_layout(NAMES, classes, mesh, rows=rows)
  tables = jax.jit(
    functools.partial(
      prototypes.init,
      layout=layout,
      student_dim=STUDENT,
      teacher_dim=TEACHER,
    ),
    out_shardings=prototypes.shardings(mesh),
  )(jax.random.key(0))
  return layout, tables


def split(tables, layout):
  """Returns {role: {domain: parameters}}."""
  unpacked = jax.device_get(prototypes.unpack(tables, layout))
  return {
    role: {name: x[:, 0] for name, x in by_name.items()}
    for role, by_name in unpacked.items()
  }


def make_step(layout, mesh, hyper):
  """Returns a whole step, compiled."""
  step = prototypes.Step(layout, mesh, hyper)

  def take(tables, batch, good):
    scores, tables = step.score(tables, batch)
    return scores, step.update(tables, batch, scores.sums, good)

  return step, jax.jit(take)


def assert_steps_are_dense(
  name, num_steps, *, rows=None, classes=CLASSES, **changes
):
  """Compares steps with the oracle, in float64.

  In float32 the two differ by more than rounding: AdamW divides gradients of
  the size of eps, which cancellation leaves inexact, by themselves.
  """
  with jax.enable_x64(True):
    mesh, hyper = mesh_of(name), make_hyper(**changes)
    layout, tables = start(mesh, rows, classes)
    plain = oracle.Oracle(
      jax.tree.map(jnp.asarray, split(tables, layout)), hyper
    )
    step, take = make_step(layout, mesh, hyper)
    for i in range(num_steps):
      given = batch(i, classes=classes)
      scores, tables = take(tables, given, True)
      terms, student_grad, teacher_grad = plain.step(
        given, NAMES[int(given.domain)]
      )
      for term, value in terms.items():
        np.testing.assert_allclose(scores.terms[term], value, **EXACT)
      np.testing.assert_allclose(scores.student_grad, student_grad, **EXACT)
      np.testing.assert_allclose(scores.teacher_grad, teacher_grad, **EXACT)
    tables = jax.jit(step.bring_up_to_date)(tables, jnp.int32(num_steps))
    np.testing.assert_array_equal(tables.updated, num_steps)
    jax.tree.map(
      lambda x, y: np.testing.assert_allclose(x, y, **EXACT),
      split(tables, layout),
      plain.tables,
    )


@pytest.mark.parametrize("variant", VARIANTS)
def test_step_is_autodiff_and_dense_adamw(variant):
  """In blocks of eight classes: of the domain of 21, three."""
  assert_steps_are_dense("1x1", 6, rows=8, **VARIANTS[variant])


SCHEDULES = {
  "constant": RATE,
  "cosine": optim.make_schedule(
    "cosine", peak=RATE, num_steps=60, warmup_steps=7
  ),
}


@pytest.mark.parametrize(
  "shape, schedule",
  [
    pytest.param(
      shape,
      schedule,
      marks=[]
      if (shape, schedule) in (("1x1", "constant"), ("2x4", "cosine"))
      else pytest.mark.slow,
    )
    for shape in MESHES
    for schedule in SCHEDULES
  ],
)
def test_fifty_steps_with_idle_domains_on_any_mesh(shape, schedule):
  assert_steps_are_dense(shape, 50, rate=SCHEDULES[schedule])


@pytest.mark.slow
def test_domains_that_take_several_blocks_on_several_devices():
  assert_steps_are_dense("2x4", 12, rows=8, classes=(3, 150, 64))


@pytest.mark.slow
def test_float32_is_as_near_as_dense_float32():
  """Losses through long gaps, against dense AdamW in float64."""
  sequence = (0,) * 5 + (1,) * 12 + (2,) * 13
  mesh, hyper = mesh_of("1x1"), make_hyper(rate=1e-3)
  layout, tables = start(mesh)
  narrow = jax.device_get(tables)

  def batches(dtype):
    for i in range(60):
      given = batch(i, sequence)
      yield given._replace(
        student=given.student.astype(dtype), teacher=given.teacher.astype(dtype)
      )

  def dense(dtype):
    start = jax.tree.map(lambda x: x.astype(dtype), split(narrow, layout))
    plain = oracle.Oracle(jax.tree.map(jnp.asarray, start), hyper)
    return [
      list(map(float, plain.step(x, NAMES[int(x.domain)])[0].values()))
      for x in batches(dtype)
    ]

  with jax.enable_x64(True):
    exact = np.asarray(dense(np.float64))
  _, take = make_step(layout, mesh, hyper)
  found = []
  for given in batches(np.float32):
    scores, tables = take(tables, given, True)
    found.append(list(map(float, scores.terms.values())))
  ours = np.abs(found - exact).max()
  theirs = np.abs(dense(np.float32) - exact).max()
  assert ours <= 3 * theirs
  assert ours <= 2e-5


def test_sampler_loss_is_not_smoothed():
  mesh = mesh_of("1x1")
  layout, tables = start(mesh)
  scores = {
    smoothing: make_step(layout, mesh, make_hyper(label_smoothing=smoothing))[
      1
    ](tables, batch(0), True)[0]
    for smoothing in (0.0, 0.2)
  }
  plain = scores[0.0].terms["teacher_classification"]
  np.testing.assert_allclose(scores[0.2].sampler_loss, plain, rtol=1e-6)
  assert scores[0.2].terms["teacher_classification"] != scores[0.2].sampler_loss


def test_a_step_that_does_not_count_leaves_the_tables(monkeypatch):
  """But for updates of earlier steps, which it makes up for."""
  mesh = mesh_of("2x4")
  layout, tables = start(mesh)
  step, take = make_step(layout, mesh, make_hyper())
  for i in range(4):
    _, tables = take(tables, batch(i), True)
  given = batch(4)  # of domain 0, idle since the first step
  _, after = take(tables, given, False)
  expected = jax.jit(step.bring_up_to_date)(tables, jnp.int32(4))
  np.testing.assert_array_equal(after.updated, [4, 3, 4])
  found, wanted, before = (
    jax.device_get(prototypes.unpack(x, layout))
    for x in (after, expected, tables)
  )
  for role in ("student", "teacher"):
    np.testing.assert_array_equal(found[role]["a"], wanted[role]["a"])
    assert (found[role]["a"] != before[role]["a"]).any()
    for name in ("b", "c"):
      np.testing.assert_array_equal(found[role][name], before[role][name])


def test_initial_values_do_not_depend_on_devices_or_blocks():
  layout, tables = start(mesh_of("1x1"))
  expected = split(tables, layout)
  for shape, rows in (("2x4", None), ("1x1", 8)):
    layout, tables = start(mesh_of(shape), rows)
    jax.tree.map(np.testing.assert_array_equal, split(tables, layout), expected)
  for role, dim in (("student", STUDENT), ("teacher", TEACHER)):
    rows = np.concatenate(list(expected[role].values()))
    assert np.abs(rows).max() <= np.sqrt(3 / dim)
    np.testing.assert_allclose(rows.var(), 1 / dim, rtol=0.3)


def test_pack_is_the_inverse_of_unpack():
  layout, tables = start(mesh_of("2x4"))
  again = prototypes.pack(
    prototypes.unpack(tables, layout), tables.updated, layout
  )
  jax.tree.map(np.testing.assert_array_equal, tables, again)


def test_blocks_fit_the_largest_domain():
  mesh = mesh_of("2x4")
  for classes, rows, expected in (
    ((3, 21, 6), None, (8, (1, 1, 1))),
    ((78, 224_408), None, (2048, (1, 14))),
    ((78, 1000), 100, (100, (1, 2))),
  ):
    layout = prototypes.make_layout(
      NAMES[: len(classes)], classes, mesh, rows=rows
    )
    assert (layout.rows, layout.num_blocks) == expected
    assert layout.offsets == tuple(np.cumsum((0, *layout.num_blocks))[:-1])


def compile_step(shape, classes, *, batch_size=32):
  """Returns a compiled step, its tables donated, and their bytes."""
  mesh = mesh_of(shape)
  layout = prototypes.make_layout(NAMES, classes, mesh)
  hyper = fakes.prototypes_hyper(student_dim=64, teacher_dim=256)
  step = prototypes.Step(layout, mesh, hyper)

  def take(tables, batch):
    scores, tables = step.score(tables, batch)
    # Whether a step counts depends on all of its gradients.
    good = jnp.isfinite(scores.student_grad.sum() + scores.teacher_grad.sum())
    tables = step.update(tables, batch, scores.sums, good)
    return scores._replace(sums=None), tables

  def place(x, sharding):
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)

  tables = jax.tree.map(
    place,
    jax.eval_shape(
      lambda: prototypes.init(
        jax.random.key(0), layout, student_dim=64, teacher_dim=256
      )
    ),
    prototypes.shardings(mesh),
  )
  rows = partitioning.batch_sharding(mesh)
  scalar = jax.ShapeDtypeStruct((), jnp.int32)
  given = prototypes.Batch(
    jax.ShapeDtypeStruct((batch_size, 64), jnp.float32, sharding=rows),
    jax.ShapeDtypeStruct((batch_size, 256), jnp.float32, sharding=rows),
    jax.ShapeDtypeStruct((batch_size,), jnp.int32, sharding=rows),
    scalar,
    scalar,
  )
  compiled = jax.jit(take, donate_argnums=0).lower(tables, given).compile()
  num_bytes = (tables.student.size + tables.teacher.size) * 4 // mesh.size
  return compiled, num_bytes


@pytest.mark.parametrize(
  "shape", ["2x4", "1x8", pytest.param("8x1", marks=pytest.mark.slow)]
)
def test_nothing_that_grows_with_the_classes_travels(shape):
  """The largest collective is that of the embeddings, on every mesh."""
  found = {}
  for factor in (1, 16):
    classes = (3000 * factor, 10_000 * factor, 6001 * factor)
    found[factor] = hlo.collective_sizes(
      compile_step(shape, classes)[0].as_text()
    )
  assert found[1] == found[16]
  assert found[1]
  assert max(found[1]) <= 32 * 256, found[1]


@pytest.mark.parametrize("shape", ["1x1", "2x4"])
def test_memory_does_not_grow_with_the_classes(shape):
  """Ten million classes need 32 MB besides their tables, changed in place."""
  for classes in ((3000, 100_000, 6001), (3000, 10_000_000, 6001)):
    compiled, num_bytes = compile_step(shape, classes, batch_size=128)
    memory = compiled.memory_analysis()
    assert memory.temp_size_in_bytes <= 32 * 2**20
    assert memory.alias_size_in_bytes >= num_bytes
    rows = hlo.copied_sizes(compiled.as_text())
    assert max(rows, default=0) <= 3 * 2048 * 256


@pytest.mark.parametrize("precision", prototypes.PRECISIONS)
def test_products_have_the_precision_asked_for(precision):
  mesh = mesh_of("1x1")
  layout, tables = start(mesh)
  step = prototypes.Step(layout, mesh, make_hyper(precision=precision))

  def take(tables, batch):
    scores, tables = step.score(tables, batch)
    return step.update(tables, batch, scores.sums, True)

  text = str(jax.make_jaxpr(take)(tables, batch(0)))
  found = set(re.findall(r"precision=(.*)", text))
  name = f"Precision.{precision.upper()}"
  assert found == {f"({name}, {name})"}
