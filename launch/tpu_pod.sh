#!/usr/bin/env bash
# Trains on a TPU VM or pod slice that you create and delete yourself.
#
#   launch/tpu_pod.sh create --name=udon --zone=ZONE \
#     --accelerator_type=v6e-16 --runtime_version=v2-alpha-tpuv6e
#   launch/tpu_pod.sh run --name=udon --zone=ZONE --source=URL --ref=COMMIT \
#     --data=gs://BUCKET/uned -- --config=configs/uned_vitb16.py \
#     --config.data_dir=/opt/udon_jax/data --workdir=gs://BUCKET/runs/b16
#
# Actions; each may be repeated:
#   create  makes the TPU, unless it is there
#   install brings code and data to all workers, as `run` does if it must
#   run     starts the run on all workers, unless it runs; a lost connection
#           does not end it, a failed process starts again
#   status  the last line of every worker's log
#   logs    follows the log of one worker
#   stop    asks all to save and stop; `run` again continues
#   delete  deletes the TPU and ends its costs
#
#   --name=N --zone=Z --project=P     the TPU (project: gcloud's by default)
#   --accelerator_type=T --runtime_version=V   of create
#   --spot                            of create: cheaper, may be taken away
#   --service_account=S               of create: who reads and writes buckets
#   --source=URL --ref=COMMIT         of install, run: a git repository ...
#   --source=gs://.../udon_jax.tar.gz ... or a `git archive` in a bucket
#   --data=gs://...                   of install, run: copied to /opt/udon_jax/data
#   --worker=I                        of logs (default 0)
#   --internal_ip                     ssh through the VPC
#   --dry_run                         prints the commands alone
set -euo pipefail
# shellcheck source=launch/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

declare -A FLAGS=([name]="" [zone]="" [project]="" [accelerator_type]=""
  [runtime_version]="" [spot]=false [service_account]="" [source]="" [ref]=""
  [data]="" [worker]=0 [internal_ip]=false)
parse "$@"
action create install run status logs stop delete
tpu_flags
TPU=(gcloud compute tpus tpu-vm)
NAME="${FLAGS[name]}"
SSH=("${PLACE[@]}")
! "${FLAGS[internal_ip]}" || SSH+=(--internal-ip)

# on_workers WHICH COMMAND
on_workers() {
  do_it "${TPU[@]}" ssh "$NAME" "${SSH[@]}" --worker="$1" --command="$2"
}
there() { "${TPU[@]}" describe "$NAME" "${PLACE[@]}" >/dev/null 2>&1; }

case "$ACTION" in
  create)
    require accelerator_type runtime_version
    if ! $DRY_RUN && there; then
      echo "$NAME is there already"
      exit 0
    fi
    options=(--accelerator-type="${FLAGS[accelerator_type]}"
      --version="${FLAGS[runtime_version]}")
    ! "${FLAGS[spot]}" || options+=(--spot)
    [[ -z "${FLAGS[service_account]}" ]] ||
      options+=(--service-account="${FLAGS[service_account]}")
    do_it "${TPU[@]}" create "$NAME" "${PLACE[@]}" "${options[@]}"
    ;;
  install | run)
    tpu_script
    do_it "${TPU[@]}" scp "$STARTUP" "$NAME:udon_jax_start.sh" "${SSH[@]}" \
      --worker=all
    if [[ "$ACTION" == install ]]; then
      on_workers all "sudo bash udon_jax_start.sh install"
    else
      # In a session of its own: it outlives the connection.
      on_workers all "sudo setsid --fork bash udon_jax_start.sh </dev/null >/dev/null 2>&1; sleep 2; sudo tail -n 1 /opt/udon_jax/log"
    fi
    ;;
  status) on_workers all "sudo tail -n 1 /opt/udon_jax/log" ;;
  logs) on_workers "${FLAGS[worker]}" "sudo tail -n 100 -F /opt/udon_jax/log" ;;
  stop)
    # shellcheck disable=SC2016 # for the shell over there
    on_workers all 'sudo bash -c '\''[ ! -e /opt/udon_jax/pid ] || kill -TERM "$(cat /opt/udon_jax/pid)"'\'
    ;;
  delete)
    if ! $DRY_RUN && ! there; then
      echo "$NAME is gone already"
      exit 0
    fi
    do_it "${TPU[@]}" delete "$NAME" "${PLACE[@]}" --quiet
    ;;
esac
