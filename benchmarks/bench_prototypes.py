"""What class prototypes cost: memory and time, by active and idle classes.

  python -m benchmarks.bench_prototypes

A step scores and updates the prototypes of one domain, given embeddings of a
batch. Ours streams over blocks of that domain's tables. The baseline `plain` is
the official formulation: all logits at once, autodiff, and dense AdamW over the
prototypes of all domains. Memory is what the compiled program needs besides its
arguments; it is known without running, also where the tables would not fit.
Needs no TensorFlow.
"""

from collections.abc import Sequence
import functools
from typing import Any

from absl import flags
import jax
import jax.numpy as jnp
import optax

from benchmarks import common
from tests.oracles import prototypes as oracle
from udon_jax import cli, losses, partitioning, prototypes

_HARDWARE = flags.DEFINE_string("hardware", "cpu2", "Named in the result file.")
_REPEATS = flags.DEFINE_integer("repeats", 5, "Rounds.", lower_bound=1)
_BATCH = flags.DEFINE_integer("batch_size", 128, "Images.", lower_bound=1)
_ROWS = flags.DEFINE_integer(
  "block_rows", None, "config.prototypes.block_rows."
)
_TIMED = flags.DEFINE_list(
  "timed", ["1000", "10000", "100000", "224408"], "Classes that are timed."
)
_COMPILED = flags.DEFINE_list(
  "compiled", ["1000", "224408", "1000000", "10000000"], "For their memory."
)
_IDLE = flags.DEFINE_list("idle", ["1", "5", "20"], "Times the active classes.")
_ACTIVE = flags.DEFINE_integer("active", 5000, "Classes beside idle ones.")
_PRECISION = flags.DEFINE_enum(
  "precision", "highest", list(prototypes.PRECISIONS), "Of ours."
)
STUDENT, TEACHER = 64, 256
TERMS = prototypes.Terms(
  classifier="normface",
  margin=0.0,
  scale=16.0,
  label_smoothing=0.0,
  teacher_temperature=0.1,
  student_temperature=0.1,
  weights=dict.fromkeys(losses.TERMS, 1.0),
)
NAMES = ("active", "idle")


class Ours:
  """Our step, on one device; arrays are made when asked for."""

  def __init__(self, classes: Sequence[int]):
    mesh = partitioning.make_mesh(data=1, fsdp=1, devices=jax.devices()[:1])
    self._layout = prototypes.make_layout(
      NAMES[: len(classes)], classes, mesh, rows=_ROWS.value
    )
    adamw = prototypes.AdamW(
      lambda _: jnp.float32(1e-3), b1=0.9, b2=0.999, eps=1e-8, weight_decay=1e-6
    )
    hyper = prototypes.Hyper(STUDENT, TEACHER, TERMS, adamw, _PRECISION.value)
    step = prototypes.Step(self._layout, mesh, hyper)

    def take(tables, batch):
      scores, tables = step.score(tables, batch)
      grads = scores.student_grad.sum() + scores.teacher_grad.sum()
      tables = step.update(tables, batch, scores.sums, jnp.isfinite(grads))
      return tables, scores[:4]

    self.step = jax.jit(take, donate_argnums=0)

  def make(self) -> Any:
    """Returns new tables."""
    return prototypes.init(
      jax.random.key(0),
      self._layout,
      student_dim=STUDENT,
      teacher_dim=TEACHER,
    )


class Plain:
  """The official formulation."""

  def __init__(self, classes: Sequence[int]):
    self._classes = classes
    adamw = optax.adamw(1e-3, weight_decay=1e-6)
    self._adamw = adamw

    def take(state, batch):
      tables, moments = state

      def loss(tables, student, teacher):
        given = batch._replace(student=student, teacher=teacher)
        return oracle.loss(tables, given, NAMES[0], TERMS)

      (_, terms), grads = jax.value_and_grad(loss, (0, 1, 2), has_aux=True)(
        tables, batch.student, batch.teacher
      )
      updates, moments = adamw.update(grads[0], moments, tables)
      tables = optax.apply_updates(tables, updates)
      return (tables, moments), (terms, grads[1:])

    self.step = jax.jit(take, donate_argnums=0)

  def make(self) -> Any:
    """Returns new tables and moments."""
    tables = {
      role: {
        name: 0.1 * jax.random.normal(jax.random.key(i), (c, dim))
        for i, (name, c) in enumerate(zip(NAMES, self._classes, strict=False))
      }
      for role, dim in (("student", STUDENT), ("teacher", TEACHER))
    }
    return tables, self._adamw.init(tables)


