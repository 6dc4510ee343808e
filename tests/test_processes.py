"""Several real processes do what one does, and end together."""

import json
import shutil
import signal
import time

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from tests import several, small_run
from udon_jax import errors, processes

NOTHING = processes.Request(None, None, None, 300, 100)
ALL_FLAGS = processes.Request("host:1", 2, 1, 300, 100)


def training_lines(workdir):
  """Returns {(step, domain): values} of metrics.jsonl."""
  lines = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
  found = [line for line in lines if "loss" in line]
  keyed = {(line["step"], line["domain"]): line for line in found}
  assert len(keyed) == len(found)  # one process wrote, once
  return keyed


def exactly(workdir):
  """Returns what does not depend on the clock."""
  return {
    key: {k: v for k, v in line.items() if not k.startswith("speed/")}
    for key, line in training_lines(workdir).items()
  }


def results(workdir):
  return json.loads((workdir / "results.json").read_text())


def leaves(tree):
  if isinstance(tree, dict):
    return [x for value in tree.values() for x in leaves(value)]
  return [tree]


def run(workdir, count, *flags, devices):
  with several.started(workdir, count, *flags, devices=devices) as started:
    assert started.wait() == [0] * count, started.said(0)
    return [started.said(i) for i in range(count)]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
  """A run of one process with four devices."""
  folder = tmp_path_factory.mktemp("alone")
  run(folder, 1, devices=4)
  return folder


@pytest.fixture(scope="module")
def both(tmp_path_factory):
  """A run of two processes with two devices each, and what they said."""
  folder = tmp_path_factory.mktemp("both")
  return folder, run(folder, 2, devices=2)


def assert_same_run(found, expected):
  ours, theirs = training_lines(found), training_lines(expected)
  assert ours.keys() == theirs.keys()  # the same domains at the same time
  for i, key in enumerate(ours):
    tolerance = 1e-5 if i == 0 else 2e-3
    assert ours[key]["loss"] == pytest.approx(
      theirs[key]["loss"], rel=tolerance
    )
  np.testing.assert_allclose(
    leaves(results(found)), leaves(results(expected)), atol=1e-6
  )


def test_two_processes_are_one(alone, both):
  folder, (first, second) = both
  assert_same_run(folder, alone)
  assert "mesh: data=4 fsdp=1, 4 devices, 2 processes" in first
  assert "step 12" in first
  assert "mesh:" not in second
  assert "step 12" not in second


@pytest.mark.slow
@pytest.mark.parametrize("mesh", ["4,1", "2,2", "1,4"])
def test_four_processes_are_one_on_any_mesh(alone, tmp_path, mesh):
  run(tmp_path, 4, f"--mesh={mesh}", devices=1)
  assert_same_run(tmp_path, alone)


@pytest.mark.slow
def test_a_mesh_over_two_processes(alone, tmp_path):
  run(tmp_path, 2, "--mesh=1,4", devices=2)
  assert_same_run(tmp_path, alone)


def assert_continues(workdir, both):
  """Runs the same command again: nothing tells that it was interrupted."""
  run(workdir, 2, devices=2)
  folder, _ = both
  assert exactly(workdir) == exactly(folder)
  assert results(workdir) == results(folder)


@pytest.mark.slow
def test_a_lost_process_ends_the_others(both, tmp_path):
  with several.started(tmp_path, 2, devices=2, pause=0.05) as started:
    started.wait_for_step(tmp_path, 6)
    started.send(1, signal.SIGKILL)
    begin = time.monotonic()
    codes = started.wait(60)
    assert time.monotonic() - begin < 2 * several.HEARTBEAT + 10
  assert codes[1] == -signal.SIGKILL
  assert codes[0] not in (0, 1, 2, 3)
  assert_continues(tmp_path, both)


