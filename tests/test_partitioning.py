"""The mesh, the rules that place parameters, and the way to the devices."""

import re

import jax
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest

from tests import fakes
from udon_jax import errors, partitioning
from udon_jax import run as runs
from udon_jax.models import architecture

SHAPES = {(-1, 1): (8, 1), (1, -1): (1, 8), (2, -1): (2, 4), (-1, 4): (2, 4)}


def mesh_of(data, fsdp):
  return partitioning.make_mesh(data=data, fsdp=fsdp)


@pytest.mark.parametrize("given", SHAPES)
def test_minus_one_takes_what_is_left(given):
  mesh = mesh_of(*given)
  assert tuple(mesh.shape.values()) == SHAPES[given]
  assert mesh.axis_names == ("data", "fsdp")
  assert {d.id for d in mesh.devices.flat} == {d.id for d in jax.devices()}


@pytest.mark.parametrize(
  "given", [(3, 1), (2, 2), (-1, 3), (16, 1), (0, -1), (-1, 0), (-2, -4)]
)
def test_sizes_that_do_not_fit_are_named(given):
  with pytest.raises(
    errors.UserError,
    match=rf"config.mesh.data={given[0]}, config.mesh.fsdp={given[1]} .*8 dev",
  ):
    mesh_of(*given)


def test_axes_of_a_slice_are_split_where_they_must_be(monkeypatch):
  def refuse(*_, **__):
    raise NotImplementedError("as for 32x2 on a slice of 4x4x4")

  expected = mesh_of(2, 4)
  monkeypatch.setattr(jax, "make_mesh", refuse)
  mesh = mesh_of(2, 4)
  assert mesh == expected


def test_only_one_size_can_be_left_open():
  with pytest.raises(errors.UserError, match="only one of the two"):
    mesh_of(-1, -1)


@pytest.mark.parametrize(
  "given, text",
  [
    ((2, 4), "mesh: data=2 fsdp=4, 8 devices, 1 process"),
    ((1, 1), "mesh: data=1 fsdp=1, 1 device, 1 process"),
  ],
)
def test_description(given, text):
  devices = jax.devices()[: given[0] * given[1]]
  mesh = partitioning.make_mesh(data=given[0], fsdp=given[1], devices=devices)
  assert partitioning.describe_mesh(mesh) == text


@pytest.mark.parametrize("batch, cure", [(12, 16), (4, 8), (0, 8), (-8, 8)])
def test_a_batch_that_does_not_split_is_named(batch, cure):
  with pytest.raises(
    errors.UserError,
    match=rf"^key={batch} is not divisible by the 8 .* for example {cure}$",
  ):
    partitioning.check_batch_size("key", batch, mesh_of(8, 1))


def test_a_batch_that_splits_passes():
  partitioning.check_batch_size("key", 24, mesh_of(2, 4))


@pytest.mark.parametrize("size", architecture.SIZES)
@pytest.mark.parametrize("hidden", [(), (64,), (64, 128)])
def test_kernels_of_every_model_are_cut_and_moments_lie_beside_them(
  size, hidden
):
  config = fakes.changed(
    model__name=f"vit_{size}8",
    model__student_hidden=hidden,
    model__teacher_hidden=hidden,
    mesh__data=2,
    mesh__fsdp=4,
  )
  state = runs.set_up(config, fakes.sources(config)).abstract_state
  places = {}
  for path, x in jax.tree_util.tree_leaves_with_path(state.params):
    name = partitioning.path_name(path)
    places[name] = x.sharding.spec
    held = np.prod(x.sharding.shard_shape(x.shape))
    assert held * (4 if name.endswith("kernel") else 1) == x.size, name
    if name.startswith(("backbone/Transformer/encoderblock", "teacher")):
      assert not x.sharding.spec or x.sharding.spec[0] is None
  depth = len(hidden)
  assert f"student_projection/Dense_{depth}/kernel" in places
  assert f"teacher_projection/Dense_{depth}/kernel" in places
  beside = [
    (name, x)
    for path, x in jax.tree_util.tree_leaves_with_path(state.opt_state)
    for name in places
    if partitioning.path_name(path).endswith(f"/{name}")
  ]
  for name, x in beside:
    assert x.sharding.spec == places[name]
  assert len(beside) == 2 * len(places)  # two moments each


def test_class_tables_are_cut_over_all_devices():
  config = fakes.changed(mesh__data=2, mesh__fsdp=4)
  state = runs.set_up(config, fakes.sources(config)).abstract_state
  for table in (state.prototypes.student, state.prototypes.teacher):
    *others, rows = table.sharding.shard_shape(table.shape)
    assert (*others, 8 * rows) == table.shape
  updated = state.prototypes.updated
  for small in jax.tree.leaves(
    (state.sampler, state.meters, state.step, updated)
  ):
    assert small.sharding.is_fully_replicated


