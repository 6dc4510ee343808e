#!/usr/bin/env bash
# Trains on TPUs of a GKE cluster, as a JobSet.
#
#   launch/gke.sh build --image=REGION-docker.pkg.dev/PROJECT/udon/udon:1
#   launch/gke.sh create --name=udon --image=... --accelerator=tpu-v6e-slice \
#     --topology=4x4 --hosts=4 --chips_per_host=4 -- \
#     --config=configs/uned_vitb16.py --config.data_dir=gs://BUCKET/uned \
#     --workdir=gs://BUCKET/runs/b16
#
# Actions; each may be repeated:
#   build   builds the image of this checkout and pushes it
#   create  starts the run; when a pod is lost all start again and continue
#   status  the pods
#   logs    follows the first pod
#   delete  ends the run; its checkpoints stay
#
#   --name=N --namespace=S (default "default")
#   --image=I --extra=E            E: tpu (default), cuda or cpu, of build
#   --accelerator=A --topology=T   labels of the node pool
#   --hosts=H --chips_per_host=C   of the slice
#   --service_account=K            Kubernetes account that reads and writes
#                                  buckets (default "default")
#   --spot                         takes nodes that may be taken away
#   --max_restarts=R               (default 100)
#   --grace_seconds=S              from SIGTERM to the end (default 300)
#   --dry_run                      prints commands and manifest alone
set -euo pipefail
# shellcheck source=launch/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

declare -A FLAGS=([name]="" [namespace]=default [image]="" [extra]=tpu
  [accelerator]="" [topology]="" [hosts]="" [chips_per_host]=""
  [service_account]=default [spot]=false [max_restarts]=100
  [grace_seconds]=300)
parse "$@"
action build create status logs delete
KUBECTL=(kubectl --namespace="${FLAGS[namespace]}")

needs_name() {
  require name
  named name
  $DRY_RUN || need kubectl "see https://kubernetes.io/docs/tasks/tools"
}

# Prints the manifest: gke/jobset.yaml with @NAME@ replaced by values.
manifest() {
  local text arg value args=""
  text="$(cat "$LAUNCH_DIR/gke/jobset.yaml")"
  for arg in "${ARGS[@]}"; do
    # A string of JSON is one of YAML too.
    value="${arg//\\/\\\\}" && value="${value//\"/\\\"}"
    value="${value//\$/\$\$}" # Kubernetes makes one of two
    args+="${args:+, }\"$value\""
  done
  local spot="false"
  ! "${FLAGS[spot]}" || spot="true"
  text="${text//@SPOT@/"$spot"}"
  for key in name namespace image accelerator topology hosts chips_per_host \
    service_account max_restarts grace_seconds; do
    text="${text//@${key^^}@/"${FLAGS[$key]}"}"
  done
  if ! "${FLAGS[spot]}"; then
    text="$(sed '/# spot$/d' <<<"$text")"
  fi
  # The last: words of the run are not looked into.
  printf '%s\n' "${text//@ARGS@/"$args"}"
}

# Ends unless hosts and chips make up the topology: pods would wait for ever.
check_topology() {
  local sides side chips=1 given
  [[ "${FLAGS[topology]}" =~ ^[1-9][0-9]*(x[1-9][0-9]*){1,2}$ ]] ||
    die "--topology=${FLAGS[topology]} is no topology; write 4x4"
  IFS=x read -ra sides <<<"${FLAGS[topology]}"
  for side in "${sides[@]}"; do chips=$((chips * side)); done
  given=$((FLAGS[hosts] * FLAGS[chips_per_host]))
  ((chips == given)) ||
    die "--topology=${FLAGS[topology]} has $chips chips, --hosts=${FLAGS[hosts]} of --chips_per_host=${FLAGS[chips_per_host]} have $given; make them agree"
}

case "$ACTION" in
  build)
    require image
    [[ "${FLAGS[extra]}" =~ ^(tpu|cuda|cpu)$ ]] ||
      die "--extra=${FLAGS[extra]} is none of tpu, cuda, cpu"
    $DRY_RUN || need docker "see https://docs.docker.com/engine/install"
    do_it docker build --build-arg EXTRA="${FLAGS[extra]}" \
      --tag "${FLAGS[image]}" --file "$LAUNCH_DIR/Dockerfile" "$ROOT_DIR"
    do_it docker push "${FLAGS[image]}"
    ;;
  create)
    needs_name
    require image accelerator topology hosts chips_per_host
    whole hosts chips_per_host max_restarts grace_seconds
    check_topology
    require_args gs://BUCKET/runs/b16
    require_shared
    if $DRY_RUN; then
      quoted "${KUBECTL[@]}" apply --filename=-
      manifest
    else
      manifest | "${KUBECTL[@]}" apply --filename=-
    fi
    ;;
  status)
    needs_name
    do_it "${KUBECTL[@]}" get pods \
      --selector="jobset.sigs.k8s.io/jobset-name=${FLAGS[name]}"
    ;;
  logs)
    needs_name
    do_it "${KUBECTL[@]}" logs --follow --tail=100 \
      --selector="jobset.sigs.k8s.io/jobset-name=${FLAGS[name]},batch.kubernetes.io/job-completion-index=0"
    ;;
  delete)
    needs_name
    do_it "${KUBECTL[@]}" delete jobset "${FLAGS[name]}" --ignore-not-found
    ;;
esac
