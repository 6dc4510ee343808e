"""The launch scripts: what they print, and what they do on one machine."""

import os
import pathlib
import re
import shlex
import signal
import subprocess
import sys
import textwrap
import time

import pytest
import yaml

from tests import compiling, several

ROOT = pathlib.Path(__file__).parent.parent
LAUNCH = ROOT / "launch"
RUN = (
  "--",
  "--config=configs/uned_vitb16.py",
  "--workdir=gs://bucket/runs/b 16",
)
TPU = ("--name=udon", "--zone=z")
SOURCE = ("--source=https://host/r.git", "--ref=abc")
KIND = ("--accelerator_type=v6e-16", "--runtime_version=v2")
GKE = (
  *("--name=udon", "--image=r/i:1", "--accelerator=tpu-v6e-slice"),
  *("--topology=4x4", "--hosts=4", "--chips_per_host=4"),
)
SLURM = ("--nodes=2", "--gpus_per_node=8", "--time=24:00:00")
SCRIPTS = sorted(x.name for x in LAUNCH.glob("*.sh") if x.name != "common.sh")


def launch(script, *flags, **environ):
  return subprocess.run(
    [LAUNCH / script, *flags],
    cwd=ROOT,
    env={**os.environ, **environ},
    capture_output=True,
    text=True,
    check=False,
  )


