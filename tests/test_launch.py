"""The scripts of launch/, as far as a machine without a cluster can tell."""

import json
import re
import shlex
import shutil
import signal
import socket
import sys
import time

import pytest

from tests import launching

LAUNCH = launching.LAUNCH
ARGS = ["--config=configs/quickstart.py", "--workdir=gs://bucket/run"]
TPU = ["--name=udon", "--zone=zone"]
KIND = ["--accelerator_type=v6e-16", "--runtime_version=v2-alpha-tpuv6e"]
SOURCE = ["--source=https://host/udon_jax", "--ref=abc"]
SLURM = ["--nodes=2", "--gpus_per_node=4", "--time=1-12:00:00"]
GKE = [
  *("--name=b16", "--image=host/project/udon:1", "--topology=4x4"),
  *("--accelerator=tpu-v6e-slice", "--chips_per_host=4"),
]
SCRIPTS = ("local", "tpu_pod", "tpu_queued", "slurm", "gke")


@pytest.fixture
def place(tmp_path):
  return launching.Place(tmp_path)


def until(is_so):
  """Waits until something is so."""
  deadline = time.monotonic() + 30
  while not is_so():
    assert time.monotonic() < deadline
    time.sleep(0.02)


def script(name):
  return LAUNCH / f"{name}.sh"


def test_shellcheck_finds_nothing(place):
  # That of the environment comes first.
  path = f"{sys.prefix}/bin:/usr/local/bin:/usr/bin:/bin"
  shellcheck = shutil.which("shellcheck", path=path)
  assert shellcheck, "install the extra `test`"
  files = [*LAUNCH.glob("*.sh"), *LAUNCH.glob("*.sbatch")]
  assert len(files) == len(SCRIPTS) + 3
  found = place.run(
    shellcheck, "--external-sources", f"--source-path={LAUNCH.parent}", *files
  )
  assert found == (0, "", "")


@pytest.mark.parametrize("name", SCRIPTS)
def test_help_names_the_flags_that_exist(place, name):
  code, text, _ = place.run(script(name), "--help")
  assert code == 0
  declared = re.search(r"FLAGS=\((.*?)\)\n", script(name).read_text(), re.S)[1]
  flags = set(re.findall(r"\[(\w+)\]=", declared))
  named = set(re.findall(r"--(\w+)", text)) - {"dry_run", "help"}
  of_the_run = {"config", "workdir"}
  assert named - of_the_run == flags


DRY_RUNS = {
  "local --num_processes=1": ["env python -m udon_jax.main RUN"],
  "local --num_processes=2 --port=5000 --gpus_per_process=2": [
    "env CUDA_VISIBLE_DEVICES=0\\,1 python -m udon_jax.main RUN "
    "--coordinator_address=127.0.0.1:5000 --num_processes=2 --process_id=0",
    "env CUDA_VISIBLE_DEVICES=2\\,3 python -m udon_jax.main RUN "
    "--coordinator_address=127.0.0.1:5000 --num_processes=2 --process_id=1",
  ],
  "local --num_processes=1 --cpu_devices=4": [
    "env JAX_PLATFORMS=cpu XLA_FLAGS=--xla_force_host_platform_device_count=4 "
    "python -m udon_jax.main RUN"
  ],
  f"tpu_pod create {shlex.join(TPU + KIND)} --spot --project=p": [
    "gcloud compute tpus tpu-vm create udon --zone=zone --project=p "
    "--accelerator-type=v6e-16 --version=v2-alpha-tpuv6e --spot"
  ],
  f"tpu_pod status {shlex.join(TPU)} --internal_ip": [
    "gcloud compute tpus tpu-vm ssh udon --zone=zone --internal-ip "
    "--worker=all --command=sudo\\ tail\\ -n\\ 1\\ /opt/udon_jax/log"
  ],
  f"tpu_pod delete {shlex.join(TPU)}": [
    "gcloud compute tpus tpu-vm delete udon --zone=zone --quiet"
  ],
  f"tpu_queued status {shlex.join(TPU)}": [
    "gcloud compute tpus queued-resources describe udon --zone=zone "
    "--format=value\\(state.state\\)"
  ],
  f"tpu_queued delete {shlex.join(TPU)}": [
    "gcloud compute tpus queued-resources delete udon --zone=zone "
    "--force --quiet"
  ],
  f"slurm {shlex.join(SLURM)} --partition=gpu --python=/env/python": [
    "sbatch --job-name=udon_jax --output=udon_jax-%j.log --nodes=2 "
    "--ntasks-per-node=4 --gpus-per-node=4 --cpus-per-task=8 --mem=0 "
    f"--time=1-12:00:00 --signal=TERM@300 --partition=gpu {LAUNCH}/slurm.sbatch"
    " /env/python -m udon_jax.main RUN"
  ],
  "gke build --image=host/udon:1 --extra=cuda": [
    f"docker build --file={LAUNCH.parent}/Dockerfile --tag=host/udon:1 "
    f"--platform=linux/amd64 --build-arg=EXTRA=cuda {LAUNCH.parent}",
    "docker push host/udon:1",
  ],
  "gke delete --name=b16 --namespace=n": [
    "kubectl --namespace=n delete jobset b16 --ignore-not-found"
  ],
}


