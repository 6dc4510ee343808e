# shellcheck shell=bash
# What the scripts of this folder share: flags, errors, and --dry_run.
#
# A script declares `declare -A FLAGS=([name]=default ...)`; a default of
# `false` makes a switch. `parse "$@"` fills FLAGS, ACTION (the first word that
# is no flag) and ARGS (all behind `--`, for `python -m udon_jax.main`).

DRY_RUN=false
ACTION=""
ARGS=()
LAUNCH_DIR="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
# shellcheck disable=SC2034 # for those who source this
ROOT_DIR="$(dirname "$LAUNCH_DIR")"

# Says in one line what is wrong and how to cure it.
die() {
  printf 'error: %s\n' "$*" >&2
  exit 2
}

# Prints the comment at the top of the script.
usage() {
  awk 'NR > 1 && !/^#/ { exit } NR > 1 { sub(/^# ?/, ""); print }' "$0"
}

# shellcheck disable=SC2004 # the keys of FLAGS are words
parse() {
  local key
  while (($#)); do
    case "$1" in
      --help | -h) usage && exit 0 ;;
      --dry_run) DRY_RUN=true ;;
      --) shift && ARGS=("$@") && return ;;
      --*)
        key="${1%%=*}" && key="${key#--}"
        [[ -n "${FLAGS[$key]+set}" ]] ||
          die "--$key is unknown; see $0 --help"
        if [[ "$1" == *=* ]]; then
          FLAGS[$key]="${1#*=}"
        elif [[ "${FLAGS[$key]}" == false || "${FLAGS[$key]}" == true ]]; then
          FLAGS[$key]=true
        else
          die "--$key has no value; write --$key=VALUE"
        fi
        ;;
      *)
        [[ -z "$ACTION" ]] ||
          die "'$1' is one word too many; flags of the run go behind --"
        ACTION="$1"
        ;;
    esac
    shift
  done
}

# require FLAG...: ends if one is empty.
require() {
  local key
  for key; do
    [[ -n "${FLAGS[$key]}" ]] || die "--$key is missing; see $0 --help"
  done
}

# whole FLAG...: ends if one is not a whole number above zero.
whole() {
  local key
  for key; do
    [[ "${FLAGS[$key]}" =~ ^[1-9][0-9]*$ ]] ||
      die "--$key=${FLAGS[$key]} is no whole number above 0"
  done
}

# named FLAG: ends if it is no name that Google Cloud and Kubernetes accept.
named() {
  [[ "${FLAGS[$1]}" =~ ^[a-z]([-a-z0-9]{0,38}[a-z0-9])?$ ]] ||
    die "--$1=${FLAGS[$1]} is no name; take a-z, 0-9 and -, at most 40"
}

# action KNOWN...: ends if ACTION is none of them.
action() {
  local known
  for known; do [[ "$ACTION" == "$known" ]] && return; done
  die "say what to do, '$ACTION' is none of: $*"
}

# Ends unless the flags of the run say at least what and where.
require_args() {
  local flag
  for flag in config workdir; do
    [[ " ${ARGS[*]}" == *" --$flag="* ]] ||
      die "--$flag is missing behind --; for example -- --config=configs/uned_vitb16.py --workdir=$1"
  done
}

# Ends if the workdir would lie on the disk of one host, and go with it.
require_shared() {
  local arg
  for arg in "${ARGS[@]}"; do
    [[ "$arg" != --workdir=* || "$arg" == --workdir=gs://* ||
      "$arg" == --workdir=/mnt/* ]] ||
      die "$arg is on the disk of one host; write gs://BUCKET/... or a mounted /mnt/..."
  done
}

# Prints a command as one can paste it.
quoted() {
  local line
  printf -v line '%q ' "$@"
  printf '%s\n' "${line% }"
}

need() {
  command -v "$1" >/dev/null || die "$1 is not installed; $2"
}

# do_it COMMAND...: runs it, or prints it if --dry_run.
do_it() {
  if $DRY_RUN; then quoted "$@"; else "$@"; fi
}

# What both ways to a TPU share. `tpu_flags` checks what every action needs.
tpu_flags() {
  require name zone
  named name
  PLACE=(--zone="${FLAGS[zone]}")
  [[ -z "${FLAGS[project]}" ]] || PLACE+=(--project="${FLAGS[project]}")
  $DRY_RUN || need gcloud "see https://cloud.google.com/sdk/docs/install"
}

# Checks what a run on TPU VMs needs, and puts its start-up script in STARTUP.
tpu_script() {
  require source
  [[ "${FLAGS[source]}" == *.tar.gz || -n "${FLAGS[ref]}" ]] ||
    die "--ref is missing: a commit, tag or branch of --source=${FLAGS[source]}"
  [[ "$ACTION" == install ]] || {
    require_args gs://BUCKET/runs/b16
    require_shared
  }
  STARTUP="$(mktemp)"
  trap 'rm -f "$STARTUP"' EXIT
  {
    echo '#!/usr/bin/env bash'
    printf 'UDON_%s=%q\n' SOURCE "${FLAGS[source]}" REF "${FLAGS[ref]}" \
      DATA "${FLAGS[data]}"
    printf 'UDON_ARGS=(%s)\n' "${ARGS[*]:+$(quoted "${ARGS[@]}")}"
    tail -n +2 "$LAUNCH_DIR/tpu_startup.sh"
  } >"$STARTUP"
  if $DRY_RUN; then
    echo "# $STARTUP: launch/tpu_startup.sh behind these settings"
    sed -n '2,5s/^/#   /p' "$STARTUP"
  fi
}
