#!/usr/bin/env bash
# Tell the cost of a month on AWS, its largest part and the first limit: an estimate, or from a stack's metrics.
#
# usage: scripts/cost.sh --events-per-month N --bytes B --events-per-request K
#        scripts/cost.sh --from-stack [--local] [--stack-name NAME]
#
# An estimate, with the template's defaults, a year of events stored, and 100 queries over 30 days each:
#   --events-per-month N        events; 10_000_000 is a number, too
#   --bytes B                   bytes of one event as it is sent
#   --events-per-request K      events in one request: 1 is /track, more is /batch
#
# From a stack: its metrics of the last week, scaled to a month of 730 hours.
#   --local                     the local AWS (scripts/local.sh): its quantities, at the prices of AWS
#   --profile NAME              a profile of your AWS configuration (default: AWS_PROFILE)
#   --region NAME               the region (default: AWS_REGION, else that of the profile)
#   --stack-name NAME           the stack (default: SLUICE_STACK_NAME, else sluice)
#
# These are list prices from public sources, not an offer: see docs/cost.md. Standard output gets the bill. Exit codes:
# 0 told, 1 failed, 2 wrong usage or no such stack.
set -euo pipefail
# shellcheck source=scripts/environment.sh
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/environment.sh"
run scripts.commands.cost.command aws "$@"
