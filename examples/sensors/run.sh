#!/usr/bin/env bash
# Readings of sensors in with an API key, degrees Celsius out to a data warehouse: the example from end to end.
#
# usage: examples/sensors/run.sh [--outage] [--keep]
#
#   --outage   the warehouse is down at first, and is killed while it takes rows
#   --keep     leave the local AWS and the warehouse running, to look around
#
# It runs on a local AWS of its own, whose state is in .sluice/examples/sensors and is made anew each time.
# Exit codes: 0 the warehouse holds exactly the rows of the query, 1 it does not, or something failed.
set -euo pipefail
# shellcheck source=scripts/environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/../../scripts/environment.sh"
# shellcheck source=examples/example.sh
source "$REPOSITORY/examples/example.sh"

HERE=$REPOSITORY/examples/sensors
QUERY=celsius-readings
COLDEST=10
HOTTEST=20
is_outage=""

# Opens the warehouse, which knows the given sensors.
open_warehouse() {
  local sensors=() name
  for name in "$@"; do sensors+=(--sensor "$name"); done
  WAREHOUSE_TOKEN=$token open_service "$port" warehouse examples.sensors.warehouse \
    --database "$database" "${sensors[@]}"
}

rows_held() { python -c 'import sqlite3, sys
print(sqlite3.connect(sys.argv[1]).execute("SELECT count(*) FROM readings").fetchone()[0])' "$database"; }

holds_rows() { (($(rows_held) >= $1)); }

# Delivers a window. That some rows are refused is not a failure here: what counts is what the warehouse holds in the end.
deliver() {
  printf '\n$ scripts/deliver.sh run --local --from %s --to %s\n' "$1" "$2"
  # Its standard output is the name of the run, its standard error what a person reads.
  { aws deliver run --local --from "$1" --to "$2" >>"$LOG" || true; } 2>&1
}

# The warehouse comes up late, and is killed while it takes rows.
suffer_an_outage() {
  sleep 3
  echo "The warehouse opens, three seconds late"
  open_warehouse sf
  wait_until 60 "the warehouse holds no 500 rows" holds_rows 500
  close_service
  echo "The warehouse is killed; it holds $(rows_held) rows"
  sleep 1
  open_warehouse sf
}

main() {
  local option token port database
  for option in "$@"; do
    case $option in
    --outage) is_outage=1 ;;
    *) take_option "$option" ;;
    esac
  done
  ensure_environment local
  begin sensors
  trap finish EXIT
  database=$STATE/warehouse.db
  port=$(free_port)
  token=$(python -c 'import secrets; print(secrets.token_urlsafe(24))')

  headline "1. A local AWS, with an API key on the door"
  quietly aws local start --port "$(free_port)"
  quietly aws deploy --local --yes --queries "$HERE/queries.sql" \
    --parameter ApiAuth=API_KEY --parameter FirehoseBufferingInterval=1 \
    --parameter "DeliverUrl=http://127.0.0.1:$port/rows" --parameter DeliverQuery=$QUERY \
    --parameter "DeliverParameters={from},{to},$COLDEST,$HOTTEST" --parameter DeliverBatchingWindowInSeconds=1
  quietly aws deliver token --local <<<"$token"

  headline "2. A year of readings in degrees Fahrenheit"
  quietly python -m examples.sensors.readings "$STATE/readings.ndjson"
  show track --local --file "$STATE/readings.ndjson"
  wait_until 60 "the table does not have all readings" \
    has_rows "\${AthenaTableName}" "$(($(wc -l <"$STATE/readings.ndjson")))"

  headline "3. The first half of the year, to a warehouse that knows one sensor of two"
  if [[ -n $is_outage ]]; then
    deliver 2010-01-01 2010-07-01 &
    local run=$!
    suffer_an_outage
    wait "$run"
  else
    open_warehouse sf
    deliver 2010-01-01 2010-07-01
  fi
  echo "The warehouse holds $(rows_held) rows"
  show deliver status --local

  headline "4. The warehouse gets to know the other sensor: send again what it refused"
  close_service
  open_warehouse sf sf-rooftop
  show deliver redrive --local

  headline "5. The second half of the year"
  deliver 2010-07-01 2011-01-01

  headline "6. Does the warehouse hold what the query finds?"
  aws query --local --format json $QUERY --param "timestamp '2010-01-01 00:00:00'" \
    --param "timestamp '2011-01-01 00:00:00'" --param $COLDEST --param $HOTTEST >"$STATE/expected.ndjson" 2>>"$LOG"
  wait_until 60 "the warehouse does not hold as many rows as the query finds" \
    holds_rows "$(($(wc -l <"$STATE/expected.ndjson")))"
  python -m examples.sensors.check "$database" <"$STATE/expected.ndjson"
  echo "It took $SECONDS s"
}

main "$@"
