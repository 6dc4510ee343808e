#!/usr/bin/env bash
# Asks for TPUs in Google's queue; when they come, they train by themselves.
#
#   launch/tpu_queued.sh create --name=udon --zone=ZONE --spot \
#     --accelerator_type=v6e-16 --runtime_version=v2-alpha-tpuv6e \
#     --source=URL --ref=COMMIT --data=gs://BUCKET/uned -- \
#     --config=configs/uned_vitb16.py \
#     --config.data_dir=/opt/udon_jax/data --workdir=gs://BUCKET/runs/b16
#
# Actions; each may be repeated:
#   create  puts the request in the queue, unless it is there
#   watch   create; asks again whenever the TPUs were taken away; deletes them
#           when results.json is in the workdir; when the run has ended with 2
#           or 3, ends with that and leaves them for a look
#   status  the state of the request
#   delete  deletes request and TPUs, and ends their costs
# Logs, stop and run by hand: tpu_pod.sh with the same --name and --zone.
#
#   --name=N --zone=Z --project=P     the request, and the TPU of the same name
#   --accelerator_type=T --runtime_version=V
#   --spot                            cheaper, may be taken away
#   --valid_until_duration=6h         give up if nothing is free by then
#   --service_account=S               who reads and writes buckets
#   --source=URL --ref=COMMIT         a git repository ...
#   --source=gs://.../udon_jax.tar.gz ... or a `git archive` in a bucket
#   --data=gs://...                   copied to /opt/udon_jax/data
#   --poll_seconds=S                  of watch (default 120)
#   --dry_run                         prints the commands alone
set -euo pipefail
# shellcheck source=launch/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

declare -A FLAGS=([name]="" [zone]="" [project]="" [accelerator_type]=""
  [runtime_version]="" [spot]=false [service_account]=""
  [valid_until_duration]="" [source]="" [ref]="" [data]="" [poll_seconds]=120)
parse "$@"
action create watch status delete
tpu_flags
QUEUE=(gcloud compute tpus queued-resources)
NAME="${FLAGS[name]}"
whole poll_seconds

# Prints the state of the request, and nothing if there is none.
state() {
  "${QUEUE[@]}" describe "$NAME" "${PLACE[@]}" --format='value(state.state)' \
    2>/dev/null || true
}

create() {
  local options=(--node-id="$NAME"
    --accelerator-type="${FLAGS[accelerator_type]}"
    --runtime-version="${FLAGS[runtime_version]}"
    --metadata-from-file="startup-script=$STARTUP")
  ! "${FLAGS[spot]}" || options+=(--spot)
  [[ -z "${FLAGS[valid_until_duration]}" ]] ||
    options+=(--valid-until-duration="${FLAGS[valid_until_duration]}")
  [[ -z "${FLAGS[service_account]}" ]] ||
    options+=(--service-account="${FLAGS[service_account]}")
  do_it "${QUEUE[@]}" create "$NAME" "${PLACE[@]}" "${options[@]}"
}

# --force deletes the TPU with the request.
delete() { do_it "${QUEUE[@]}" delete "$NAME" "${PLACE[@]}" --force --quiet; }

# Prints the exit code of a run that has ended for good.
ended() {
  timeout 60 gcloud compute tpus tpu-vm ssh "$NAME" "${PLACE[@]}" --worker=0 \
    --command="sudo cat /opt/udon_jax/ended" </dev/null 2>/dev/null |
    sed -n 's/.* //p' || true
}

watch() {
  local arg workdir="" now code seen=0
  for arg in "${ARGS[@]}"; do
    [[ "$arg" != --workdir=* ]] || workdir="${arg#--workdir=}"
  done
  [[ "$workdir" == gs://* ]] ||
    die "--workdir=$workdir cannot be watched from here; write gs://BUCKET/..."
  while :; do
    now="$(state)"
    # Seen twice: the report is written after the results.
    if gcloud storage ls "$workdir/results.json" >/dev/null 2>&1; then
      seen=$((seen + 1))
    fi
    if ((seen >= 2)); then
      echo "done: $workdir/results.json"
      [[ -z "$now" ]] || delete
      return
    fi
    echo "$(date -u +%FT%TZ) $NAME: ${now:-not in the queue}"
    case "$now" in
      # What fails now, for want of quota perhaps, is tried again.
      SUSPENDED | FAILED) delete && create || true ;;
      "") ((seen > 0)) || create || true ;;
      ACTIVE)
        code="$(ended)"
        if [[ "$code" == [23] ]]; then
          echo "error: the run ended with $code; the TPUs stand and cost: see tpu_pod.sh logs, then delete" >&2
          exit "$code"
        fi
        ;;
    esac
    sleep "${FLAGS[poll_seconds]}"
  done
}

case "$ACTION" in
  create | watch)
    require accelerator_type runtime_version
    tpu_script
    if $DRY_RUN; then
      create
    elif [[ "$ACTION" == watch ]]; then
      watch
    elif now="$(state)" && [[ -n "$now" ]]; then
      echo "$NAME is in the queue already: $now"
    else
      create
    fi
    ;;
  status)
    do_it "${QUEUE[@]}" describe "$NAME" "${PLACE[@]}" \
      --format='value(state.state)'
    ;;
  delete)
    if $DRY_RUN || [[ -n "$(state)" ]]; then
      delete
    else
      echo "$NAME is gone already"
    fi
    ;;
esac