KINDS: dict[str, Any] = {"ours": Ours, "plain": Plain}


def make_batch(classes: int, step: int) -> prototypes.Batch:
  """Returns a batch of the active domain."""
  keys = jax.random.split(jax.random.key(step), 3)

  def unit(key, dim):
    x = jax.random.normal(key, (_BATCH.value, dim))
    return x / jnp.linalg.norm(x, axis=-1, keepdims=True)

  return prototypes.Batch(
    unit(keys[0], STUDENT),
    unit(keys[1], TEACHER),
    jax.random.randint(keys[2], (_BATCH.value,), 0, classes),
    jnp.int32(0),
    jnp.int32(step),
  )


def memory(kind: str, classes: Sequence[int]) -> dict[str, Any]:
  """Returns what a compiled step needs."""
  made = KINDS[kind](classes)
  shapes = (
    jax.eval_shape(made.make),
    jax.eval_shape(functools.partial(make_batch, classes[0], 1)),
  )
  found = made.step.lower(*shapes).compile().memory_analysis()
  return {
    "classes": classes[0],
    "what": kind,
    "tables_mb": found.argument_size_in_bytes / 2**20,
    "temporary_mb": found.temp_size_in_bytes / 2**20,
  }


class Stepper:
  """Takes steps of one kind, each after as many idle ones."""

  def __init__(self, kind: str, classes: Sequence[int], gap: int):
    self._made, self._classes, self._gap = KINDS[kind](classes), classes[0], gap
    self._state, self._step = self._made.make(), 1000  # late in a run

  def __call__(self) -> None:
    """Takes a step."""
    self._step += 1 + self._gap
    batch = make_batch(self._classes, self._step)
    self._state, _ = self._made.step(self._state, batch)
    jax.block_until_ready(self._state)


def times(
  classes: Sequence[int], variants: Sequence[tuple[str, int]]
) -> list[float]:
  """Returns seconds of a step of every (kind, idle steps before)."""
  runs = {
    f"{kind} {gap}": Stepper(kind, classes, gap) for kind, gap in variants
  }
  found = common.interleave(runs, repeats=_REPEATS.value)
  return [found[name]["wall_s"] for name in runs]


def main(_: Sequence[str]) -> None:
  """Measures, prints and writes the tables."""
  head = common.header("jax")
  rows: list[dict[str, Any]] = [
    memory(kind, [int(text)]) for text in _COMPILED.value for kind in KINDS
  ]
  variants = (("plain", 0), ("ours", 0), ("ours", 8))
  for number in map(int, _TIMED.value):
    found = times([number], variants)
    rows += [
      {
        "classes": number,
        "what": kind,
        "idle_steps_before": gap,
        "ms": 1000 * seconds,
        "ratio_to_plain": seconds / found[0],
      }
      for (kind, gap), seconds in zip(variants, found, strict=True)
    ]
  first: dict[str, float] = {}
  active = _ACTIVE.value
  for factor in map(int, _IDLE.value):
    found = times([active, factor * active], variants[:2])
    for (kind, _gap), seconds in zip(variants[:2], found, strict=True):
      rows.append(
        {
          "active_classes": active,
          "idle_classes": factor * active,
          "what": kind,
          "ms": 1000 * seconds,
          "ratio_to_fewest": seconds / first.setdefault(kind, seconds),
        }
      )
  print(common.markdown(rows))
  path = common.write(f"prototypes_{_HARDWARE.value}", head, rows)
  print(f"written: {path}")


if __name__ == "__main__":
  cli.run(main)
