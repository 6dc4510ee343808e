"""Reading compiled programs, and what plans make of them."""

import functools
import os

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest

from tests import fakes
from udon_jax import chips, domains, errors, partitioning
from udon_jax import run as runs
from udon_jax.planning import (
  absent,
  collectives,
  costs,
  hlo,
  page,
  programs,
  request,
)

ROWS, DIM = 16, 6  # of a device's part
BYTES = 4 * ROWS * DIM


def exchanges(local, *, out, arguments=1, mesh=(2, 4)):
  """Returns (op, bytes, count, group, open) of a function of every device."""
  mesh = partitioning.make_mesh(data=mesh[0], fsdp=mesh[1])
  axes = partitioning.AXES
  program = jax.shard_map(
    local,
    mesh=mesh,
    in_specs=(P(axes),) * arguments,
    out_specs=out,
    check_vma=False,
  )
  x = jax.ShapeDtypeStruct((8 * ROWS, DIM), jnp.float32)
  text = jax.jit(program).lower(*(x,) * arguments).compile().as_text()
  return [
    (x.op, x.bytes, x.count, x.group_size, x.in_open_loop)
    for x in collectives.find(text)
  ]


def gather(x, axis="fsdp"):
  return jax.lax.all_gather(x, axis, tiled=True)


def test_sizes_are_those_of_the_whole_array():
  axes = partitioning.AXES
  assert exchanges(gather, out=P("data")) == [
    ("all-gather", 4 * BYTES, 1, 4, False)
  ]
  assert exchanges(
    functools.partial(gather, axis=axes), out=P(), mesh=(4, 2)
  ) == [("all-gather", 8 * BYTES, 1, 8, False)]
  assert exchanges(lambda x: jax.lax.psum(x, "data"), out=P("fsdp")) == [
    ("all-reduce", BYTES, 1, 2, False)
  ]
  assert exchanges(
    lambda x: jax.lax.psum_scatter(x, "fsdp", tiled=True), out=P(axes)
  ) == [("reduce-scatter", BYTES, 1, 4, False)]
  assert exchanges(
    lambda x: jax.lax.all_to_all(x, "fsdp", 0, 0, tiled=True), out=P(axes)
  ) == [("all-to-all", BYTES, 1, 4, False)]
  ring = [(i, (i + 1) % 4) for i in range(4)]
  ((op, size, count, _, _),) = exchanges(
    lambda x: jax.lax.ppermute(x, "fsdp", ring), out=P(axes)
  )
  assert (op, size, count) == ("collective-permute", BYTES, 1)
  assert exchanges(lambda x: 2 * x, out=P(axes)) == []
  alone = exchanges(gather, out=P("data"), mesh=(8, 1))
  assert alone == []  # among one device


def test_an_exchange_of_several_arrays_has_the_bytes_of_all():
  def both(x, y):
    return jax.lax.psum((x, jnp.sum(y, axis=1)), partitioning.AXES)

  found = exchanges(both, out=(P(), P()), arguments=2)
  total = sum(size * count for _, size, count, _, _ in found)
  assert {op for op, *_ in found} == {"all-reduce"}
  assert total == BYTES + 4 * ROWS


def scanned(x, length, body):
  return jax.lax.scan(lambda c, _: (body(c), None), x, length=length)[0]


def psum_of_tanh(x):
  return jnp.tanh(jax.lax.psum(x, "fsdp"))


def test_loops_count_their_rounds():
  axes = partitioning.AXES
  assert exchanges(lambda x: scanned(x, 5, psum_of_tanh), out=P(axes)) == [
    ("all-reduce", BYTES, 5, 4, False)
  ]
  nested = lambda x: scanned(x, 3, lambda y: scanned(y, 5, psum_of_tanh))  # noqa: E731
  assert exchanges(nested, out=P(axes)) == [("all-reduce", BYTES, 15, 4, False)]


def test_loops_whose_rounds_data_decides_are_marked():
  def loop(x):
    rounds = jnp.int32(jnp.abs(jax.lax.pmax(x[0, 0], partitioning.AXES)))
    return jax.lax.fori_loop(0, rounds, lambda _, y: psum_of_tanh(y), x)

  found = exchanges(loop, out=P(partitioning.AXES))
  assert ("all-reduce", BYTES, 1, 4, True) in found
  assert [x for x in found if not x[-1]] == [("all-reduce", 4, 1, 8, False)]