def test_no_mistake_that_shellcheck_knows():
  files = [*LAUNCH.glob("*.sh"), LAUNCH / "slurm.sbatch"]
  shellcheck = pathlib.Path(sys.executable).parent / "shellcheck"
  done = subprocess.run(
    [shellcheck, "--external-sources", f"--source-path={ROOT}", *files],
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_says_what_a_script_is_for(script):
  if script == "tpu_startup.sh":
    pytest.skip("runs on TPU VMs")
  done = launch(script, "--help")
  assert done.returncode == 0
  assert f"launch/{script}" in done.stdout
  assert "--dry_run" in done.stdout


PRINTED = {
  ("local.sh", "--num_processes=2", "--gpus_per_process=2", *RUN): (
    r"CUDA_VISIBLE_DEVICES=2\,3 python -m udon_jax.main",
    r"--workdir=gs://bucket/runs/b\ 16 --coordinator_address=127.0.0.1:",
    "--num_processes=2 --process_id=1",
  ),
  ("local.sh", "--num_processes=1", "--cpu_devices=3", *RUN): (
    "xla_force_host_platform_device_count=3",
    "JAX_PLATFORMS=cpu",
  ),
  ("tpu_pod.sh", "create", *TPU, *KIND, "--spot"): (
    "gcloud compute tpus tpu-vm create udon --zone=z",
    "--accelerator-type=v6e-16 --version=v2 --spot",
  ),
  ("tpu_pod.sh", "run", *TPU, *SOURCE, *RUN): (
    "tpu-vm scp",
    "tpu-vm ssh udon --zone=z --worker=all",
    r"#   UDON_ARGS=(--config=configs/uned_vitb16.py "
    r"--workdir=gs://bucket/runs/b\ 16)",
  ),
  ("tpu_pod.sh", "install", *TPU, *SOURCE): (
    "#   UDON_ARGS=()",
    r"--command=sudo\ bash\ udon_jax_start.sh\ install",
  ),
  ("tpu_pod.sh", "stop", *TPU): ("--worker=all", r"kill\ -TERM"),
  ("tpu_pod.sh", "delete", *TPU, "--project=p"): (
    "tpu-vm delete udon --zone=z --project=p --quiet",
  ),
  ("tpu_queued.sh", "create", *TPU, *KIND, *SOURCE, "--spot", *RUN): (
    "queued-resources create udon",
    "--metadata-from-file=startup-script=",
    "--spot",
  ),
  ("tpu_queued.sh", "delete", *TPU): ("queued-resources delete udon",),
  ("slurm.sh", *SLURM, "--partition=gpu", *RUN): (
    "sbatch --job-name=udon --nodes=2 --ntasks-per-node=8 --gres=gpu:8",
    "--signal=TERM@300 --requeue",
    "--partition=gpu",
    "slurm.sbatch --config=configs/uned_vitb16.py",
  ),
  ("gke.sh", "build", "--image=r/i:1", "--extra=cpu"): (
    "docker build --build-arg EXTRA=cpu --tag r/i:1",
    "docker push r/i:1",
  ),
  ("gke.sh", "create", *GKE, *RUN): (
    "kubectl --namespace=default apply",
    '"--workdir=gs://bucket/runs/b 16"',
  ),
  ("gke.sh", "delete", "--name=udon"): ("delete jobset udon",),
}


@pytest.mark.parametrize("command", PRINTED, ids=" ".join)
def test_commands_are_printed_and_nothing_is_done(command, tmp_path):
  """Where none of gcloud, kubectl, docker and sbatch is."""
  script, *flags = command
  for name in ("bash", "env", "dirname", "awk", "sed", "mktemp", "rm", "cat"):
    (tmp_path / name).symlink_to(f"/usr/bin/{name}")
  for name in ("tail", "seq"):
    (tmp_path / name).symlink_to(f"/usr/bin/{name}")
  at = flags.index("--") if "--" in flags else len(flags)
  flags[at:at] = ["--dry_run"]
  done = launch(script, *flags, PATH=str(tmp_path))
  assert done.returncode == 0, done.stderr
  for words in PRINTED[command]:
    assert words in done.stdout


MISTAKES = {
  ("local.sh", *RUN): "--num_processes is missing",
  ("local.sh", "--num_processes=x", *RUN): "--num_processes=x is no whole",
  ("local.sh", "--num_processes=2"): "--config is missing behind --",
  ("local.sh", "--numprocesses=2", *RUN): "--numprocesses is unknown",
  ("local.sh", "--num_processes", *RUN): "--num_processes has no value",
  ("tpu_pod.sh", "start", *TPU): "'start' is none of: create",
  ("tpu_pod.sh", "create", "--name=U", "--zone=z"): "--name=U is no name",
  ("tpu_pod.sh", "create", *TPU, "--dry_run"): "--accelerator_type is missing",
  (
    *("tpu_pod.sh", "run", *TPU, *SOURCE, "--dry_run", "--"),
    *("--config=c", "--workdir=runs/x"),
  ): "is on the disk of one host",
  ("slurm.sh", *SLURM[:2], *RUN): "--time is missing",
  ("slurm.sh", *SLURM[:2], "--time=soon", *RUN): "--time=soon is no time",
  ("gke.sh", "create", *GKE[:3], "--dry_run", *RUN): "--topology is missing",
  ("gke.sh", "create", *GKE, "--topology=16", "--dry_run", *RUN): "no topology",
  ("gke.sh", "create", *GKE, "--hosts=2", "--dry_run", *RUN): (
    "--topology=4x4 has 16 chips, --hosts=2 of --chips_per_host=4 have 8"
  ),
  (
    *("gke.sh", "create", *GKE, "--dry_run", "--"),
    *("--config=c", "--workdir=runs/x"),
  ): "--workdir=runs/x is on the disk of one host",
  ("gke.sh", "build", "--image=i", "--extra=x", "--dry_run"): "--extra=x is",
}


@pytest.mark.parametrize("command", MISTAKES, ids=" ".join)
def test_mistakes_are_told_in_one_line(command):
  script, *flags = command
  done = launch(script, *flags)
  assert done.returncode == 2
  assert len(done.stderr.strip().splitlines()) == 1
  assert MISTAKES[command] in done.stderr


def test_a_tool_that_is_missing_is_named():
  done = launch("slurm.sh", *SLURM, *RUN)
  assert done.returncode == 2
  assert done.stderr.startswith("error: sbatch is not installed; run this")


ODD = '--x="\\y" $(HOME) @IMAGE@ @NAME@'


def manifest(*flags):
  done = launch("gke.sh", "create", *GKE, *flags, "--dry_run", *RUN, ODD)
  assert done.returncode == 0, done.stderr
  _, text = done.stdout.split("\n", 1)
  assert not re.search("@[A-Z_]+@", re.sub(" args: .*", "", text))
  return yaml.safe_load(text)


def test_the_job_set_says_what_the_flags_say():
  found = manifest("--max_restarts=7", "--grace_seconds=60")
  assert found["apiVersion"] == "jobset.x-k8s.io/v1alpha2"
  assert found["kind"] == "JobSet"
  assert found["metadata"]["name"] == "udon"
  failures = found["spec"]["failurePolicy"]
  assert failures["maxRestarts"] == 7
  (for_good,) = failures["rules"]
  assert for_good["action"] == "FailJobSet"
  # What JobSet asks of names of rules, in its FailurePolicyRule.
  assert re.fullmatch(
    r"[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?", for_good["name"]
  )
  assert for_good["onJobFailureReasons"] == ["PodFailurePolicy"]
  (slices,) = found["spec"]["replicatedJobs"]
  job = slices["template"]["spec"]
  assert (job["parallelism"], job["completions"]) == (4, 4)
  assert (job["completionMode"], job["backoffLimit"]) == ("Indexed", 0)
  (rule,) = job["podFailurePolicy"]["rules"]
  pod = job["template"]["spec"]
  (container,) = pod["containers"]
  assert rule["action"] == "FailJob"
  assert rule["onExitCodes"] == {
    "containerName": container["name"],
    "operator": "In",
    "values": [2, 3],
  }
  assert pod["restartPolicy"] == "Never"  # as a podFailurePolicy asks for
  assert pod["terminationGracePeriodSeconds"] == 60
  assert pod["nodeSelector"] == {
    "cloud.google.com/gke-tpu-accelerator": "tpu-v6e-slice",
    "cloud.google.com/gke-tpu-topology": "4x4",
  }
  assert container["image"] == "r/i:1"
  # Kubernetes puts values in the place of $(NAME), and a dollar in that of $$.
  args = [arg.replace("$$", "$") for arg in container["args"]]
  assert args == [*RUN[1:], ODD]
  assert "$(HOME)" not in container["args"][-1].replace("$$", "")
  # Memory is pinned by the driver; `exec` leaves signals to the run.
  assert container["securityContext"] == {
    "runAsUser": 0,
    "capabilities": {"add": ["SYS_RESOURCE"]},
  }
  *shell, program, name = container["command"]
  assert (shell, name) == (["bash", "-c"], "train")
  ulimit, run = program.split(" && ")
  assert ulimit == "ulimit -l 68719476736"
  told = subprocess.run(
    [*shell, run.replace("exec python -m udon_jax.main", "exec printf '%s\\n'"),
     name, *args],
    capture_output=True, text=True, check=True,
  )  # fmt: skip
  assert told.stdout.splitlines() == args
  resources = container["resources"]
  assert resources["limits"] == resources["requests"] == {"google.com/tpu": 4}
  spot = manifest("--spot")["spec"]["replicatedJobs"][0]["template"]["spec"]
  selector = spot["template"]["spec"]["nodeSelector"]
  assert selector["cloud.google.com/gke-spot"] == "true"


def test_the_image_holds_what_it_copies():
  """Files that the Dockerfile names exist and are not kept out."""
  text = (LAUNCH / "Dockerfile").read_text()
  kept = (LAUNCH / "Dockerfile.dockerignore").read_text()
  for line in re.findall(r"(?m)^COPY (.*) \S+$", text):
    for name in line.split():
      assert (ROOT / name).exists(), name
      assert f"!{name.split('/')[0]}\n" in kept, name
  assert 'ENTRYPOINT ["python", "-m", "udon_jax.main"]' in text


def fake_python(folder, program):
  """Makes a `python` that runs a program for `-m udon_jax.main`."""
  path = folder / "python"
  (folder / "program.py").write_text(textwrap.dedent(program))
  path.write_text(
    f'#!/bin/sh\nshift 2\nexec {sys.executable} {folder}/program.py "$@"\n'
  )
  path.chmod(0o755)
  return path


# Process 1 fails when the file "fail" appears; all end well of SIGTERM.
OBEDIENT = """
import pathlib, signal, sys, time
here = pathlib.Path(__file__).parent
number = sys.argv[-1].rpartition("=")[2]
def stop(*_):
  print("stopping", number, flush=True)
  sys.exit(143)
signal.signal(signal.SIGTERM, stop)
print("started", number, flush=True)
(here / f"started{number}").touch()
for _ in range(600):
  if (here / "fail").exists() and number == "1":
    sys.exit(7)
  if (here / "end").exists():
    sys.exit(0)
  time.sleep(0.05)
"""


def start_local(tmp_path, program=OBEDIENT):
  python = fake_python(tmp_path, program)
  started = subprocess.Popen(
    [LAUNCH / "local.sh", "--num_processes=2", f"--python={python}", *RUN],
    cwd=ROOT,
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
  )
  deadline = time.monotonic() + 20
  while not all((tmp_path / f"started{i}").exists() for i in (0, 1)):
    assert time.monotonic() < deadline
    time.sleep(0.05)
  return started


def finish(started):
  output, _ = started.communicate(timeout=30)
  return started.returncode, output


def test_local_processes_end_well_together(tmp_path):
  started = start_local(tmp_path)
  (tmp_path / "end").touch()
  code, output = finish(started)
  assert code == 0
  assert {"[0] started 0", "[1] started 1"} <= set(output.splitlines())


def test_local_processes_are_stopped_when_one_fails(tmp_path):
  started = start_local(tmp_path)
  (tmp_path / "fail").touch()
  code, output = finish(started)
  assert code == 7
  assert "[0] stopping 0" in output


@pytest.mark.parametrize(
  "number",
  [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)],
)
def test_a_signal_reaches_all_local_processes(tmp_path, number):
  started = start_local(tmp_path)
  started.send_signal(number)
  code, output = finish(started)
  assert code == 143
  assert {"[0] stopping 0", "[1] stopping 1"} <= set(output.splitlines())


