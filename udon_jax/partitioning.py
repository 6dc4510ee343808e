"""The device mesh, and which array lies where on it.

Axes: "data" replicates the module (slow links), "fsdp" cuts it (fast links).
A batch is split over both. Class tables are split over both (prototypes.py).
"""

from collections.abc import Sequence
import math
import re
from typing import Any, TypeAlias

import jax
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np

from udon_jax import errors

AXES = ("data", "fsdp")
PyTree: TypeAlias = Any
Rules: TypeAlias = Sequence[tuple[str, P]]

# (pattern of the path, spec). Exactly one must match every parameter. Blocks
# have a leading axis of layers and teacher projections one of domains: neither
# is ever cut. Vectors, positions and registers are whole everywhere: of a
# ViT-B/16 they are 0.3 %.
MODULE_RULES: Rules = (
  (r"(query|key|value)/kernel$", P(None, "fsdp", None, None)),
  (r"MultiHeadDotProductAttention_1/out/kernel$", P(None, None, None, "fsdp")),
  (r"MlpBlock_3/Dense_0/kernel$", P(None, "fsdp", None)),
  (r"MlpBlock_3/Dense_1/kernel$", P(None, None, "fsdp")),
  (r"backbone/embedding/kernel$", P(None, None, None, "fsdp")),
  (r"teacher_projection/Dense_\d+/kernel$", P(None, "fsdp", None)),
  (r"student_projection/Dense_\d+/kernel$", P("fsdp", None)),
  (r"(bias|scale|cls|pos_embedding|registers|count)$", P()),
)


def make_mesh(
  *, data: int, fsdp: int, devices: Sequence[jax.Device] | None = None
) -> Mesh:
  """Returns the mesh over all devices.

  Args:
    data: size of the axis that replicates the module; -1 takes what is left.
    fsdp: size of the axis that cuts it; -1 takes what is left.
    devices: all devices of all processes by default.

  Raises:
    UserError: the sizes do not multiply to the number of devices.
  """
  devices = jax.devices() if devices is None else devices
  given = f"config.mesh.data={data}, config.mesh.fsdp={fsdp}"
  if (data, fsdp) == (-1, -1):
    raise errors.UserError(f"{given}: only one of the two can be -1")
  if data == -1:
    data = len(devices) // fsdp if fsdp > 0 else 0
  if fsdp == -1:
    fsdp = len(devices) // data if data > 0 else 0
  if min(data, fsdp) < 1 or data * fsdp != len(devices):
    raise errors.UserError(
      f"{given} do not multiply to the {len(devices)} devices; set one of "
      "them to -1"
    )
  shape, types = (data, fsdp), (AxisType.Auto,) * 2
  try:
    mesh = jax.make_mesh(shape, AXES, devices=devices, axis_types=types)
  except NotImplementedError:
    # Slices of TPUs with three axes, where neither of ours is some of these.
    split = mesh_utils.create_device_mesh(
      shape, devices, allow_split_physical_axes=True
    )
    mesh = Mesh(split, AXES, axis_types=types)
  order = [device.process_index for device in mesh.devices.flat]
  if order == sorted(order):
    return mesh
  # JAX follows the wires alone. The rows of a batch that a process reads lie
  # together and in the order of processes, or embeddings would change places.
  ordered = sorted(devices, key=lambda x: (x.process_index, x.id))
  return Mesh(np.array(ordered).reshape(shape), AXES, axis_types=types)


def describe_mesh(mesh: Mesh) -> str:
  """Returns the line that a run prints about its mesh."""
  devices, processes = mesh.size, jax.process_count()
  return (
    f"mesh: data={mesh.shape['data']} fsdp={mesh.shape['fsdp']}, "
    f"{devices} device{'s' * (devices > 1)}, "
    f"{processes} process{'es' * (processes > 1)}"
  )


def replicated(mesh: Mesh) -> NamedSharding:
  """Every device holds the whole array."""
  return NamedSharding(mesh, P())


def batch_sharding(mesh: Mesh) -> NamedSharding:
  """The first axis is split over all devices."""
  return NamedSharding(mesh, P(AXES))


def path_name(path: Sequence[Any]) -> str:
  """Returns "a/b/c" for a key path of jax.tree_util."""
  return jax.tree_util.keystr(tuple(path), simple=True, separator="/")


