"""The steps of a run, compiled for its devices, and what they take.

They are those that `run.set_up` makes for a training: nothing is built anew.
"""

import dataclasses
import re
import time
from typing import Any

import jax
import jax.numpy as jnp

from udon_jax import partitioning, structs
from udon_jax import run as runs
from udon_jax.planning import collectives

# What the compiler of TPUs says where a program cannot be.
_TOO_LARGE = "RESOURCE_EXHAUSTED"
_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


@dataclasses.dataclass(frozen=True)
class Memory:
  """Bytes that a program needs on every device.

  Attributes:
    arguments: the state and a batch.
    outputs: that do not lie in the place of arguments.
    temporaries: what lives within a step.
    code: the program itself, where it lies on the device.
  """

  arguments: int
  outputs: int
  temporaries: int
  code: int

  @property
  def total(self) -> int:
    """All of it."""
    return self.arguments + self.outputs + self.temporaries + self.code


@dataclasses.dataclass(frozen=True)
class Program:
  """A compiled step.

  Attributes:
    memory: that it needs.
    exchanges: between devices; None where it could not be compiled.
    flops_by_compiler: operations of one device, with every loop counted as one
      round; None where not known.
    seconds: that compiling took.
  """

  memory: Memory
  exchanges: list[collectives.Collective] | None
  flops_by_compiler: float | None
  seconds: float

  @property
  def was_compiled(self) -> bool:
    """Whether there is a program: it needs no more than there is."""
    return self.exchanges is not None


def compile_step(run: runs.Run, *, frozen: bool) -> Program:
  """Compiles a step of a run.

  Args:
    run: on present or absent devices.
    frozen: whether the backbone stays as it is.
  """
  step: Any = run.frozen_step if frozen else run.train_step
  start = time.perf_counter()
  arguments = (run.abstract_state, abstract_batch(run))
  lowered = step.lower(*arguments)
  try:
    compiled = lowered.compile()
  except jax.errors.JaxRuntimeError as error:
    memory = needed(
      str(error), arguments=partitioning.bytes_per_device(arguments)
    )
    if memory is None:
      raise
    return Program(memory, None, None, time.perf_counter() - start)
  seconds = time.perf_counter() - start
  stats = compiled.memory_analysis()
  return Program(
    Memory(
      arguments=stats.argument_size_in_bytes,
      outputs=stats.output_size_in_bytes - stats.alias_size_in_bytes,
      temporaries=stats.temp_size_in_bytes,
      code=stats.generated_code_size_in_bytes,
    ),
    collectives.find(compiled.as_text()),
    (compiled.cost_analysis() or {}).get("flops"),
    seconds,
  )


def abstract_batch(run: runs.Run) -> structs.Batch:
  """Returns shapes and places of a batch as the loop makes it."""
  config = run.config
  split = partitioning.batch_sharding(run.mesh)
  size = config.data.crop_size
  pixels = jnp.uint8 if config.data.round_pixels else jnp.float32
  shape: Any = jax.ShapeDtypeStruct
  return structs.Batch(
    images=shape((config.batch_size, size, size, 3), pixels, sharding=split),
    labels=shape((config.batch_size,), jnp.int32, sharding=split),
    domain=shape((), jnp.int32, sharding=partitioning.replicated(run.mesh)),
  )


def needed(message: str, *, arguments: int) -> Memory | None:
  """Returns what a program needs at least that the compiler of TPUs refused.

  Args:
    message: of the compiler; None is returned for one about something else.
    arguments: bytes of the program's arguments, which it may leave out.
  """
  if _TOO_LARGE not in message:
    return None
  temporaries = _size(r"program\s+([\d.]+)([KMGT]?)", message)
  if temporaries is not None:
    return Memory(arguments, 0, temporaries, 0)
  # Of a single array: an argument, or what is computed.
  alone = _size(r"Allocation \(size=(\d+)()\)", message)
  return None if alone is None else Memory(max(arguments, alone), 0, 0, 0)


def _size(pattern: str, text: str) -> int | None:
  """Returns the bytes that "17.2G" and the like name, or None."""
  found = re.search(pattern, text)
  return round(float(found[1]) * _UNITS[found[2]]) if found else None
