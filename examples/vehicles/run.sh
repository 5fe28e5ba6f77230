#!/usr/bin/env bash
# A fleet's vehicles and measurements, pulled from its API by pages, refined, and asked about: from end to end.
#
# usage: examples/vehicles/run.sh [--keep]
#
#   --keep   leave the local AWS and the service running, to look around
#
# It runs on a local AWS of its own, whose state is in .sluice/examples/vehicles and is made anew each time.
# Exit codes: 0 the queries say what the generator of the data says, 1 they do not, or something failed.
set -euo pipefail
# shellcheck source=scripts/environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/../../scripts/environment.sh"
# shellcheck source=examples/example.sh
source "$REPOSITORY/examples/example.sh"

HERE=$REPOSITORY/examples/vehicles

# Shows a script as one would type it, and runs it; whether it fails is up to the caller.
type_script() {
  local script=$1
  shift
  printf '$ scripts/%s.sh %s\n' "$script" "$*"
  aws "$script" "$@"
}

main() {
  local option token port moved
  for option in "$@"; do take_option "$option"; done
  ensure_environment local
  begin vehicles
  trap finish EXIT

  headline "1. A service that hands out a fleet, and a local AWS that pulls from it"
  mkdir "$STATE/sources"
  token=$(python -c 'import secrets; print(secrets.token_urlsafe(24))')
  port=$(free_port)
  touch "$STATE/broken"
  VEHICLES_TOKEN=$token open_service "$port" "fleet's service" examples.vehicles.api --broken "$STATE/broken"
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
  if type_script pull run --local 2>>"$LOG"; then fail "the run should have failed, for lack of a page"; fi
  type_script pull status --local 2>>"$LOG"

  headline "3. The page can be had again: send its dead letter back"
  rm "$STATE/broken"
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
  python -m examples.vehicles.check "$STATE"/{mean-gap-by-vehicle-type,measurements-by-day-and-type}.ndjson
  ! grep -rqF "$token" "$SLUICE_LOCAL_STATE/server.log" "$LOG" || fail "the token is in a log"
  echo "It took $SECONDS s"
}

main "$@"
