"""A plan in words, for a terminal."""

from collections.abc import Iterator

from udon_jax import chips, partitioning, reporting
from udon_jax.planning import costs, programs

_SHOWN_EXCHANGES = 6


def write(plan: costs.Plan, *, price: float | None, mfu: float | None) -> str:
  """Returns what a person wants to know of a plan.

  Args:
    plan: the plan.
    price: of an hour of a chip, in any currency; None if not known.
    mfu: share of the peak to expect; None tells the floor alone.
  """
  lines = [
    f"chip         {_devices(plan)}",
    f"compiler     {plan.compiler}",
    f"parameters   {plan.parameters['module']:,} of the module, "
    f"{plan.parameters['prototypes']:,} of class prototypes",
    f"memory       {_verdict(plan)}",
  ]
  for kind, step in plan.steps.items():
    lines += ["", *_step(plan, kind, step)]
  lines += ["", f"run          {_run(plan, price=price, mfu=mfu)}"]
  return "\n".join(lines)


def write_parameters(plan: costs.Plan) -> str:
  """Returns the table of all that lies on the devices between steps."""
  state = plan.run.abstract_state
  return partitioning.describe(
    {
      "module": state.params,
      "moments": state.opt_state,
      "prototypes": state.prototypes,
    }
  )


def _devices(plan: costs.Plan) -> str:
  """Returns how many devices of which chip stand how."""
  mesh = plan.run.mesh
  return (
    f"{mesh.size} x {plan.chip} as {mesh.shape['data']}x{mesh.shape['fsdp']} "
    "(data x fsdp)"
  )


def _verdict(plan: costs.Plan) -> str:
  """Returns whether the run fits."""
  at_least = "" if _is_exact(plan) else "at least "
  label = f" ({plan.compiler})" if plan.is_estimate else ""
  share = (
    ""
    if chips.CHIPS[plan.chip].is_tpu
    else f"; XLA_PYTHON_CLIENT_MEM_FRACTION={chips.GPU_SHARE} is the default"
  )
  return (
    f"{'fits' if plan.fits else 'DOES NOT FIT'}: {at_least}"
    f"{_gib(plan.bytes_per_device)} of the {_gib(plan.memory)} that a program "
    f"can use on a device{label}{share}"
  )


def _is_exact(plan: costs.Plan) -> bool:
  return all(step.program.was_compiled for step in plan.steps.values())


def _step(plan: costs.Plan, kind: str, step: costs.Step) -> Iterator[str]:
  """Yields the lines of a kind of step."""
  floor = step.floor
  batch = plan.run.config.batch_size
  aside = "" if floor.links_count else ", not counted"
  yield f"{kind + ' step':12} {step.count:,} of them"
  more = " or more: loops of unknown length count as one round"
  yield (
    f"  FLOPs      {step.flops:.4g}, all devices together"
    f"{more if plan.work.open_loops else ''}"
  )
  yield f"  memory     {_memory(step.program.memory)}"
  yield (
    f"  floor      {_time(floor.seconds)}, {batch / floor.seconds:,.0f} "
    f"images/s, by {floor.bound} (compute {_time(floor.compute)}, "
    f"memory {_time(floor.memory)}, links {_time(floor.links)}{aside})"
  )
  exchanges = step.program.exchanges or []
  sent = sum(x.sent for x in exchanges)
  if exchanges:
    yield f"  sends      {_mb(sent)} a device in {len(exchanges)} kinds:"
  for x in exchanges[:_SHOWN_EXCHANGES]:
    loop = ", at least: data decides how often" if x.in_open_loop else ""
    yield (
      f"             {x.count:4} x {x.op} of {_mb(x.bytes)} over "
      f"{x.group_size} devices{loop}"
    )
  rest = exchanges[_SHOWN_EXCHANGES:]
  if rest:
    yield (
      f"             and {sum(x.count for x in rest)} of "
      f"{_mb(sum(x.bytes * x.count for x in rest))} together"
    )


def _memory(memory: programs.Memory) -> str:
  """Returns what a program needs, by part."""
  parts = {
    "state and batch": memory.arguments,
    "temporaries": memory.temporaries,
    "other outputs": memory.outputs,
    "code": memory.code,
  }
  shown = ", ".join(
    f"{_gib(n)} {name}" for name, n in parts.items() if n >= 1e6
  )
  return f"{_gib(memory.total)} ({shown})"


def _run(plan: costs.Plan, *, price: float | None, mfu: float | None) -> str:
  """Returns what the whole run takes."""

  def words(seconds: float) -> str:
    spent = plan.spending(seconds, price)
    money = "" if price is None else f", {spent['cost']:,.2f} in money"
    return (
      f"{reporting.format_duration(seconds)}, {spent['chip_hours']:,.1f} "
      f"chip-hours{money}"
    )

  line = f"{plan.run.num_steps:,} steps; at the floor {words(plan.seconds)}"
  if mfu is None:
    return f"{line} (--mfu=0.4: at 40 % of the peak)"
  return f"{line}; at {mfu:.0%} of the peak {words(plan.seconds_at(mfu))}"


def _gib(n: float) -> str:
  return f"{n / 2**30:.2f} GiB"


def _mb(n: float) -> str:
  return f"{n / 1e6:,.2f} MB"


def _time(seconds: float) -> str:
  return f"{1e3 * seconds:.3g} ms"