@pytest.mark.parametrize("command", DRY_RUNS)
def test_dry_runs_print_and_need_nothing(place, command):
  name, *flags = shlex.split(command)
  code, output, errors = place.run(
    script(name), *flags, "--dry_run", "--", *ARGS
  )
  wanted = [line.replace("RUN", shlex.join(ARGS)) for line in DRY_RUNS[command]]
  assert (code, output.splitlines(), errors) == (0, wanted, "")


def test_words_of_the_run_arrive_as_they_were(place):
  odd = ["--config.domains=('cars', 'met')", '--config.x="$HOME" \\ `&`']
  _, output, _ = place.run(
    *(script("local"), "--num_processes=1", "--dry_run", "--", *ARGS, *odd)
  )
  assert shlex.split(output)[4:] == [*ARGS, *odd]
  _, output, _ = place.run(
    *(script("gke"), "run", "--dry_run", *GKE, "--", *ARGS, *odd)
  )
  args = json.loads(re.search(r"args: (.*)", output)[1])
  # Kubernetes makes one dollar of two.
  assert [arg.replace("$$", "$") for arg in args] == [*ARGS, *odd]


MISTAKES = {
  "local": "--num_processes is missing",
  "local --num_processes=0": "--num_processes=0 is no whole number",
  "local --num_processes": "--num_processes has no value",
  "local --processes=2": "--processes is unknown",
  "local --num_processes=2 three": "'three' is no flag",
  "local --num_processes=1 --gpus_per_process=1 --cpu_devices=1": "exclude",
  "tpu_pod": "say what to do",
  "tpu_pod melt": "'melt' is none of: create",
  "tpu_pod create --zone=z": "--name is missing",
  "tpu_pod create --name=Udon --zone=z": "--name=Udon is no name",
  f"tpu_pod create {shlex.join(TPU)}": "--accelerator_type is missing",
  f"tpu_pod run {shlex.join(TPU)}": "--source is missing",
  f"tpu_pod run {shlex.join(TPU)} --source=https://x": "--ref is missing",
  f"tpu_pod run {shlex.join(TPU + SOURCE)} -- --config=c": "--workdir is missing",
  f"tpu_pod run {shlex.join(TPU + SOURCE)} -- --config=c --workdir=w": (
    "--workdir=w is on the disk of one host"
  ),
  f"tpu_queued create {shlex.join(TPU)}": "--accelerator_type is missing",
  "slurm --nodes=1 --gpus_per_node=8": "--time is missing",
  "slurm --nodes=1 --gpus_per_node=8 --time=soon": "--time=soon is no time",
  f"slurm {shlex.join(SLURM)} --mem=lots": "--mem=lots is no size",
  "gke build --image=i --extra=rocm": "--extra=rocm is none of tpu, cuda, cpu",
  "gke run": "--name is missing",
  f"gke run {shlex.join(GKE)} --topology=16": "--topology=16 is no topology",
  f"gke run {shlex.join(GKE)} --chips_per_host=3": "--chips_per_host=3 does not",
}


@pytest.mark.parametrize("command", MISTAKES)
def test_mistakes_are_one_line(place, command):
  name, _, rest = command.partition(" ")
  flags = shlex.split(rest)
  run = [] if "--" in flags else ["--", *ARGS]
  code, output, errors = place.run(script(name), "--dry_run", *flags, *run)
  assert (code, output) == (2, "")
  assert re.fullmatch(r"error: [^\n]+\n", errors)
  assert MISTAKES[command] in errors


@pytest.mark.parametrize(
  ("command", "tool"),
  [
    ([script("tpu_pod"), "create", *TPU, *KIND], "gcloud"),
    ([script("tpu_queued"), "status", *TPU], "gcloud"),
    ([script("slurm"), *SLURM, "--", *ARGS], "sbatch"),
    ([script("gke"), "run", *GKE, "--", *ARGS], "kubectl"),
    ([script("gke"), "build", "--image=i"], "docker"),
    (
      [script("local"), "--num_processes=1", "--python=py", "--", *ARGS],
      "py",
    ),
  ],
)
def test_a_missing_tool_is_one_line(place, command, tool):
  code, output, errors = place.run(*command)
  assert (code, output) == (2, "")
  assert re.fullmatch(rf"error: {tool} is not installed; [^\n]+\n", errors)