# The start-up script of TPU VMs, with an environment that is there already.


def start_up(tmp_path, program, *args, **environ):
  home = tmp_path / "home"
  (home / "venv/bin").mkdir(parents=True, exist_ok=True)
  (home / "src").mkdir(exist_ok=True)
  (home / "installed").write_text("url abc\n")
  fake_python(home / "venv/bin", program)
  script = tmp_path / "start.sh"
  words = " ".join(map(shlex.quote, args))
  script.write_text(
    "#!/usr/bin/env bash\nUDON_SOURCE=url\nUDON_REF=abc\nUDON_DATA=''\n"
    f"UDON_ARGS=({words})\n" + (LAUNCH / "tpu_startup.sh").read_text()
  )
  return subprocess.Popen(
    ["bash", script],
    env={
      **os.environ,
      "UDON_HOME": str(home),
      "UDON_FIRST_PAUSE": "1",
      **environ,
    },
  )


COUNTING = """
import pathlib, sys
path = pathlib.Path(__file__).parent / "starts"
starts = len(path.read_text()) + 1 if path.exists() else 1
path.write_text("x" * starts)
codes = [int(x) for x in sys.argv[1].split(",")]
sys.exit(codes[min(starts, len(codes)) - 1])
"""


def starts(tmp_path):
  return len((tmp_path / "home/venv/bin/starts").read_text())


