#!/usr/bin/env bash
# A shop of three pages that counts its visits with sluice.js: click through it, and see what the saved queries say.
#
# usage: examples/web/run.sh [--keep]
#
#   --keep     leave the local AWS and the shop running, to look around
#
# It runs on a local AWS of its own, whose state is in .sluice/examples/web and is made anew each time.
# Exit codes: 0 the questions were answered, 1 something failed.
set -euo pipefail
# shellcheck source=scripts/environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/../../scripts/environment.sh"
# shellcheck source=examples/example.sh
source "$REPOSITORY/examples/example.sh"

HERE=$REPOSITORY/examples/web
SOURCE=web-shop
DAYS=30

main() {
  local option port url query
  for option in "$@"; do take_option "$option"; done
  ensure_environment local
  begin web
  trap finish EXIT
  quietly aws local start --port "$(free_port)"
  url=$(aws deploy --local --yes --parameter FirehoseBufferingInterval=1 2>>"$LOG" | awk '$1 == "TrackURL" { print $2 }')
  port=$(free_port)
  open_service "$port" shop examples.web.shop --api "$url"

  headline "Open http://localhost:$port/ and click through the shop, in several windows if you like. Then press Enter."
  read -r || true
  sleep 5 # the page's last beacon, Firehose's second, the function
  for query in page-views-by-day top-pages visits-by-day; do
    show query --local "$query" --param "$DAYS" --param "$SOURCE"
  done
  show query --local funnel-of-three-steps --param "$DAYS" --param "$SOURCE" --param / --param /shoes --param purchase
}

main "$@"