def local(place, config, *flags):
  return place.start(
    *(script("local"), "--num_processes=2", *flags, "--"),
    *(f"--config={config}", "--workdir=runs/x"),
  )


def test_local_processes_join(place):
  process = local(place, "join", "--cpu_devices=2")
  output, errors = process.communicate(timeout=60)
  assert process.returncode == 0, (output, errors)
  lines = [f"[{i}] sum 3 devices 4 local 2" for i in range(2)]
  assert sorted(x for x in output.splitlines() if "sum" in x) == lines


@pytest.mark.parametrize("code", [7, 3])
def test_local_ends_all_when_one_ends_badly(place, code):
  (place.state / "process_2").touch()
  process = local(place, f"end:1:{code}")
  assert process.wait(timeout=30) == code
  assert place.words(0) == ["started", "saved"]
  assert place.words(1) == ["started"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_local_asks_all_to_save_and_stop(place, number):
  process = local(place, "wait", f"--log_dir={place.folder}/logs")
  until(lambda: all(place.words(i) for i in range(2)))
  process.send_signal(number)
  assert process.wait(timeout=30) == 143
  assert all(place.words(i) == ["started", "saved"] for i in range(2))
  assert (place.folder / "logs/process_1.log").exists()


def test_local_kills_who_does_not_stop(place):
  main = place.folder / "udon_jax/main.py"
  stubborn = 'signal.signal(signal.SIGTERM, signal.SIG_IGN)\nnote("started")'
  main.write_text(launching.PROGRAM.replace('note("started")', stubborn))
  process = local(place, "wait", "--grace_seconds=1")
  until(lambda: all(place.words(i) for i in range(2)))
  process.terminate()
  assert process.wait(timeout=30) == 137


def slurm_job(place):
  """Returns the variables of a job whose port is free."""
  place.shim(
    "srun",
    'while [[ "$1" == -* ]]; do shift; done\n'
    "for i in 0 1; do\n"
    '  SLURM_PROCID=$i SLURM_LOCALID=$i "$@" & pids+=($!)\n'
    "done\n"
    'for pid in "${pids[@]}"; do\n'
    '  wait "$pid"; got=$?; ((got <= code)) || code=$got\n'
    "done\n"
    'exit "${code:-0}"',
  )
  place.shim("scontrol", 'echo "$@" >>"$STATE/scontrol"')
  with socket.socket() as free:
    for port in range(61440, 65536):  # where JAX puts its coordinator
      try:
        free.bind(("localhost", port))
        break
      except OSError:
        continue
  return {
    "SLURM_JOB_ID": str(port - 61440 + 4096),
    "SLURM_NTASKS": "2",
    "SLURM_STEP_NODELIST": "localhost",
    "SLURM_STEP_NUM_NODES": "1",
    "SLURM_CPUS_PER_TASK": "8",
  }


def in_slurm(place, config, **environment):
  return place.start(
    *(LAUNCH / "slurm.sbatch", "python", "-m", "udon_jax.main"),
    *(f"--config={config}", "--workdir=runs/x"),
    **{**slurm_job(place), **environment},
  )


def test_slurm_tasks_find_each_other(place):
  output, errors = in_slurm(place, "join").communicate(timeout=60)
  assert output.count("sum 3 devices 2 local 1") == 2, errors
  assert not (place.state / "scontrol").exists()


@pytest.mark.parametrize(
  ("code", "restarts", "requeued"),
  [(0, 9, 0), (2, 0, 0), (3, 0, 0), (143, 9, 1), (134, 0, 1), (134, 9, 0)],
)
def test_slurm_requeues_what_is_to_go_on(place, code, restarts, requeued):
  job = in_slurm(place, f"codes:{code}", SLURM_RESTART_COUNT=str(restarts))
  assert job.wait(timeout=30) == code
  told = place.state / "scontrol"
  lines = told.read_text().splitlines() if told.exists() else []
  assert len(lines) == requeued
  assert all(re.fullmatch(r"requeue \d+", line) for line in lines)


def test_slurm_leaves_a_cancelled_job_alone(place):
  import os  # noqa: PLC0415

  job = in_slurm(place, "wait")
  until(lambda: all(place.words(i) for i in range(2)))
  os.killpg(job.pid, signal.SIGTERM)  # shell and tasks, as scancel does
  job.wait(timeout=30)
  assert all(place.words(i) == ["started", "saved"] for i in range(2))
  assert not (place.state / "scontrol").exists()