@pytest.mark.parametrize(
  "codes, expected, count", [("143,0", 0, 2), ("1,134,0", 0, 3), ("3", 3, 1)]
)
def test_a_vm_starts_again_as_the_exit_code_says(
  tmp_path, codes, expected, count
):
  assert start_up(tmp_path, COUNTING, codes).wait(30) == expected
  assert starts(tmp_path) == count
  # At the next boot, what ended for good stays so ...
  assert start_up(tmp_path, COUNTING, codes).wait(30) == expected
  assert starts(tmp_path) == count
  # ... until it is told to run something else.
  assert start_up(tmp_path, COUNTING, "0", "--other").wait(30) == 0
  assert starts(tmp_path) == count + 1


def test_a_vm_whose_mistake_was_cured_starts_again(tmp_path):
  """A mistake ends it, and the same command looks again."""
  assert start_up(tmp_path, COUNTING, "2,0").wait(30) == 2
  assert starts(tmp_path) == 1
  assert start_up(tmp_path, COUNTING, "2,0").wait(30) == 0
  assert starts(tmp_path) == 2


def test_a_vm_gives_up_after_failures_in_a_row(tmp_path):
  done = start_up(tmp_path, COUNTING, "1", UDON_MAX_FAILURES="2")
  assert done.wait(30) == 1
  assert starts(tmp_path) == 2
  assert "gives up after 2 failures" in (tmp_path / "home/log").read_text()


