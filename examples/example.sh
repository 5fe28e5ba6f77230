# shellcheck shell=bash
# Sourced by the run.sh of an example, after scripts/environment.sh: what they share. An example runs on a local AWS of
# its own, so that it disturbs no other and can be run again.
#
#   begin NAME                 state in .sluice/examples/NAME, made anew; needs the environment `local`
#   finish                     stop the local AWS, or say how to look around when `is_kept` is set
#   headline TEXT              the title of a step
#   quietly COMMAND...         run it, its talk in $LOG; fail with its last line
#   aws SCRIPT ...             scripts/SCRIPT.sh ...
#   show SCRIPT ...            the same, and the command line before it
#   python ...                 the environment's Python
#   free_port                  a port that nobody uses
#   wait_until SECONDS WHAT COMMAND...     until the command succeeds; fail saying WHAT
#   has_rows TABLE COUNT       whether a table of the stack has so many rows
# shellcheck disable=SC2034 # is_kept is set by the script that sources this

begin() {
  STATE=$REPOSITORY/.sluice/examples/$1
  LOG=$STATE/log
  export SLUICE_LOCAL_STATE=$STATE/aws PYTHONPATH=$REPOSITORY
  aws local stop >/dev/null 2>&1 || true
  rm -rf "$STATE"
  mkdir -p "$STATE"
}

finish() {
  if [[ -n ${is_kept:-} ]]; then
    printf '\nThe local AWS goes on running. Look around, and stop it:\n' >&2
    printf '  export SLUICE_LOCAL_STATE=%q\n  scripts/query.sh --local --list\n  scripts/local.sh stop\n' \
      "$SLUICE_LOCAL_STATE" >&2
  else
    aws local stop >>"$LOG" 2>&1 || true
  fi
}

headline() { printf '\n\033[1m%s\033[0m\n' "$*"; }

quietly() { "$@" >>"$LOG" 2>&1 || fail "$* failed: $(tail -n 1 "$LOG") (all of it: $LOG)"; }

aws() {
  local script=$1
  shift
  "$REPOSITORY/scripts/$script.sh" "$@"
}

show() {
  local script=$1
  shift
  printf '\n$ scripts/%s.sh' "$script"
  local argument
  for argument in "${@/#$REPOSITORY\//}"; do
    if [[ $argument == *[[:space:]]* ]]; then argument="'$argument'"; fi
    printf ' %s' "$argument"
  done
  printf '\n'
  aws "$script" "$@" 2>>"$LOG" || fail "scripts/$script.sh failed: $(tail -n 1 "$LOG") (all of it: $LOG)"
}

python() { "$VENV/bin/python" -P "$@"; }

free_port() { python -c 'import socket; s = socket.create_server(("127.0.0.1", 0)); print(s.getsockname()[1])'; }

wait_until() {
  local seconds=$1 what=$2
  shift 2
  local deadline=$((SECONDS + seconds))
  until "$@"; do
    ((SECONDS < deadline)) || fail "after $seconds s, $what (see $LOG)"
    sleep 0.3
  done
}

has_rows() {
  [[ $(aws query --local --format csv --sql "SELECT count(*) FROM $1" 2>>"$LOG" | tail -n 1) == "$2" ]]
}
