#!/usr/bin/env bash
# A year of weather at a hundred sensors, pulled from an archive, refined, and asked about: the example from end to end.
#
# usage: examples/weather/run.sh [--sensors COUNT] [--keep]
#
#   --sensors COUNT   the first so many sensors of the grid, 1 to 100 (default: 100, which are 36,500 rows)
#   --keep            leave the local AWS and the archive running, to look around
#
# It runs on a local AWS of its own, whose state is in .sluice/examples/weather and is made anew each time.
# Exit codes: 0 the tables say what the archive says, 1 they do not, or something failed.
set -euo pipefail
# shellcheck source=scripts/environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/../../scripts/environment.sh"
# shellcheck source=examples/example.sh
source "$REPOSITORY/examples/example.sh"

HERE=$REPOSITORY/examples/weather
STACK=(--local --stack-name sluice-dev)
sensors=100

# Declares a source that pulls the days from the first to the last, and deploys it.
deploy_days() {
  python -m examples.weather.declare --port "$port" --sensors "$sensors" --first "$1" --last "$2" \
    >"$STATE/sources/weather.json"
  quietly aws deploy "${STACK[@]}" --yes --environment "$HERE/environments/dev.json" --pull "$STATE/sources" \
    --refine "$HERE/refine" --queries "$HERE/queries.sql" \
    --parameter FirehoseBufferingInterval=1 --parameter PullDeliveryMarginInSeconds=2
}

main() {
  local port started
  while (($#)); do
    case $1 in
    --sensors)
      [[ ${2:-} =~ ^[1-9][0-9]?$|^100$ ]] || {
        printf "error: --sensors takes a number from 1 to 100 (got '%s')\n" "${2:-}" >&2
        exit 2
      }
      sensors=$2
      shift
      ;;
    *) take_option "$1" ;;
    esac
    shift
  done
  ensure_environment local
  begin weather
  trap finish EXIT
  mkdir "$STATE/sources"
  port=$(free_port)

  headline "1. An archive of weather that ends with 2014, and a local AWS that pulls from it"
  echo 2014-12-31 >"$STATE/archive-end"
  open_service "$port" archive examples.weather.api --archive-end "$STATE/archive-end"
  quietly aws local start --port "$(free_port)"
  deploy_days 2014-01-01 2014-12-31
  echo "Up after $SECONDS s"

  headline "2. Pull the year: a request for each sensor. Refinement follows by itself"
  started=$SECONDS
  show pull run "${STACK[@]}"
  show query "${STACK[@]}" weather-quality
  echo "Pulled, refined and queried in $((SECONDS - started)) s after start-up"

  headline "3. A week later: only the new days, and the two that were preliminary"
  echo 2015-01-07 >"$STATE/archive-end"
  deploy_days 2014-01-01 2015-01-07
  show pull run "${STACK[@]}"
  show query "${STACK[@]}" weather-events
  show pull run "${STACK[@]}"
  tail -n 1 "$LOG"

  headline "4. The same days once more, with the checkpoint forgotten: no table changes"
  quietly aws deploy "${STACK[@]}" --yes --pull off
  deploy_days 2014-12-30 2015-01-07
  show pull run "${STACK[@]}"
  show query "${STACK[@]}" weather-events

  headline "5. Ask"
  show query "${STACK[@]}" weather-by-category
  show query "${STACK[@]}" weather-of-sensors --param ZONE_0_0 --param 2014-01-15
  show query "${STACK[@]}" weather-weeks

  headline "6. Is it true?"
  local table
  for table in sensor_days region_days; do
    aws query "${STACK[@]}" --format json --sql "SELECT * FROM $table" >"$STATE/$table.ndjson" 2>>"$LOG"
  done
  aws query "${STACK[@]}" --format json weather-quality >"$STATE/quality.ndjson" 2>>"$LOG"
  python -m examples.weather.check "$STATE"/{sensor_days,region_days,quality}.ndjson --sensors "$sensors"
  echo "It took $SECONDS s"
}

main "$@"