def test_branches_are_counted_each():
  def either(x):
    whole = jax.lax.pmax(x[0, 0], partitioning.AXES)
    return jax.lax.cond(
      whole > 0, psum_of_tanh, lambda y: jax.lax.pmin(y, "data") + 1, x
    )

  found = exchanges(either, out=P(partitioning.AXES))
  assert sorted(x for x in found if x[1] == BYTES) == [
    ("all-reduce", BYTES, 1, 2, False),
    ("all-reduce", BYTES, 1, 4, False),
  ]


# As the compiler of TPUs writes: an exchange that runs beside computation
# stands in several fusions, a reduce-scatter is a fusion around an all-reduce,
# and a loop's rounds are what a counter is compared with.
TPU = """\
HloModule jit_step, is_scheduled=true, replica_count=1, num_partitions=8

%add.1 (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %add.2 = f32[]{:T(128)} add(%a, %b)
}

%fused_computation.1 (p: f32[16,256]) -> (f32[16,256], f32[64,256], u32[]) {
  %p = f32[16,256]{1,0:T(8,128)S(1)} parameter(0)
  %all-gather.1 = f32[64,256]{1,0:T(8,128)} all-gather(%p), channel_id=4, \
replica_groups=mesh['axis_0'=2,'axis_1'=4] {'axis_1'}, dimensions={0}, \
frontend_attributes={chain_id="1"}
  ROOT %custom-call.1 = (f32[16,256]{1,0:T(8,128)S(1)}, /*index=1*/\
f32[64,256]{1,0:T(8,128)}, u32[]{:S(2)}) custom-call(%all-gather.1), \
custom_call_target="AsyncCollectiveStart"
}

%async_collective_fusion.2 (q: f32[16,256]) -> f32[64,256] {
  %q = f32[16,256]{1,0:T(8,128)} parameter(0)
  ROOT %all-gather.2 = f32[64,256]{1,0:T(8,128)} all-gather(%q), channel_id=4, \
replica_groups=mesh['axis_0'=2,'axis_1'=4] {'axis_1'}, dimensions={0}, \
frontend_attributes={chain_id="1"}
}

%all-reduce-scatter.3 (r: f32[32,8]) -> f32[8,8] {
  %r = f32[32,8]{1,0:T(8,128)} parameter(0)
  %all-reduce.3 = f32[32,8]{1,0:T(8,128)} all-reduce(%r), channel_id=5, \
replica_groups={{0,1,2,3},{4,5,6,7}}, to_apply=%add.1
  %i = s32[]{:T(128)} constant(0)
  ROOT %slice.3 = f32[8,8]{1,0:T(8,128)} dynamic-slice(%all-reduce.3, %i, %i)
}

%body.4 (t: (s32[], bf16[4,3])) -> (s32[], bf16[4,3]) {
  %t = (s32[]{:T(128)}, bf16[4,3]{1,0:T(4,128)(2,1)}) parameter(0)
  %n = s32[]{:T(128)} get-tuple-element(%t), index=0
  %x = bf16[4,3]{1,0:T(4,128)(2,1)} get-tuple-element(%t), index=1
  %all-reduce.4 = bf16[4,3]{1,0:T(4,128)(2,1)} all-reduce(%x), channel_id=6, \
replica_groups=[2,4]<=[8], to_apply=%add.1
  ROOT %tuple.4 = (s32[]{:T(128)}, bf16[4,3]{1,0:T(4,128)}) \
tuple(%n, %all-reduce.4)
}

%condition.4 (u: (s32[], bf16[4,3])) -> pred[] {
  %u = (s32[]{:T(128)}, bf16[4,3]{1,0:T(4,128)(2,1)}) parameter(0)
  %m = s32[]{:T(128)} get-tuple-element(%u), index=0
  %end = s32[]{:T(128)} constant(12)
  ROOT %less = pred[]{:T(512)} compare(%m, %end), direction=LT
}

ENTRY %main.5 (v: f32[16,256], w: f32[32,8], y: bf16[4,3]) -> bf16[4,3] {
  %v = f32[16,256]{1,0:T(8,128)} parameter(0)
  %w = f32[32,8]{1,0:T(8,128)} parameter(1)
  %y = bf16[4,3]{1,0:T(4,128)(2,1)} parameter(2)
  %fusion.1 = (f32[16,256]{1,0}, f32[64,256]{1,0}, u32[]) fusion(%v), \
kind=kCustom, calls=%fused_computation.1
  %fusion.2 = f32[64,256]{1,0} fusion(%v), kind=kOutput, \
calls=%async_collective_fusion.2
  %fusion.3 = f32[8,8]{1,0:T(8,128)} fusion(%w), kind=kCustom, \
calls=%all-reduce-scatter.3
  %zero = s32[]{:T(128)} constant(0)
  %copy.0 = s32[]{:T(128)} copy(%zero)
  %tuple.5 = (s32[]{:T(128)}, bf16[4,3]{1,0:T(4,128)}) tuple(%copy.0, %y)
  %while.5 = (s32[]{:T(128)}, bf16[4,3]{1,0:T(4,128)}) while(%tuple.5), \
condition=%condition.4, body=%body.4
  ROOT %out = bf16[4,3]{1,0:T(4,128)(2,1)} get-tuple-element(%while.5), index=1
}
"""