def test_a_vm_is_killed_and_goes_on(tmp_path):
  first = start_up(tmp_path, OBEDIENT, "--x=0")
  mark = tmp_path / "home/venv/bin/started0"
  deadline = time.monotonic() + 20
  while not mark.exists():
    assert time.monotonic() < deadline
    time.sleep(0.05)
  assert start_up(tmp_path, OBEDIENT, "--x=0").wait(30) == 0  # runs already
  assert "is running already" in (tmp_path / "home/log").read_text()
  first.send_signal(signal.SIGTERM)
  assert first.wait(30) == 143
  (tmp_path / "home/venv/bin/end").touch()
  assert start_up(tmp_path, OBEDIENT, "--x=0").wait(30) == 0


# Installs by waiting, for a TPU VM that has nothing yet.
GIT = """#!/usr/bin/env bash
[[ -e "{home}/broken" ]] && rm "{home}/broken" && exit 7
[[ "$1" == clone ]] || exit 0
echo "$$" >"{home}/cloning"
exec sleep 60
"""


def start_up_bare(tmp_path, *args):
  """Starts on a VM whose `git clone` hangs, without a source."""
  (tmp_path / "home").mkdir(exist_ok=True)
  (tmp_path / "git").write_text(GIT.format(home=tmp_path / "home"))
  (tmp_path / "git").chmod(0o755)
  (tmp_path / "start.sh").write_text(
    "UDON_SOURCE=https://x\nUDON_REF=abc\nUDON_DATA=''\nUDON_ARGS=(--x=1)\n"
    + (LAUNCH / "tpu_startup.sh").read_text()
  )
  return subprocess.Popen(
    ["bash", tmp_path / "start.sh", *args],
    env={
      **os.environ,
      "PATH": f"{tmp_path}:{os.environ['PATH']}",
      "UDON_HOME": str(tmp_path / "home"),
      "UDON_FIRST_PAUSE": "0",
    },
    stdout=subprocess.PIPE,
    text=True,
  )


def is_running(pid):
  try:
    os.kill(pid, 0)
  except ProcessLookupError:
    return False
  return True


def test_stopping_ends_an_installation_as_a_whole(tmp_path):
  (tmp_path / "home").mkdir()
  (tmp_path / "home/broken").touch()  # the first attempt fails
  started = start_up_bare(tmp_path)
  mark = tmp_path / "home/cloning"
  deadline = time.monotonic() + 20
  while not (mark.exists() and mark.read_text()):
    assert time.monotonic() < deadline
    time.sleep(0.05)
  started.terminate()
  assert started.wait(30) == 143
  assert (
    "preparing ended with exit code 7" in (tmp_path / "home/log").read_text()
  )
  while is_running(int(mark.read_text())):
    assert time.monotonic() < deadline
    time.sleep(0.05)
  assert not (tmp_path / "home/installed").exists()


def test_installing_alone_shows_what_goes_wrong(tmp_path):
  (tmp_path / "home").mkdir()
  (tmp_path / "home/broken").touch()
  output, _ = (started := start_up_bare(tmp_path, "install")).communicate(
    timeout=30
  )
  assert started.returncode == 7
  assert "installing https://x abc" in output
  assert "installing ended with exit code 7" in output


# Google's queue: a file holds the state of the request.

