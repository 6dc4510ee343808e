"""The device mesh, and which array lies where on it.

Axes: "data" replicates the module (slow links), "fsdp" cuts it (fast links).
A batch is split over both. Class tables are split over both (prototypes.py).
"""

from collections.abc import Sequence
import math
import re
from typing import Any, TypeAlias

import jax
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np

from udon_jax import errors

AXES = ("data", "fsdp")
PyTree: TypeAlias = Any
Rules: TypeAlias = Sequence[tuple[str, P]]

# (pattern of the path, spec); the first match counts. Blocks have a leading
# axis of layers and teacher projections one of domains: neither is ever cut.
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
  mesh = jax.make_mesh(
    (data, fsdp), AXES, devices=devices, axis_types=(AxisType.Auto,) * 2
  )
  order = [device.process_index for device in mesh.devices.flat]
  if order == sorted(order):
    return mesh
  # JAX follows the wires alone. The rows of a batch that a process reads lie
  # together and in the order of processes, or embeddings would change places.
  devices = sorted(
    devices, key=lambda device: (device.process_index, device.id)
  )
  return Mesh(
    np.array(devices).reshape(data, fsdp), AXES, axis_types=(AxisType.Auto,) * 2
  )


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


def tree_shardings(
  tree: PyTree, mesh: Mesh, rules: Rules = MODULE_RULES
) -> PyTree:
  """Returns the sharding of every array of a tree of (abstract) arrays.

  Moments are kept in trees whose paths end as their parameter's, so the same
  rules place both.

  Raises:
    UserError: a dimension is not divisible by the mesh axis that cuts it.
    ValueError: no rule matches a path.
  """

  def sharding(path, leaf):
    name = path_name(path)
    spec = next((s for r, s in rules if re.search(r, name)), None)
    if spec is None:
      raise ValueError(f"no partitioning rule matches the parameter {name}")
    for axis, dim in zip(spec, leaf.shape, strict=False):
      if axis is not None and dim % mesh.shape[axis]:
        raise errors.UserError(
          f"config.mesh.{axis}={mesh.shape[axis]} does not divide a dimension "
          f"of {name} {tuple(leaf.shape)}; choose a divisor of {dim}"
        )
    return NamedSharding(mesh, spec)

  return jax.tree_util.tree_map_with_path(sharding, tree)


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