def test_programs_of_tpus_are_read():
  one = functools.partial(collectives.Collective, in_open_loop=False)
  assert collectives.find(TPU) == [
    one("all-gather", 64 * 256 * 4, count=1, group_size=4),
    one("reduce-scatter", 32 * 8 * 4, count=1, group_size=4),
    one("all-reduce", 4 * 3 * 2, count=12, group_size=4),
  ]


@pytest.mark.parametrize(
  "old, new, count, is_open",
  [
    ("constant(12)", "constant(7)", 7, False),
    # None of these is a counter from 0 to a constant.
    ("direction=LT", "direction=NE", 1, True),
    (
      "%zero = s32[]{:T(128)} constant(0)",
      "%zero = s32[] constant(3)",
      1,
      True,
    ),
    ("%end = s32[]{:T(128)} constant(12)", "%end = s32[] copy(%m)", 1, True),
  ],
)
def test_rounds_of_a_tpu_loop(old, new, count, is_open):
  assert old in TPU
  last = collectives.find(TPU.replace(old, new))[-1]
  assert (last.count, last.in_open_loop) == (count, is_open)


STARTS = {
  "%g = (f32[2,4]{1,0}, f32[8,4]{1,0}) all-gather-start(%x)": 128,
  "%g = f32[2,4]{1,0} all-reduce-start(%x), to_apply=%a": 32,
  "%g = (f32[2,4]{1,0}, f32[2,4]{1,0}) all-reduce-start(%x, %x)": 64,
  "%g = (f32[2,4]{1,0}, f32[2,4]{1,0}, u32[], u32[]) "
  "collective-permute-start(%x)": 32,
}


@pytest.mark.parametrize("line", STARTS)
def test_exchanges_that_start_here_and_end_there(line):
  opcode = line.split("-start(")[0].split()[-1]
  text = (
    "HloModule m, num_partitions=8\n\n"
    "ENTRY %main (x: f32[2,4]) -> f32[8,4] {\n"
    "  %x = f32[2,4]{1,0} parameter(0)\n"
    f"  {line}, replica_groups={{{{0,1,2,3}},{{4,5,6,7}}}}\n"
    f"  ROOT %d = f32[8,4]{{1,0}} {opcode}-done(%g)\n"
    "}\n"
  )
  (found,) = collectives.find(text)
  assert (found.op, found.bytes, found.count) == (opcode, STARTS[line], 1)


def test_wrapped_exchanges_are_found_once():
  text = """\
HloModule m, replica_count=4

%wrapped (a: f32[8]) -> f32[2] {
  %a = f32[8]{0} parameter(0)
  ROOT %r = f32[2]{0} reduce-scatter(%a), replica_groups={}, dimensions={0}
}

ENTRY %main (x: f32[8]) -> f32[2] {
  %x = f32[8]{0} parameter(0)
  %s = ((f32[8]{0}), f32[2]{0}, s32[]) async-start(%x), calls=%wrapped
  %u = ((f32[8]{0}), f32[2]{0}, s32[]) async-update(%s), calls=%wrapped
  ROOT %d = f32[2]{0} async-done(%u), calls=%wrapped
}
"""
  assert collectives.find(text) == [
    collectives.Collective(
      "reduce-scatter", 32, count=1, group_size=4, in_open_loop=False
    )
  ]