GCLOUD = """#!/usr/bin/env bash
cd "{place}"
echo "$*" >>asked
case "$*" in
  *"queued-resources describe"*) cat state 2>/dev/null ;;
  *"queued-resources delete"*) rm state ;;
  *"queued-resources create"*)
    if [[ -e no_quota ]]; then rm no_quota && exit 1; fi
    echo ACTIVE >state && touch results ;;
  *"storage ls"*) [[ -e results ]] ;;
  *"tpu-vm ssh"*) cat ended 2>/dev/null ;;
esac
"""


def watch(tmp_path):
  (tmp_path / "gcloud").write_text(GCLOUD.format(place=tmp_path))
  (tmp_path / "gcloud").chmod(0o755)
  flags = ["watch", *TPU, *KIND, *SOURCE, "--poll_seconds=1", *RUN]
  path = f"{tmp_path}:{os.environ['PATH']}"
  done = launch("tpu_queued.sh", *flags, PATH=path)
  asked = (tmp_path / "asked").read_text()
  return done, re.findall("queued-resources (create|delete)", asked)


def test_the_queue_is_asked_again_until_the_run_is_done(tmp_path):
  (tmp_path / "state").write_text("SUSPENDED")
  (tmp_path / "no_quota").touch()
  done, asked = watch(tmp_path)
  assert done.returncode == 0, done.stderr
  assert asked == ["delete", "create", "create", "delete"]
  assert "done: gs://bucket/runs/b 16/results.json" in done.stdout


def test_watching_ends_as_a_run_that_would_fail_again(tmp_path):
  (tmp_path / "state").write_text("ACTIVE")
  (tmp_path / "ended").write_text("0123abc 3\n")
  done, asked = watch(tmp_path)
  assert done.returncode == 3
  assert len(done.stderr.splitlines()) == 1
  assert not asked  # left for a look


# SLURM, whose `srun` is played by a script.

SRUN = """#!/usr/bin/env python3
import os, signal, subprocess, sys
command = sys.argv[1:]
while command[0].startswith("-"):
  open(sys.argv[0] + ".flags", "a").write(command.pop(0) + "\\n")
tasks = [
  subprocess.Popen(command, env={
    **os.environ, "SLURM_JOB_ID": "%(job)d", "SLURM_NTASKS": "2",
    "SLURM_PROCID": str(i), "SLURM_LOCALID": str(i),
    "SLURM_STEP_NODELIST": "localhost", "SLURM_STEP_NUM_NODES": "1",
  }) for i in range(2)]
def forward(number, _):
  for task in tasks:
    task.send_signal(number)
signal.signal(signal.SIGTERM, forward)
codes = [task.wait() for task in tasks]
# As srun does: the highest code, and 128 + N of signal N.
sys.exit(max(c if c >= 0 else 128 - c for c in codes))
"""


def run_slurm(tmp_path, program, srun=SRUN, **environ):
  """Runs the batch script; returns its end and what it asked SLURM for."""
  port = several.free_port()
  job = (port - (65535 - 2**12 + 1)) % 2**12  # JAX derives a port from it
  (tmp_path / "srun").write_text(srun % {"job": job})
  (tmp_path / "scontrol").write_text(
    f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\n'
  )
  for name in ("srun", "scontrol"):
    (tmp_path / name).chmod(0o755)
  python = fake_python(tmp_path, program)
  done = subprocess.run(
    [LAUNCH / "slurm.sbatch", "--x=1"],
    env={
      **os.environ,
      "PATH": f"{tmp_path}:{os.environ['PATH']}",
      "UDON_PYTHON": str(python),
      "SLURM_JOB_ID": "77",
      "XLA_FLAGS": compiling.FLAGS,
      "PYTHONPATH": str(ROOT),
      **environ,
    },
    capture_output=True,
    text=True,
    timeout=120,
    check=False,
  )
  asked = tmp_path / "asked"
  return done, asked.read_text() if asked.exists() else ""


