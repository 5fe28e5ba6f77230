#!/usr/bin/env bash
# A data lake of three zones: envelopes in over HTTP, daily figures by source out; the example from end to end.
#
# usage: examples/datalake/run.sh [--keep]
#
#   --keep    leave the local AWS running, to look around
#
# It runs on a local AWS of its own, whose state is in .sluice/examples/datalake and is made anew each time.
# Exit codes: 0 all figures are those of the records, 1 they are not, or something failed.
set -euo pipefail
# shellcheck source=scripts/environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/../../scripts/environment.sh"
# shellcheck source=examples/example.sh
source "$REPOSITORY/examples/example.sh"

HERE=$REPOSITORY/examples/datalake
RAW="\${AthenaTableName} WHERE source IN ('iot_sensors', 'vans', 'gate')"

main() {
  local option
  for option in "$@"; do take_option "$option"; done
  ensure_environment local
  begin datalake
  trap finish EXIT

  headline "1. A local AWS, with this example's SQL files and saved queries"
  quietly aws local start --port "$(free_port)"
  quietly aws deploy --local --yes --refine "$HERE/refine" --queries "$HERE/queries.sql" \
    --parameter FirehoseBufferingInterval=1
  show query --local --list

  headline "2. Does the ingestion account for every event? The test of a running stack"
  quietly aws verify --local
  tail -n 2 "$LOG"

  headline "3. The raw zone: one envelope to /track; 3,312 to /batch, twice, as a device does that has no answer"
  show track --local "$(python -m examples.datalake.records --sample)"
  python -m examples.datalake.records >"$STATE/records.ndjson"
  show track --local --file "$STATE/records.ndjson"
  show track --local --file "$STATE/records.ndjson"
  wait_until 60 "the raw zone does not have all records" has_rows "$RAW" 6625

  headline "4. The processed and the curated zone"
  show refine --local --from 2025-11-24 --to 2025-11-26

  headline "5. The sample queries"
  show query --local quality-by-source
  show query --local warmest-devices
  show query --local daily-by-source

  headline "6. Do the figures add up?"
  aws query --local --format json daily-by-source 2>>"$LOG" | python -m examples.datalake.check
  echo "It took $SECONDS s"
}

main "$@"