@pytest.mark.parametrize(
  "shape, sizes",
  [
    ("f32[12,768]{1,0:T(8,128)(2,1)S(1)}", [36864]),
    ("(bf16[3]{0}, /*index=1*/pred[], (u8[<=5]{0}, s4[6]{0}))", [6, 1, 5, 3]),
    ("f8e4m3fn[10]{0}", [10]),
    ("c64[2]{0}", [16]),
    ("token[]", [0]),
  ],
)
def test_bytes_of_shapes(shape, sizes):
  assert hlo.array_bytes(shape) == sizes


@pytest.mark.parametrize(
  "op, sent", [("all-gather", 600), ("all-reduce", 1200), ("all-to-all", 600)]
)
def test_what_a_ring_of_four_sends(op, sent):
  x = collectives.Collective(op, 400, count=2, group_size=4, in_open_loop=False)
  assert x.sent == sent
  alone = collectives.Collective(
    op, 400, count=2, group_size=1, in_open_loop=False
  )
  assert alone.sent == 0


def planned(config, **classes):
  """Returns the run of a config whose data nobody has, on this mesh."""
  images = fakes.sources(config)[0].num_examples
  counts = {k: request.Counts(v, images) for k, v in classes.items()}
  sources = request.sources(config, counts)
  return runs.set_up(config, sources), sources


@pytest.mark.parametrize("semantics", ["default", "official"])
def test_the_planned_step_is_that_of_the_training(semantics):
  config = fakes.changed(
    semantics=semantics, frozen_steps=3, mesh__data=2, mesh__fsdp=4
  )
  plan, _ = planned(config, **fakes.NUM_CLASSES)
  training = runs.set_up(config, fakes.sources(config))
  batch = programs.abstract_batch(plan)

  def texts(run):
    return [
      step.lower(run.abstract_state, batch).as_text()
      for step in (run.train_step, run.frozen_step)
    ]

  assert texts(plan) == texts(training)


@pytest.fixture(scope="module")
def plan():
  """Returns the plan of the tiny config on the eight devices of the tests."""
  config = fakes.changed(
    frozen_steps=3, batch_size=32, mesh__data=2, mesh__fsdp=4
  )
  run, sources = planned(config, **fakes.NUM_CLASSES)
  return costs.make(
    run,
    chip="v5e",
    compiler="a compiler",
    is_estimate=False,
    num_classes=[source.num_classes for source in sources],
  )


@pytest.mark.slow
def test_memory_is_that_of_the_state_and_more(plan):
  batch = 32 // 8 * (16 * 16 * 3 + 4) + 4
  state = partitioning.bytes_per_device(plan.run.abstract_state)
  for step in plan.steps.values():
    memory = step.program.memory
    assert memory.arguments == state + batch
    assert memory.temporaries > 0
    assert memory.total == sum(
      (memory.arguments, memory.outputs, memory.temporaries, memory.code)
    )
  totals = [step.program.memory.total for step in plan.steps.values()]
  assert plan.bytes_per_device == max(totals)


def test_costs_follow_from_chip_and_work(plan):
  work = plan.run.count_work()
  chip = chips.CHIPS["v5e"]
  full, frozen = plan.steps["full"], plan.steps["frozen"]
  assert (full.flops, frozen.flops) == (work.full_step, work.frozen_step)
  assert (full.count, frozen.count) == (9, 3)
  np.testing.assert_allclose(full.floor.compute, work.full_step / 8 / 197e12)
  # Parameters and two moments of every parameter, read and written.
  module = partitioning.bytes_per_device(plan.run.abstract_state.params)
  np.testing.assert_allclose(
    full.floor.memory, 6 * module / chip.memory_bandwidth, rtol=0.01
  )
  assert module / chip.memory_bandwidth < frozen.floor.memory
  assert frozen.floor.memory < full.floor.memory
  sent = sum(x.sent for x in full.program.exchanges)
  np.testing.assert_allclose(full.floor.links, sent / 200e9)
  seconds = 9 * full.floor.seconds + 3 * frozen.floor.seconds
  spent = plan.spending(plan.seconds, 1.5)
  np.testing.assert_allclose(spent["hours"], seconds / 3600)
  np.testing.assert_allclose(spent["chip_hours"], 8 * seconds / 3600)
  np.testing.assert_allclose(spent["cost"], 12 * seconds / 3600)
  np.testing.assert_allclose(
    plan.seconds_at(1e-6),
    (9 * work.full_step + 3 * work.frozen_step) / 8 / 197e12 / 1e-6,
  )
  assert plan.seconds_at(1.0) == plan.seconds  # by its links
  assert plan.parameters["prototypes"] == (5 + 11 + 7) * (8 + 16)


