#!/usr/bin/env bash
# Trains with several processes on this machine.
#
#   launch/local.sh --num_processes=2 --gpus_per_process=1 -- \
#     --config=configs/uned_vitb16.py --workdir=runs/b16
#
# Each line is led by the number of its process. When one process fails, or on
# SIGTERM or Ctrl-C, all are asked once to save and stop. The exit code is that
# of the first process that failed; 2 and 3, which say why, go first.
#
#   --num_processes=N     how many
#   --gpus_per_process=K  GPUs of each, in order of CUDA_VISIBLE_DEVICES if set
#   --cpu_devices=K       trains on the CPU instead, as K devices per process
#   --port=P              of process 0; 0 (default) finds a free one
#   --log_dir=DIR         appends to DIR/process_<i>.log, prints nothing
#   --grace_seconds=S     from asking to killing (default 300)
#   --python=PATH         (default python)
#   --dry_run             prints the commands alone
set -euo pipefail
# shellcheck source=launch/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

declare -A FLAGS=([num_processes]="" [gpus_per_process]="" [cpu_devices]=""
  [port]=0 [log_dir]="" [grace_seconds]=300 [python]=python)
parse "$@"
[[ -z "$ACTION" ]] || die "'$ACTION' is no flag; see $0 --help"
require num_processes
whole num_processes grace_seconds
for key in gpus_per_process cpu_devices; do
  [[ -z "${FLAGS[$key]}" ]] || whole "$key"
done
[[ -z "${FLAGS[gpus_per_process]}" || -z "${FLAGS[cpu_devices]}" ]] ||
  die "--gpus_per_process and --cpu_devices exclude each other; give one"
[[ "${FLAGS[port]}" =~ ^[0-9]+$ ]] || die "--port=${FLAGS[port]} is no port"
require_args runs/b16
N="${FLAGS[num_processes]}"

free_port() {
  local port
  for _ in {1..100}; do
    port=$((20000 + RANDOM % 12000))
    # A port is free if nobody answers there.
    if ! (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then
      echo "$port"
      return
    fi
  done
  die "--port=0 found no free port; name one"
}

PORT="${FLAGS[port]}"
[[ "$PORT" != 0 ]] || PORT="$(free_port)"

# Sets COMMAND to that of process $1.
set_command() {
  local k="${FLAGS[gpus_per_process]}" visible=() settings=()
  if [[ -n "$k" ]]; then
    IFS=, read -ra visible <<<"${CUDA_VISIBLE_DEVICES:-$(seq -s, 0 $((N * k - 1)))}"
    ((${#visible[@]} >= N * k)) ||
      die "--gpus_per_process=$k for $N processes needs $((N * k)) GPUs; CUDA_VISIBLE_DEVICES names ${#visible[@]}"
    local IFS=,
    settings=("CUDA_VISIBLE_DEVICES=${visible[*]:$1*k:k}")
  elif [[ -n "${FLAGS[cpu_devices]}" ]]; then
    settings=(JAX_PLATFORMS=cpu
      "XLA_FLAGS=${XLA_FLAGS:+$XLA_FLAGS }--xla_force_host_platform_device_count=${FLAGS[cpu_devices]}")
  fi
  COMMAND=(env "${settings[@]}" "${FLAGS[python]}" -m udon_jax.main "${ARGS[@]}")
  ((N == 1)) || COMMAND+=("--coordinator_address=127.0.0.1:$PORT"
    "--num_processes=$N" "--process_id=$1")
}

if $DRY_RUN; then
  for ((i = 0; i < N; i++)); do set_command "$i" && quoted "${COMMAND[@]}"; done
  exit 0
fi
need "${FLAGS[python]}" "activate its environment or give --python=PATH"

pids=() printers=() code=0 asked=false
# Asks all that still run, once.
ask() {
  $asked && return
  asked=true
  deadline=$((SECONDS + FLAGS[grace_seconds]))
  for pid in "${pids[@]}"; do kill -TERM "$pid" 2>/dev/null || true; done
}
trap ask TERM INT HUP

# A group of its own for each, so that Ctrl-C reaches them through `ask` alone.
set -m
[[ -z "${FLAGS[log_dir]}" ]] || mkdir -p "${FLAGS[log_dir]}"
for ((i = 0; i < N; i++)); do
  set_command "$i"
  if [[ -n "${FLAGS[log_dir]}" ]]; then
    exec {out}>>"${FLAGS[log_dir]}/process_$i.log"
  else
    exec {out}> >(trap '' INT TERM && exec sed -u "s/^/[$i] /")
    printers+=("$!")
  fi
  "${COMMAND[@]}" </dev/null >&"$out" 2>&1 {out}>&- &
  pids+=("$!")
  exec {out}>&-
done
! $asked || { asked=false && ask; } # a signal while they were started

running=("${pids[@]}")
while ((${#running[@]})); do
  sleep 0.2 &
  wait "$!" || true # returns at once when a signal comes
  left=()
  for pid in "${running[@]}"; do
    if kill -0 "$pid" 2>/dev/null; then
      left+=("$pid")
      continue
    fi
    ended=0
    wait "$pid" || ended=$?
    ((ended == 0)) || ask
    if ((code == 0)) || [[ $code != [23] && $ended == [23] ]]; then
      code=$ended
    fi
  done
  running=("${left[@]}")
  if $asked && ((SECONDS >= deadline)); then
    for pid in "${running[@]}"; do kill -KILL -- "-$pid" 2>/dev/null || true; done
  fi
done
for pid in "${printers[@]}"; do
  for _ in {1..50}; do
    kill -0 "$pid" 2>/dev/null || break
    sleep 0.1
  done
done
exit "$code"
