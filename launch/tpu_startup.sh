#!/usr/bin/env bash
# Runs on every TPU VM: installs what is missing, then trains until it is done.
#
# tpu_pod.sh and tpu_queued.sh put a header of settings before this text; it is
# not called by hand. With the argument `install` it only installs. It may be started any number of times, at boots too: a
# second one beside a running one ends at once, what is installed stays, and
# the run goes on from its last checkpoint.
#
# Exit codes of the run: 0 done, 2 bad usage and 3 diverged end it for good; 143
# was stopped and anything else lost a peer: the same command again, at once or
# after a pause that doubles.
set -euo pipefail

UDON_HOME="${UDON_HOME:-/opt/udon_jax}"
MAX_FAILURES="${UDON_MAX_FAILURES:-20}"   # in a row
FIRST_PAUSE="${UDON_FIRST_PAUSE:-10}"     # seconds
LONGEST_PAUSE="${UDON_LONGEST_PAUSE:-300}" # seconds
STEADY="${UDON_STEADY:-600}" # seconds of running that forgive failures before
SRC="$UDON_HOME/src" VENV="$UDON_HOME/venv"

say() { printf '%s udon_jax: %s\n' "$(date -u +%FT%TZ)" "$*"; }

# TPU images come with Python 3.10; udon_jax needs 3.11 to 3.13.
make_venv() {
  local python
  for python in python3.13 python3.12 python3.11; do
    if "$python" -c 'import ensurepip, venv' 2>/dev/null; then
      "$python" -m venv --clear "$VENV"
      return
    fi
  done
  python3 -m pip install --quiet --target "$UDON_HOME/uv" uv
  PYTHONPATH="$UDON_HOME/uv" python3 -m uv venv --quiet --clear --seed \
    --python 3.12 "$VENV"
}

fetch() {
  rm -rf "$SRC" && mkdir -p "$SRC"
  if [[ "$UDON_SOURCE" == *.tar.gz ]]; then
    gcloud storage cp "$UDON_SOURCE" "$UDON_HOME/src.tar.gz"
    tar -xzf "$UDON_HOME/src.tar.gz" -C "$SRC"
  else
    git clone --quiet "$UDON_SOURCE" "$SRC"
    git -C "$SRC" checkout --quiet "$UDON_REF"
  fi
}

# Installs once per source; what broke off half-way is done again.
install() {
  local wanted="$UDON_SOURCE $UDON_REF"
  [[ "$(cat "$UDON_HOME/installed" 2>/dev/null)" != "$wanted" ]] || return 0
  say "installing $wanted"
  rm -f "$UDON_HOME/installed"
  fetch
  make_venv
  (cd "$SRC" && "$VENV/bin/python" -m pip install --quiet ".[tpu,data,viz]" \
    --constraint constraints.txt)
  echo "$wanted" >"$UDON_HOME/installed"
}

# Copies what is missing from a bucket to this machine.
get_data() {
  [[ -n "$UDON_DATA" ]] || return 0
  mkdir -p "$UDON_HOME/data"
  gcloud storage rsync --recursive "$UDON_DATA" "$UDON_HOME/data"
}

child="" stopping=false
stop() {
  stopping=true
  [[ -z "$child" ]] || kill -TERM -- "-$child" 2>/dev/null || true
}

# Runs a command in the background so that SIGTERM reaches us; sets CODE.
attend() {
  CODE=0
  "$@" &
  child=$!
  ! $stopping || stop
  # `wait` also returns when a signal comes, then the child still saves.
  while :; do
    wait "$child" && CODE=0 || CODE=$?
    kill -0 "$child" 2>/dev/null || break
  done
  child=""
}

# In a shell of its own, where `set -e` holds.
prepare() {
  attend bash -c "$(declare -f say make_venv fetch install get_data)
    $(declare -p UDON_HOME UDON_SOURCE UDON_REF UDON_DATA SRC VENV)
    set -euo pipefail; install; get_data"
}

train() {
  cd "$SRC"
  exec "$VENV/bin/python" -m udon_jax.main "${UDON_ARGS[@]}"
}

mkdir -p "$UDON_HOME"
if [[ "${1:-}" == install ]]; then
  # Seen by who asked for it as well: git and pip may have much to say.
  exec > >(exec tee -a "$UDON_HOME/log") 2>&1
else
  exec >>"$UDON_HOME/log" 2>&1
fi
exec </dev/null {lock}>"$UDON_HOME/lock"
if ! flock --nonblock "$lock"; then
  say "is running already"
  exit 0
fi
echo "$$" >"$UDON_HOME/pid"
trap stop TERM INT
set -m # what it starts leads groups of its own, which end as a whole
trap 'rm -f "$UDON_HOME/pid"' EXIT

if [[ "${1:-}" == install ]]; then
  prepare
  say "installing ended with exit code $CODE"
  exit "$CODE"
fi

# What ended for good stays so until it is told to run something else.
job="$(printf '%q ' "$UDON_SOURCE" "$UDON_REF" "${UDON_ARGS[@]}" | sha256sum)"
read -r ended_job code 2>/dev/null <"$UDON_HOME/ended" || true
if [[ "${ended_job:-}" == "${job%% *}" ]]; then
  say "ended before with exit code $code"
  exit "$code"
fi

failures=0 pause="$FIRST_PAUSE"
while :; do
  started=$SECONDS
  prepare
  if ((CODE == 0)) && ! $stopping; then
    say "running: ${UDON_ARGS[*]}"
    attend train
    say "exit code $CODE"
    case "$CODE" in
      0 | 2 | 3)
        echo "${job%% *} $CODE" >"$UDON_HOME/ended"
        exit "$CODE"
        ;;
    esac
  else
    say "preparing ended with exit code $CODE"
    ((CODE != 0)) || CODE=143
  fi
  if $stopping; then
    say "stopped; started again, it continues"
    exit "$CODE"
  fi
  if ((SECONDS - started >= STEADY)); then failures=0 pause="$FIRST_PAUSE"; fi
  ((CODE == 143)) && continue
  failures=$((failures + 1))
  if ((failures >= MAX_FAILURES)); then
    say "gives up after $failures failures in a row"
    exit "$CODE"
  fi
  say "again in $pause s (failure $failures)"
  attend sleep "$pause"
  ! $stopping || exit 143
  pause=$((pause * 2 < LONGEST_PAUSE ? pause * 2 : LONGEST_PAUSE))
done
