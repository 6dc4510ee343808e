#!/usr/bin/env bash
# Trains on a TPU slice of a GKE cluster.
#
#   launch/gke.sh build --image=REGION-docker.pkg.dev/PROJECT/udon/udon_jax:1
#   launch/gke.sh run --name=b16 --accelerator=tpu-v6e-slice --topology=4x4 \
#     --chips_per_host=4 --image=REGION-docker.pkg.dev/PROJECT/udon/udon_jax:1 \
#     -- --config=configs/uned_vitb16.py --config.data_dir=gs://BUCKET/uned \
#     --workdir=gs://BUCKET/runs/b16
#
# Actions; each may be repeated:
#   build   makes the image of this checkout and pushes it
#   run     starts the run, unless it is there; lost pods start again
#   status  the JobSet and its pods
#   logs    follows the log of host 0
#   delete  ends the run, which saves; `run` again continues
#
#   --image=I            of build and run
#   --extra=tpu          of build: tpu (default), cuda or cpu
#   --name=N             of the run
#   --accelerator=A --topology=T  labels of the node pool, of run
#   --chips_per_host=C   chips of each of its nodes
#   --spot               takes spot nodes
#   --service_account=K  of Kubernetes, who reads and writes buckets (default)
#   --grace_seconds=S    from asking to killing (default 300)
#   --max_restarts=R     (default 100)
#   --namespace=N --context=C     (default: those of kubectl)
#   --dry_run            prints the commands and the manifest alone
set -euo pipefail
# shellcheck source=launch/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

declare -A FLAGS=([image]="" [extra]=tpu [name]="" [accelerator]=""
  [topology]="" [chips_per_host]="" [spot]=false [service_account]=default
  [grace_seconds]=300 [max_restarts]=100 [namespace]="" [context]="")
parse "$@"
action build run status logs delete
KUBECTL=(kubectl)
for key in namespace context; do
  [[ -z "${FLAGS[$key]}" ]] || KUBECTL+=("--$key=${FLAGS[$key]}")
done

build() {
  require image
  [[ "${FLAGS[extra]}" =~ ^(tpu|cuda|cpu)$ ]] ||
    die "--extra=${FLAGS[extra]} is none of tpu, cuda, cpu"
  $DRY_RUN || need docker "see https://docs.docker.com/engine/install"
  do_it docker build --file="$ROOT_DIR/Dockerfile" --tag="${FLAGS[image]}" \
    --platform=linux/amd64 --build-arg="EXTRA=${FLAGS[extra]}" "$ROOT_DIR"
  do_it docker push "${FLAGS[image]}"
}

# Prints words as a list of JSON, which is YAML as well.
json_list() {
  local word list=()
  for word; do
    [[ "$word" != *[[:cntrl:]]* ]] || die "a flag holds a line break: $(quoted "$word")"
    word="${word//\\/\\\\}"
    # Kubernetes would expand $(NAME); $$ is a dollar to it.
    word="${word//\$/\$\$}"
    list+=("\"${word//\"/\\\"}\"")
  done
  local IFS=,
  printf '[%s]' "${list[*]}"
}

# Sets HOSTS from topology and chips of a host.
count_hosts() {
  local chips=1 sides
  [[ "${FLAGS[topology]}" =~ ^[1-9][0-9]*(x[1-9][0-9]*){1,2}$ ]] ||
    die "--topology=${FLAGS[topology]} is no topology; write 4x4 or 2x2x4"
  IFS=x read -ra sides <<<"${FLAGS[topology]}"
  for side in "${sides[@]}"; do chips=$((chips * side)); done
  ((chips % FLAGS[chips_per_host] == 0)) ||
    die "--chips_per_host=${FLAGS[chips_per_host]} does not divide the $chips chips of --topology=${FLAGS[topology]}"
  HOSTS=$((chips / FLAGS[chips_per_host]))
}

# Prints the manifest.
render() {
  local text key
  local -A values=([NAME]="${FLAGS[name]}" [HOSTS]="$HOSTS"
    [IMAGE]="${FLAGS[image]}" [ARGS]="$(json_list "${ARGS[@]}")"
    [ACCELERATOR]="${FLAGS[accelerator]}" [TOPOLOGY]="${FLAGS[topology]}"
    [CHIPS_PER_HOST]="${FLAGS[chips_per_host]}"
    [SERVICE_ACCOUNT]="${FLAGS[service_account]}"
    [GRACE_SECONDS]="${FLAGS[grace_seconds]}"
    [MAX_RESTARTS]="${FLAGS[max_restarts]}")
  # Lines of an option go if it is off; comments are for readers of the file.
  local unwanted='^ *#'
  "${FLAGS[spot]}" || unwanted+='|# if spot$'
  text="$(grep -Ev "$unwanted" "$LAUNCH_DIR/gke/jobset.yaml")"
  # ${ARGS} comes last: its text is the user's, and is not looked into.
  for key in "${!values[@]}"; do
    [[ "$key" == ARGS ]] || text="${text//"\${$key}"/"${values[$key]}"}"
  done
  printf '%s\n' "${text//"\${ARGS}"/"${values[ARGS]}"}"
}

run() {
  local manifest
  require name image accelerator topology chips_per_host service_account
  named name
  whole chips_per_host grace_seconds max_restarts
  for key in image accelerator service_account; do
    [[ "${FLAGS[$key]}" =~ ^[A-Za-z0-9][-A-Za-z0-9._/:@]*$ ]] ||
      die "--$key=${FLAGS[$key]} is no name"
  done
  require_args gs://BUCKET/runs/b16
  require_bucket
  count_hosts
  manifest="$(render)"
  if $DRY_RUN; then
    quoted "${KUBECTL[@]}" apply --filename=-
    printf '%s\n' "$manifest"
  elif "${KUBECTL[@]}" get jobset "${FLAGS[name]}" >/dev/null 2>&1; then
    echo "${FLAGS[name]} is there already; '$0 delete' first, to start it anew"
  else
    "${KUBECTL[@]}" apply --filename=- <<<"$manifest"
  fi
}

[[ "$ACTION" == build ]] || {
  require name
  $DRY_RUN || need kubectl "see https://kubernetes.io/docs/tasks/tools"
}
OF_RUN="jobset.sigs.k8s.io/jobset-name=${FLAGS[name]}"
case "$ACTION" in
  build) build ;;
  run) run ;;
  status)
    do_it "${KUBECTL[@]}" get jobset "${FLAGS[name]}" --output=wide
    do_it "${KUBECTL[@]}" get pods --selector="$OF_RUN" --output=wide
    ;;
  logs)
    do_it "${KUBECTL[@]}" logs --follow --tail=100 \
      --selector="$OF_RUN,batch.kubernetes.io/job-completion-index=0"
    ;;
  delete)
    do_it "${KUBECTL[@]}" delete jobset "${FLAGS[name]}" --ignore-not-found
    ;;
esac