JOINING = r"""
from udon_jax import processes
import jax
processes.join(processes.Request(None, None, None, 60, 10))
from jax.experimental import multihost_utils
multihost_utils.sync_global_devices("all")
line = f"joined {jax.process_index()} {jax.process_count()}\n"
print(line, end="", flush=True)  # in one piece: both write to one pipe
"""


def test_slurm_tasks_find_each_other(tmp_path):
  done, asked = run_slurm(tmp_path, JOINING)
  assert done.returncode == 0, done.stderr
  assert {"joined 0 2", "joined 1 2"} <= set(done.stdout.splitlines())
  assert not asked


@pytest.mark.parametrize(
  "codes, restarts, expected",
  [
    ((0, 0), 0, ""),
    ((2, 2), 0, ""),
    ((3, 3), 0, ""),
    # One says why, and the others have lost it.
    ((134, 2), 0, ""),
    ((3, 143), 0, ""),
    ((143, 143), 0, "requeue 77"),
    ((134, 0), 5, "requeue 77"),
  ],
)
def test_slurm_queues_again_as_the_exit_codes_say(
  tmp_path, codes, restarts, expected
):
  done, asked = run_slurm(
    tmp_path,
    f"import os; os._exit({codes}[int(os.environ['SLURM_PROCID'])])",
    SLURM_RESTART_COUNT=str(restarts),
    SLURM_CPUS_PER_TASK="8",
  )
  why = [code for code in codes if code in (2, 3)]
  assert done.returncode == (why[0] if why else max(codes))
  assert asked.strip() == expected
  flags = (tmp_path / "srun.flags").read_text().split()
  assert "--cpus-per-task=8" in flags  # srun does not take it from the job
  assert "--kill-on-bad-exit=0" in flags  # a killed peer would hide the code


# Says when it is there, and ends as a run that is asked to stop.
WAITING = """
import os, pathlib, signal, sys, time
place, number = pathlib.Path(__file__).parent, os.environ["SLURM_PROCID"]
def stop(*_):
  (place / f"saved{number}").touch()
  sys.exit(143)
signal.signal(signal.SIGTERM, stop)
(place / f"started{number}").touch()
time.sleep(60)
"""


@pytest.mark.parametrize(
  "shell_too, expected", [(False, "requeue 77"), (True, "")]
)
def test_slurm_queues_again_unless_cancelled(tmp_path, shell_too, expected):
  """At the end of the time the tasks are told, at `scancel` the shell too."""
  told = "os.kill(os.getppid(), signal.SIGTERM)\n" if shell_too else ""
  srun = SRUN.replace(
    "codes = [",
    "import pathlib, time\n"
    f"place = pathlib.Path({str(tmp_path)!r})\n"
    "while len(list(place.glob('started*'))) < 2: time.sleep(0.05)\n"
    f"{told}forward(signal.SIGTERM, None)\n"
    "codes = [",
  )
  done, asked = run_slurm(tmp_path, WAITING, srun=srun)
  assert done.returncode == 143, done.stderr
  assert len(list(tmp_path.glob("saved*"))) == 2
  assert asked.strip() == expected


def test_slurm_gives_up_after_many_restarts(tmp_path):
  done, asked = run_slurm(
    tmp_path,
    "raise SystemExit(143)",
    SLURM_RESTART_COUNT="3",
    UDON_MAX_RESTARTS="3",
  )
  assert (done.returncode, asked) == (143, "")


def readme_commands():
  """Returns the commands of launch/README.md."""
  text = (LAUNCH / "README.md").read_text()
  blocks = re.findall(r"```bash\n(.*?)```", text, re.DOTALL)
  lines = "".join(blocks).replace("\\\n", " ").splitlines()
  return [shlex.split(line) for line in lines if line.strip()]


def test_flags_of_the_readme_exist():
  seen = set()
  for command in readme_commands():
    name = pathlib.Path(command[0]).name
    if name in SCRIPTS:
      at = command.index("--") if "--" in command else len(command)
      done = launch(name, *command[1:at], "--dry_run", *command[at:])
      assert done.returncode == 0, (command, done.stderr)
      seen.add(name)
  assert seen == {*SCRIPTS} - {"tpu_startup.sh"}
