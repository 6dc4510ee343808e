#!/usr/bin/env bash
# Trains on the GPUs of a SLURM cluster.
#
#   launch/slurm.sh --nodes=2 --gpus_per_node=8 --time=12:00:00 -- \
#     --config=configs/uned_vitb16.py --workdir=/shared/runs/b16
#
# Submits launch/slurm.sbatch. One task drives one GPU, because that is what JAX
# takes from SLURM: each task sees all GPUs of its node and takes the one of its
# SLURM_LOCALID. The job is submitted from, and runs in, the current folder,
# which all nodes must see, as they must see workdir and data.
#
#   --nodes=N             how many
#   --gpus_per_node=K     GPUs and tasks of each
#   --cpus_per_gpu=C      cores of each task (default 8)
#   --mem=M               of each node, as sbatch has it (default 0, all)
#   --time=T              limit of one job; the run goes on in the next
#   --stop_seconds=S      from the signal to save to that limit (default 300)
#   --partition=P --account=A --constraint=F    as sbatch has them
#   --name=N              of the job (default udon_jax)
#   --log=FILE            default udon_jax-%j.log; all jobs of the run append
#   --python=PATH         one that all nodes see (default: that of the PATH)
#   --dry_run             prints the command alone
# Anything else: the SBATCH_* variables of sbatch, for example SBATCH_QOS.
set -euo pipefail
# shellcheck source=launch/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

declare -A FLAGS=([nodes]="" [gpus_per_node]="" [cpus_per_gpu]=8 [mem]=0
  [time]="" [stop_seconds]=300 [partition]="" [account]="" [constraint]=""
  [name]=udon_jax [log]=udon_jax-%j.log [python]="")
parse "$@"
[[ -z "$ACTION" ]] || die "'$ACTION' is no flag; see $0 --help"
require nodes gpus_per_node time name log
whole nodes gpus_per_node cpus_per_gpu stop_seconds
[[ "${FLAGS[time]}" =~ ^([0-9]+-)?[0-9]+(:[0-9]+){0,2}$ ]] ||
  die "--time=${FLAGS[time]} is no time; write HOURS:MINUTES:SECONDS"
[[ "${FLAGS[mem]}" =~ ^[0-9]+[KMGT]?$ ]] ||
  die "--mem=${FLAGS[mem]} is no size; write 200G, or 0 for all of a node"
require_args /shared/runs/b16
if [[ -z "${FLAGS[python]}" ]]; then
  FLAGS[python]="$(command -v python || echo python)"
fi
if ! $DRY_RUN; then
  need sbatch "run this on a login node of the cluster"
  need "${FLAGS[python]}" "activate its environment or give --python=PATH"
fi

options=(--job-name="${FLAGS[name]}" --output="${FLAGS[log]}"
  --nodes="${FLAGS[nodes]}" --ntasks-per-node="${FLAGS[gpus_per_node]}"
  --gpus-per-node="${FLAGS[gpus_per_node]}"
  --cpus-per-task="${FLAGS[cpus_per_gpu]}" --mem="${FLAGS[mem]}"
  --time="${FLAGS[time]}" --signal="TERM@${FLAGS[stop_seconds]}")
for key in partition account constraint; do
  [[ -z "${FLAGS[$key]}" ]] || options+=("--$key=${FLAGS[$key]}")
done
do_it sbatch "${options[@]}" "$LAUNCH_DIR/slurm.sbatch" "${FLAGS[python]}" \
  -m udon_jax.main "${ARGS[@]}"
