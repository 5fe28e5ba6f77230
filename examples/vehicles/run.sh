#!/usr/bin/env bash
# A fleet's vehicles and measurements, pulled from its API by pages, refined, and asked about: from end to end.
#
# usage: examples/vehicles/run.sh [--keep]
#
#   --keep   leave the local AWS and the service running, to look around
#
# It runs on a local AWS of its own, whose state stands in .sluice/examples/vehicles and is made anew each time.
# Exit codes: 0 the queries say what the generator of the data says, 1 they do not, or something failed.
set -euo pipefail
# shellcheck source=scripts/environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/../../scripts/environment.sh"

HERE=$REPOSITORY/examples/vehicles
STATE=$REPOSITORY/.sluice/examples/vehicles
LOG=$STATE/log
BROKEN=$STATE/broken
export SLUICE_LOCAL_STATE=$STATE/aws
export PYTHONPATH=$REPOSITORY

is_kept="" service=""

headline() { printf '\n\033[1m%s\033[0m\n' "$*"; }

# Runs a command whose talk nobody needs to read, unless it fails.
quietly() { "$@" >>"$LOG" 2>&1 || fail "$* failed: $(tail -n 1 "$LOG") (all of it: $LOG)"; }

# Shows a script as one would type it, and runs it.
type_script() {
  local script=$1
  shift
  printf '$ scripts/%s.sh %s\n' "$script" "$*"
  "$REPOSITORY/scripts/$script.sh" "$@"
}

aws() {
  local script=$1
  shift
  "$REPOSITORY/scripts/$script.sh" "$@"
}

python() { "$VENV/bin/python" -P "$@"; }

free_port() { python -c 'import socket; s = socket.create_server(("127.0.0.1", 0)); print(s.getsockname()[1])'; }

open_service() {
  VEHICLES_TOKEN=$1 "$VENV/bin/python" -P -m examples.vehicles.api --port "$2" --broken "$BROKEN" \
    2>>"$STATE/service.log" &
  service=$!
  until (: >"/dev/tcp/127.0.0.1/$2") 2>/dev/null; do
    kill -0 "$service" 2>/dev/null || fail "the service does not start: $(tail -n 1 "$STATE/service.log")"
    sleep 0.1
  done
}

tidy() {
  if [[ -n $is_kept && -n $service ]]; then
    printf '\nStill running. Look around with SLUICE_LOCAL_STATE=%q scripts/query.sh --local --list\n' "$SLUICE_LOCAL_STATE"
    printf 'Stop it: kill %s; SLUICE_LOCAL_STATE=%q scripts/local.sh stop\n' "$service" "$SLUICE_LOCAL_STATE"
    return
  fi
  if [[ -n $service ]]; then kill "$service" 2>/dev/null || true; fi
  aws local stop >>"$LOG" 2>&1 || true
}

main() {
  local option token port moved
  for option in "$@"; do
    case $option in
    --keep) is_kept=1 ;;
    -h | --help)
      print_help "$0"
      exit 0
      ;;
    *)
      printf "error: '%s' is no option (see examples/vehicles/run.sh --help)\n" "$option" >&2
      exit 2
      ;;
    esac
  done
  ensure_environment local
  mkdir -p "$STATE"
  trap tidy EXIT

  headline "1. A service that hands out a fleet, and a local AWS that pulls from it"
  aws local reset >/dev/null 2>&1
  rm -rf "$STATE"
  mkdir -p "$STATE/sources"
  token=$(python -c 'import secrets; print(secrets.token_urlsafe(24))')
  port=$(free_port)
  touch "$BROKEN"
  open_service "$token" "$port"
  local file
  for file in "$HERE"/sources/*.json; do
    sed "s/127\.0\.0\.1:8002/127.0.0.1:$port/" "$file" >"$STATE/sources/${file##*/}"
  done
  quietly aws local start --port "$(free_port)"
  quietly aws deploy --local --yes --pull "$STATE/sources" --refine "$HERE/refine" --queries "$HERE/queries.sql" \
    --parameter FirehoseBufferingInterval=1 --parameter PullDeliveryMarginInSeconds=8
  printf '$ scripts/pull.sh token --local fleet < token.txt\n'
  quietly aws pull token --local fleet <<<"$token"

  headline "2. Pull both entities, while one page of the measurements cannot be had"
  if type_script pull run --local 2>>"$LOG"; then fail "the run should have failed, for want of a page"; fi
  type_script pull status --local 2>>"$LOG"

  headline "3. The page can be had again: send its dead letter back"
  rm "$BROKEN"
  printf '$ scripts/pull.sh redrive --local\n'
  moved=$(aws pull redrive --local 2>>"$LOG")
  echo "$moved"
  ((moved == 1)) || fail "there should have been one dead letter (see $LOG)"
  type_script pull run --local 2>>"$LOG" || fail "$(tail -n 1 "$LOG")"

  headline "4. Ask the refined tables, which the run has made"
  local name
  for name in mean-gap-by-vehicle-type measurements-by-day-and-type; do
    type_script query --local "$name" 2>>"$LOG"
    aws query --local --format json "$name" >"$STATE/$name.ndjson" 2>>"$LOG"
  done

  headline "5. Is it true?"
  python -m examples.vehicles.check "$STATE/mean-gap-by-vehicle-type.ndjson" "$STATE/measurements-by-day-and-type.ndjson"
  ! grep -rqF "$token" "$SLUICE_LOCAL_STATE/server.log" "$LOG" || fail "the token stands in a log"
  echo "It took $SECONDS s"
}

main "$@"