# What tells parameters apart: families, the gated MLP, hidden layers.
KINDS = {
  **{f"{family}_mu8": {} for family in architecture.FAMILIES},
  "dinov2_mu8 gated": {"activation": "swiglu"},
  "vit_mu8 projected": {"student_hidden": (32,), "teacher_hidden": (32, 64)},
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_parameter_and_moment_has_one_rule_and_every_rule_its_use(kind):
  config = fakes.changed(
    model__name=kind.split()[0],
    **{f"model__{key}": value for key, value in KINDS[kind].items()},
    mesh__data=2,
    mesh__fsdp=4,
  )
  state = runs.set_up(config, fakes.sources(config)).abstract_state
  trees = {"module": state.params, "moments": state.opt_state}
  names = [
    partitioning.path_name(path)
    for path, _ in jax.tree_util.tree_leaves_with_path(trees)
  ]
  for name in names:
    found = [r for r, _ in partitioning.MODULE_RULES if re.search(r, name)]
    assert len(found) == 1, (name, found)
  for rule, _ in partitioning.MODULE_RULES:
    assert any(re.search(rule, name) for name in names), rule


def test_a_parameter_without_a_rule_is_named():
  tree = {"new": {"table": jax.ShapeDtypeStruct((8, 8), "float32")}}
  with pytest.raises(
    ValueError, match=r"exactly one .* parameter new/table; matching: none$"
  ):
    partitioning.tree_shardings(tree, mesh_of(8, 1))


def test_a_parameter_of_two_rules_is_named_with_them():
  rules = ((r"b/kernel$", P("fsdp")), (r"kernel$", P(None, "fsdp")))
  x = jax.ShapeDtypeStruct((8, 8), "float32")
  places = partitioning.tree_shardings(
    {"a": {"kernel": x}}, mesh_of(1, 8), rules
  )
  assert places["a"]["kernel"].spec == P(None, "fsdp")
  with pytest.raises(
    ValueError, match=r"parameter b/kernel; matching: b/kernel\$, kernel\$$"
  ):
    partitioning.tree_shardings({"b": {"kernel": x}}, mesh_of(1, 8), rules)


def test_the_table_tells_what_every_device_holds():
  mesh = mesh_of(2, 4)

  def array(shape, dtype, *spec):
    sharding = jax.sharding.NamedSharding(mesh, P(*spec))
    return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)

  tree = {
    "a": {"kernel": array((8, 12), "float32", None, "fsdp")},
    "rows": array((16, 3), "bfloat16", ("data", "fsdp")),
    "step": array((), "int32"),
  }
  head, *rows, total = [
    line.split("  ") for line in partitioning.describe(tree).splitlines()
  ]
  assert [cell.strip() for cell in head if cell.strip()] == [
    "path",
    "shape",
    "cut over",
    "bytes a device",
  ]
  assert [[c.strip() for c in row if c.strip()] for row in rows] == [
    ["a/kernel", "8 x 12", "fsdp on axis 1", "96"],
    ["rows", "16 x 3", "data x fsdp on axis 0", "12"],
    ["step", "scalar", "-", "4"],
  ]
  assert [cell.strip() for cell in total if cell.strip()] == ["total", "112"]
  assert partitioning.bytes_per_device(tree) == 112


def test_a_dimension_that_does_not_divide_is_named():
  tree = {"student_projection": {"Dense_0": {"kernel": np.zeros((12, 64))}}}
  with pytest.raises(
    errors.UserError,
    match=r"config.mesh.fsdp=8 .* student_projection/Dense_0/kernel .* of 12",
  ):
    partitioning.tree_shardings(tree, mesh_of(1, 8))


@pytest.mark.parametrize("given", [(8, 1), (2, 4), (1, 8)])
def test_a_batch_goes_to_the_devices_and_back(given):
  mesh = mesh_of(*given)
  batch = {"x": np.arange(48).reshape(16, 3), "y": np.arange(16)}
  placed = partitioning.put_batch(batch, mesh)
  for name, x in placed.items():
    shards = sorted(x.addressable_shards, key=lambda s: s.index[0].start or 0)
    assert len(shards) == 8
    for i, shard in enumerate(shards):
      np.testing.assert_array_equal(shard.data, batch[name][2 * i : 2 * i + 2])
  jax.tree.map(np.testing.assert_array_equal, partitioning.fetch(placed), batch)


def test_replicated_values_are_whole_on_every_device():
  placed = partitioning.put_replicated(
    {"id": np.int32(3), "x": np.arange(5.0, dtype=np.float32)}, mesh_of(2, 4)
  )
  assert placed["id"].shape == ()
  for x in placed.values():
    assert x.sharding.is_fully_replicated
    assert len(x.addressable_shards) == 8
  fetched = partitioning.fetch(placed)
  assert fetched["id"] == 3
  assert isinstance(fetched["x"], np.ndarray)
