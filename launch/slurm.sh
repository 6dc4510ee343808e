#!/usr/bin/env bash
# Submits a run to SLURM, on one or several GPU nodes.
#
#   launch/slurm.sh --nodes=2 --gpus_per_node=8 --time=24:00:00 \
#     --python=.venv/bin/python -- --config=configs/uned_vitb16.py \
#     --workdir=/shared/runs/b16
#
# One task a GPU, as JAX expects of SLURM: each task sees the GPU of its local
# number. Before the time is up SLURM sends SIGTERM; the run saves, ends with
# 143 and is queued again, as after a lost node. 0, 2 and 3 end it for good.
#
#   --nodes=N --gpus_per_node=K    the devices
#   --time=HH:MM:SS                longest time of one start
#   --cpus_per_gpu=C               cores that read images (default 8)
#   --partition=P --account=A --job_name=J (default udon)
#   --grace_seconds=S              from SIGTERM to the end (default 300)
#   --max_restarts=R               (default 100)
#   --log=FILE                     (default <workdir>/slurm-%j.log)
#   --python=PATH                  (default python)
#   --dry_run                      prints the command alone
set -euo pipefail
# shellcheck source=launch/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

declare -A FLAGS=([nodes]="" [gpus_per_node]="" [time]="" [cpus_per_gpu]=8
  [partition]="" [account]="" [job_name]=udon [grace_seconds]=300
  [max_restarts]=100 [log]="" [python]=python)
parse "$@"
[[ -z "$ACTION" ]] || die "'$ACTION' is no flag; see $0 --help"
require nodes gpus_per_node time
whole nodes gpus_per_node cpus_per_gpu grace_seconds max_restarts
[[ "${FLAGS[time]}" =~ ^([0-9]+-)?[0-9]+(:[0-9]+){0,2}$ ]] ||
  die "--time=${FLAGS[time]} is no time; write HH:MM:SS or DAYS-HH"
require_args /shared/runs/b16
workdir="runs"
for arg in "${ARGS[@]}"; do
  [[ "$arg" != --workdir=* ]] || workdir="${arg#*=}"
done
log="${FLAGS[log]}"
if [[ -z "$log" ]]; then
  if [[ "$workdir" == *://* ]]; then log="slurm-%j.log"; else log="$workdir/slurm-%j.log"; fi
fi

command=(sbatch --job-name="${FLAGS[job_name]}" --nodes="${FLAGS[nodes]}"
  --ntasks-per-node="${FLAGS[gpus_per_node]}"
  --gres="gpu:${FLAGS[gpus_per_node]}"
  --cpus-per-task="${FLAGS[cpus_per_gpu]}" --time="${FLAGS[time]}"
  --signal="TERM@${FLAGS[grace_seconds]}" --requeue --open-mode=append
  --output="$log")
[[ -z "${FLAGS[partition]}" ]] || command+=(--partition="${FLAGS[partition]}")
[[ -z "${FLAGS[account]}" ]] || command+=(--account="${FLAGS[account]}")
command+=(--export="ALL,UDON_PYTHON=${FLAGS[python]},UDON_MAX_RESTARTS=${FLAGS[max_restarts]}"
  "$LAUNCH_DIR/slurm.sbatch" "${ARGS[@]}")
if ! $DRY_RUN; then
  need sbatch "run this where SLURM is"
  [[ "$log" == *://* ]] || mkdir -p "$(dirname "$log")"
fi
do_it "${command[@]}"
