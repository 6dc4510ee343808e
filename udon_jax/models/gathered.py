"""Parameters that are cut over devices, made whole where they are used.

With a batch over all devices and kernels cut over some of them, the compiler
may as well leave the kernels where they lie and send the activations of whole
batches around, layer by layer. What is meant is the other way (ZeRO, arXiv
1910.02054, stage 3): a layer's parameters are gathered just before their use,
their gradients are summed and scattered just after it, and activations stay
with their images. This module says so to the compiler.
"""

from collections.abc import Callable
import functools
from typing import Any, TypeAlias, TypeVar

from flax import linen as nn
import jax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from udon_jax import partitioning

PyTree: TypeAlias = Any
Module = TypeVar("Module", bound=type[nn.Module])


def whole(
  module: Module, mesh: Mesh | None, *, prefix: str, dtype: Any
) -> Module:
  """Returns a module class that gathers its parameters before it uses them.

  Args:
    module: the class; parameters keep their names, and must exist.
    mesh: on which they are cut; None leaves the class as it is.
    prefix: the path of its parameters, for the rules that cut them.
    dtype: precision of the computation, in which they travel.
  """
  if mesh is None:
    return module

  def make_whole(variables):
    return {
      collection: gather(tree, mesh, prefix=prefix, dtype=dtype)
      for collection, tree in variables.items()
    }

  return nn.map_variables(module, "params", make_whole)


def whole_in_turn(
  module: Module,
  mesh: Mesh | None,
  *,
  prefix: str,
  dtype: Any,
  policy: Callable[..., bool] | None,
) -> Module:
  """Returns the class of a layer that a scan repeats, as `whole` does.

  The backward pass gathers each layer's parameters again: kept from the forward
  pass, those of all layers would be whole at once.

  Args:
    module: the class.
    mesh: on which its parameters are cut; None for whole ones.
    prefix: the path of its parameters, for the rules that cut them.
    dtype: precision of the computation, in which they travel.
    policy: of `jax.checkpoint`, what else the backward pass keeps; None keeps
      all.
  """
  if mesh is None and policy is None:
    return module

  def may_be_kept(primitive, *arrays, **params):
    kept = mesh is None or not _is_gathered(primitive, **params)
    return kept and (policy is None or policy(primitive, *arrays, **params))

  return nn.remat(
    whole(module, mesh, prefix=prefix, dtype=dtype),
    prevent_cse=False,  # nothing outside of a scan's body is shared with it
    policy=may_be_kept,
  )


def _is_gathered(primitive: Any, **params: Any) -> bool:
  """Whether a primitive, with its parameters, is what `_gather` does."""
  called = params.get("call_jaxpr")
  made_by = [eqn.primitive.name for eqn in called.eqns] if called else []
  return "sharding_constraint" in (primitive.name, *made_by[:1])


def gather(
  params: PyTree, mesh: Mesh | None, *, prefix: str, dtype: Any
) -> PyTree:
  """Returns parameters that every device has whole; gradients are cut again.

  Args:
    params: of one layer or of one domain: an axis of layers or domains, which
      is never cut, is gone from them.
    mesh: on which they are cut; None leaves them as they are.
    prefix: the path of the tree, for the rules.
    dtype: in which those that are cut travel.
  """
  if mesh is None:
    return params

  def make_whole(path, x):
    spec = partitioning.spec_of(f"{prefix}/{partitioning.path_name(path)}")
    if not any(spec):
      return x
    own_spec = P(*spec[len(spec) - x.ndim :])
    return _gather(x.astype(dtype), NamedSharding(mesh, own_spec))

  return jax.tree_util.tree_map_with_path(make_whole, params)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _gather(x: jax.Array, cut: NamedSharding) -> jax.Array:
  """Makes an array whole; its gradient is cut as the array is."""
  return jax.lax.with_sharding_constraint(x, NamedSharding(cut.mesh, P()))


def _forward(x, cut):
  return _gather(x, cut), None


def _backward(cut, _, grad):
  return (jax.lax.with_sharding_constraint(grad, cut),)


_gather.defvjp(_forward, _backward)


def keep_split(x: jax.Array, mesh: Mesh | None) -> jax.Array:
  """Keeps an array of images, or of what became of them, split over devices."""
  if mesh is None:
    return x
  return jax.lax.with_sharding_constraint(x, partitioning.batch_sharding(mesh))