def spec_of(name: str, rules: Rules = MODULE_RULES) -> P:
  """Returns how a parameter is cut.

  Args:
    name: its path "a/b/c".
    rules: which decide it.

  Raises:
    ValueError: not exactly one rule matches the path.
  """
  found = [(rule, spec) for rule, spec in rules if re.search(rule, name)]
  if len(found) != 1:
    names = ", ".join(rule for rule, _ in found) or "none"
    raise ValueError(
      f"exactly one partitioning rule must match the parameter {name}; "
      f"matching: {names}"
    )
  return found[0][1]


def tree_shardings(
  tree: PyTree, mesh: Mesh, rules: Rules = MODULE_RULES
) -> PyTree:
  """Returns the sharding of every array of a tree of (abstract) arrays.

  Moments are kept in trees whose paths end as their parameter's, so the same
  rules place both.

  Raises:
    UserError: a dimension is not divisible by the mesh axis that cuts it.
    ValueError: not exactly one rule matches a path.
  """

  def sharding(path, leaf):
    name = path_name(path)
    spec = spec_of(name, rules)
    for axis, dim in zip(spec, leaf.shape, strict=False):
      if axis is not None and dim % mesh.shape[axis]:
        raise errors.UserError(
          f"config.mesh.{axis}={mesh.shape[axis]} does not divide a dimension "
          f"of {name} {tuple(leaf.shape)}; choose a divisor of {dim}"
        )
    return NamedSharding(mesh, spec)

  return jax.tree_util.tree_map_with_path(sharding, tree)


def describe(tree: PyTree) -> str:
  """Returns a table of the arrays of a tree: path, shape, cut, bytes a device.

  Args:
    tree: (abstract) arrays, each with its sharding.
  """
  rows = [("path", "shape", "cut over", "bytes a device")]
  total = 0
  for path, x in jax.tree_util.tree_leaves_with_path(tree):
    held = bytes_per_device(x)
    total += held
    shape = " x ".join(str(size) for size in x.shape) or "scalar"
    rows.append((path_name(path), shape, _words(x.sharding.spec), f"{held:,}"))
  rows.append(("total", "", "", f"{total:,}"))
  widths = [max(len(row[i]) for row in rows) for i in range(3)]
  return "\n".join(
    f"{path:{widths[0]}}  {shape:{widths[1]}}  {cut:{widths[2]}}  {held:>14}"
    for path, shape, cut, held in rows
  )


def bytes_per_device(tree: PyTree) -> int:
  """Returns how much of a tree of (abstract) arrays every device holds."""
  return sum(
    math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize
    for x in jax.tree.leaves(tree)
  )


def _words(spec: P) -> str:
  """Returns "fsdp on axis 1" for P(None, "fsdp")."""
  return (
    ", ".join(
      f"{' x '.join(axes if isinstance(axes, tuple) else (axes,))} on axis {i}"
      for i, axes in enumerate(spec)
      if axes is not None
    )
    or "-"
  )


def check_batch_size(key: str, batch_size: int, mesh: Mesh) -> None:
  """Raises a UserError unless the batch splits evenly over the devices."""
  if batch_size < 1 or batch_size % mesh.size:
    cure = math.ceil(max(batch_size, 1) / mesh.size) * mesh.size
    raise errors.UserError(
      f"{key}={batch_size} is not divisible by the {mesh.size} devices; "
      f"use a multiple, for example {cure}"
    )


def put_batch(tree: PyTree, mesh: Mesh) -> PyTree:
  """Moves this process's rows of a batch to the devices.

  Args:
    tree: host arrays, each this process's rows of the global array.
    mesh: the mesh.

  Returns:
    Global arrays, split over all devices along the first axis.
  """
  sharding = batch_sharding(mesh)
  with jax.transfer_guard_host_to_device("allow"):  # it is what is asked for
    return jax.tree.map(
      lambda x: jax.make_array_from_process_local_data(sharding, x), tree
    )


def put_replicated(tree: PyTree, mesh: Mesh) -> PyTree:
  """Moves host arrays, equal on all processes, to every device."""
  sharding = replicated(mesh)
  return jax.tree.map(
    lambda x: jax.make_array_from_process_local_data(
      sharding, np.asarray(x), np.shape(x)
    ),
    tree,
  )


def fetch(tree: PyTree) -> PyTree:
  """Brings replicated device values to the host; the only way there."""
  return jax.device_get(tree)
