# shellcheck shell=bash
# Sourced by the run.sh of an example, after scripts/environment.sh: what they share. An example runs on a local AWS of
# its own, so that it disturbs no other and can be run again.
#
#   take_option OPTION         --keep sets `is_kept`, --help prints the help, else an error; needs $HERE, its folder
#   begin NAME                 state in .sluice/examples/NAME, made anew; needs the environment `local`
#   open_service PORT NAME MODULE ...      run a Python module that takes --port, and wait until it listens
#   close_service              kill it, if it runs
#   finish                     stop the service and the local AWS, or say how to look around when `is_kept` is set
#   headline TEXT              the title of a step
#   quietly COMMAND...         run it, its talk in $LOG; fail with its last line
#   aws SCRIPT ...             scripts/SCRIPT.sh ...
#   show SCRIPT ...            the same, and the command line before it
#   python ...                 the environment's Python
#   free_port                  a port that nobody uses
#   wait_until SECONDS WHAT COMMAND...     until the command succeeds; fail saying WHAT
#   has_rows TABLE COUNT       whether a table of the stack has so many rows

is_kept="" service="" service_name=""

take_option() {
  case $1 in
  --keep) is_kept=1 ;;
  -h | --help)
    print_help "$0"
    exit 0
    ;;
  *)
    printf "error: '%s' is not an option (see %s/run.sh --help)\n" "$1" "${HERE#"$REPOSITORY"/}" >&2
    exit 2
    ;;
  esac
}

begin() {
  STATE=$SLUICE_HOME/examples/$1
  LOG=$STATE/log
  export SLUICE_LOCAL_STATE=$STATE/aws PYTHONPATH=$REPOSITORY:$REPOSITORY/lambda
  aws local stop >/dev/null 2>&1 || true
  rm -rf "$STATE"
  mkdir -p "$STATE"
}

open_service() {
  local port=$1
  service_name=$2
  shift 2
  # Not by the function `python`: it would be that shell, and not the service, which is killed in the end.
  "$VENV/bin/python" -P -m "$@" --port "$port" 2>>"$STATE/service.log" &
  service=$!
  until (: >"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do
    kill -0 "$service" 2>/dev/null || fail "the $service_name does not start: $(tail -n 1 "$STATE/service.log")"
    sleep 0.1
  done
}

close_service() {
  if [[ -n $service ]]; then
    kill -KILL "$service" 2>/dev/null || true
    wait "$service" 2>/dev/null || true
  fi
  service=""
}

finish() {
  if [[ -z $is_kept ]]; then
    close_service
    aws local stop >>"$LOG" 2>&1 || true
    return
  fi
  if [[ -n $service ]]; then
    printf '\nThe %s goes on running: kill %s stops it\n' "$service_name" "$service" >&2
  fi
  printf '\nThe local AWS goes on running. Look around, and stop it:\n' >&2
  printf '  export SLUICE_LOCAL_STATE=%q\n  scripts/query.sh --local --list\n  scripts/local.sh stop\n' \
    "$SLUICE_LOCAL_STATE" >&2
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