def test_links_of_another_compiler_do_not_count():
  floor = functools.partial(costs.Floor, compute=2.0, memory=1.0, links=3.0)
  own, other = floor(links_count=True), floor(links_count=False)
  assert (own.seconds, own.bound) == (3.0, "links")
  assert (other.seconds, other.bound) == (2.0, "compute")


def test_words_and_table_name_what_a_person_asks_for(plan):
  words = page.write(plan, price=2.0, mfu=0.5)
  for said in (
    "8 x v5e as 2x4",
    "a compiler",
    "fits: 0.00 GiB of the 15.75 GiB",
    "full step    9 of them",
    "frozen step  3 of them",
    "all-gather",
    "12 steps",
    "at 50% of the peak",
    "in money",
  ):
    assert said in words
  table = page.write_parameters(plan)
  state = plan.run.abstract_state
  arrays = jax.tree.leaves((state.params, state.opt_state, state.prototypes))
  assert len(table.splitlines()) == len(arrays) + 2
  held = partitioning.bytes_per_device(arrays)
  assert table.splitlines()[-1].split() == ["total", f"{held:,}"]


REFUSED = """RESOURCE_EXHAUSTED: E1000: CompileTimeHbmOom: XLA:TPU compile \
permanent error. Ran out of memory in memory space hbm. Used 20.50G of 15.75G \
hbm. Exceeded hbm capacity by 4.75G.

Total hbm usage >= 20.75G:
    reserved        258.00M
    program          16.50G
    arguments         4.00G
"""


def test_what_a_refused_program_would_need_is_read():
  memory = programs.needed(REFUSED, arguments=2**32)
  assert (memory.arguments, memory.temporaries) == (2**32, 33 * 2**29)
  alone = "RESOURCE_EXHAUSTED: Allocation (size=3264175) would exceed memory"
  assert programs.needed(alone, arguments=5).total == 3264175
  assert programs.needed("INTERNAL: program 3G", arguments=5) is None


@pytest.mark.parametrize(
  "chip, shapes",
  [
    ("v5e", {1: (1, 1), 4: (2, 2), 8: (2, 4), 32: (4, 8), 256: (16, 16)}),
    ("v3", {8: (2, 2), 32: (4, 4), 2048: (32, 32)}),
    ("v5p", {4: (2, 2, 1), 8: (2, 2, 2), 32: (2, 4, 4), 128: (4, 4, 8)}),
    ("v7x", {8: (2, 2, 1), 128: (4, 4, 4)}),
  ],
)
def test_slices(chip, shapes):
  found = absent.slices(chip)
  assert {n: found[n] for n in shapes} == shapes
  per_chip = chips.CHIPS[chip].devices
  assert all(np.prod(s) * per_chip == n for n, s in found.items())


def test_a_training_on_this_machine_is_left_alone(monkeypatch):
  for name in ("JAX_PLATFORMS", "ALLOW_MULTIPLE_LIBTPU_LOAD"):
    monkeypatch.setenv(name, "")
  for name in list(os.environ):
    if name.startswith("TPU_"):
      monkeypatch.delenv(name)
  before = dict(os.environ)
  absent.prepare()
  added = set(os.environ) - set(before)
  for name in added:  # so that they are gone after the test
    monkeypatch.setenv(name, os.environ.pop(name))
  assert os.environ["JAX_PLATFORMS"] == jax.config.jax_platforms == "cpu"
  # Without it libtpu takes a lock, or ends where a training holds it.
  assert os.environ["ALLOW_MULTIPLE_LIBTPU_LOAD"] == "1"
  assert os.environ["TPU_SKIP_MDS_QUERY"] == "1"


def test_uned_needs_no_words_and_others_do():
  config = fakes.changed(domains=("cars", "met"))
  cars, met = request.sources(config, {"met": request.Counts(10**7, None)})
  assert (cars.num_classes, cars.num_examples) == (78, 6346)
  images = domains.UNED["met"].num_examples["train"]
  assert (met.num_classes, met.num_examples) == (10**7, images)
  config = fakes.changed(domains=("cars", "mine"))
  with pytest.raises(errors.UserError, match=r"--classes=mine:CLASSES$"):
    request.sources(config, {})
  _, mine = request.sources(config, request.parse_classes(["mine:5:90"]))
  assert (mine.num_classes, mine.num_examples) == (5, 90)