@pytest.mark.slow
def test_a_sigterm_to_one_stops_all_at_the_same_step(both, tmp_path):
  with several.started(tmp_path, 2, devices=2, pause=0.05) as started:
    started.wait_for_step(tmp_path, 3)
    started.send(1)
    assert started.wait() == [143, 143], started.said(0)
    stopped = [started.said(i).strip().splitlines()[-1] for i in (0, 1)]
  assert stopped[0] == stopped[1]
  assert "stopped and saved at step" in stopped[0]
  assert_continues(tmp_path, both)


@pytest.mark.slow
def test_an_error_of_one_ends_all(tmp_path):
  """Soon, and with the code that tells not to try again, where it is known.

  Steps that no checkpoint has are not saved: the others would not come to it.
  """
  with several.started(
    tmp_path, 2, "--save_every=100", devices=1, own={1: ["--fail_at=2"]}
  ) as started:
    codes = started.wait(60)
    assert codes[1] == 2
    assert not list((tmp_path / "checkpoints").iterdir())
    assert "error: a batch cannot be read" in started.said(1)
    assert codes[0] not in (0, 1)


def test_processes_that_disagree_are_named(tmp_path):
  with several.started(
    tmp_path, 2, devices=1, own={1: ["--seed=3"]}
  ) as started:
    assert started.wait(60) == [2, 2]
    for i in (0, 1):
      assert started.said(i).strip().splitlines()[-1] == (
        "error: the processes disagree: config.seed is 3 on process 1 and 0 on "
        "process 0; start all of them with the same command, code and data"
      )
  assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_the_odd_one_of_four_is_named(tmp_path):
  with several.started(
    tmp_path, 4, devices=1, own={0: ["--seed=3"]}
  ) as started:
    assert started.wait(60) == [2] * 4
    assert "config.seed is 3 on process 0 and 0 on process 1" in started.said(2)


@pytest.mark.slow
@pytest.mark.parametrize("first, second", [(1, 2), (2, 1)])
def test_checkpoints_do_not_depend_on_processes(
  alone, both, tmp_path, first, second
):
  """Restored and saved by others, every number is what it was."""
  old = tmp_path / "old"
  shutil.copytree(alone if first == 1 else both[0], old)
  new = tmp_path / "new"
  new.mkdir()
  run(old, second, f"--copy={new}", devices=8 // second)
  step = max(int(x.name) for x in (old / "checkpoints").iterdir())
  for part in ("params", "training"):
    trees = [read(x / "checkpoints" / str(step) / part) for x in (old, new)]
    for a, b in zip(*map(jax.tree.leaves, trees), strict=True):
      np.testing.assert_array_equal(a, b)


def read(path):
  """Returns what a checkpoint holds, whatever devices it was saved on."""
  with ocp.PyTreeCheckpointer() as reader:
    shapes = reader.metadata(path).item_metadata.tree
    whole = jax.tree.map(
      lambda _: ocp.RestoreArgs(restore_type=np.ndarray), shapes
    )
    return reader.restore(path, args=ocp.args.PyTreeRestore(restore_args=whole))


@pytest.mark.slow
def test_command_lines_on_real_images(tmp_path):
  """Two processes with a device each train and test as one with two."""
  names = ("draw", "prepare")
  small_run.must_succeed({n: small_run.COMMANDS[n] for n in names}, tmp_path)
  data, seen = f"--config.data_dir={tmp_path}/data", {}
  for count in (1, 2):
    workdir = tmp_path / str(count)
    devices = "--xla_force_host_platform_device_count=" + str(2 // count)
    for command in (
      ["udon_jax.main", *small_run.TINY, small_run.TWO_DOMAINS, data],
      ["udon_jax.evaluate", f"--output={workdir}/again.json"],
    ):
      with several.running(
        [*command, f"--workdir={workdir}"], count, XLA_FLAGS=devices
      ) as started:
        assert started.wait(300) == [0] * count, started.said(0)
    seen[count] = training_lines(workdir)
    assert results(workdir) == json.loads((workdir / "again.json").read_text())
    assert (workdir / "report.html").exists()
  assert seen[1].keys() == seen[2].keys()
  for key, line in seen[1].items():
    assert seen[2][key]["loss"] == pytest.approx(line["loss"], rel=1e-4)
  np.testing.assert_allclose(
    leaves(results(tmp_path / "1")), leaves(results(tmp_path / "2")), atol=1e-6
  )


def test_a_coordinator_that_is_not_there_is_named(tmp_path):
  with several.started(
    tmp_path,
    2,
    devices=1,
    own={i: ["--process_id=1", "--initialization_timeout=1"] for i in (0, 1)},
  ) as started:
    assert started.wait(60) == [2, 2]
    last = started.said(0).strip().splitlines()[-1]
  assert "does not answer in 1 s" in last
  assert "--initialization_timeout" in last


# Who is there, without starting anybody.


def several_of(request, environ):
  return processes.is_several(processes.fill(request, environ), environ)


SLURM = {
  "SLURM_JOB_ID": "7",
  "SLURM_STEP_NODELIST": "node[1-2]",
  "SLURM_PROCID": "1",
  "SLURM_LOCALID": "0",
}


@pytest.mark.parametrize(
  "environ, expected",
  [
    ({}, False),
    ({**SLURM, "SLURM_NTASKS": "1"}, False),
    ({**SLURM, "SLURM_NTASKS": "4"}, True),
    ({"SLURM_JOB_ID": "7", "SLURM_NTASKS": "4"}, False),  # not under srun
    ({**SLURM, "SLURM_NTASKS": "4", "SLURM_STEP_NUM_TASKS": "1"}, False),
    ({"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "0"}, False),
    (
      {
        "OMPI_COMM_WORLD_SIZE": "2",
        "OMPI_COMM_WORLD_RANK": "0",
        "OMPI_MCA_orte_hnp_uri": "x",
      },
      True,
    ),
    ({"TPU_WORKER_HOSTNAMES": "a"}, False),
    ({"TPU_WORKER_HOSTNAMES": "a,b", "TPU_WORKER_ID": "0"}, True),
    ({"MEGASCALE_NUM_SLICES": "2", "TPU_WORKER_HOSTNAMES": "a"}, True),
    ({"JAX_NUM_PROCESSES": "1"}, False),
    (
      {
        "JAX_COORDINATOR_ADDRESS": "h:1",
        "JAX_NUM_PROCESSES": "2",
        "JAX_PROCESS_ID": "0",
      },
      True,
    ),
  ],
)
def test_whether_there_are_others(environ, expected):
  assert several_of(NOTHING, environ) == expected


def test_flags_come_before_the_environment():
  environ = {
    "JAX_COORDINATOR_ADDRESS": "other:9",
    "JAX_NUM_PROCESSES": "5",
    "JAX_PROCESS_ID": "4",
    **SLURM,
    "SLURM_NTASKS": "8",
  }
  assert processes.fill(ALL_FLAGS, environ) == ALL_FLAGS
  filled = processes.fill(NOTHING, environ)
  assert (filled.coordinator_address, filled.num_processes) == ("other:9", 5)
  one = processes.Request(None, 1, None, 300, 100)
  assert not several_of(one, environ)


@pytest.mark.parametrize(
  "request_, environ, words",
  [
    (("h:1", None, None), {}, "--num_processes and --process_id must be given"),
    ((None, 2, 0), {}, "--coordinator_address must be given too"),
    (("h:1", 2, 2), {}, "--process_id=2 must be from 0 to --num_processes=2"),
    (("h:1", 0, 0), {}, "--num_processes=0 must be at least 1"),
    (("host", 2, 0), {}, "--coordinator_address=host must be HOST:PORT"),
    ((None, 2, 0), {"JAX_PROCESS_ID": "x"}, None),
    ((None, None, None), {"JAX_PROCESS_ID": "x"}, "JAX_PROCESS_ID='x' is no"),
  ],
)
def test_mistakes_are_named(request_, environ, words):
  request = processes.Request(*request_, 300, 100)
  words = words or "--coordinator_address must be given too"
  with pytest.raises(errors.UserError, match=words):
    processes.fill(request, environ)
