#!/usr/bin/env bash
# Tell what a month costs on AWS, what dominates, and what to change first: an estimate, or from a stack's own metrics.
#
# usage: scripts/cost.sh --events-per-month N --bytes B --events-per-request K [options]
#        scripts/cost.sh --from-stack [--local] [--stack-name NAME] [--days D] [options]
#        scripts/cost.sh --compare --bytes B
#
# What comes in (whole numbers; 10_000_000 is one, too):
#   --events-per-month N        events
#   --bytes B                   bytes of one event as it is sent
#   --events-per-request K      events in one request: 1 is /track, more is /batch
#
# What is kept and asked (with the template's defaults, if it has any):
#   --output-format FORMAT      PARQUET (default) or JSON
#   --buffering-interval S      FirehoseBufferingInterval in seconds (60)
#   --memory MB                 LambdaMemorySize (512)
#   --tracing                   with Tracing ENABLED, under X-Ray's default rule
#   --retention DAYS            for how many days events are stored (365: an endless retention after its first year)
#   --queries-per-month Q       queries (100)
#   --days-per-query D          days of dt that a query reads (30)
#   --alarms A, --dashboards A  of CloudWatch (0)
#
# What the optional stacks do in a month:
#   --refine-runs N             runs of refinement (0)
#   --refine-statements S       statements of a run (3: one for each table, with the files of refine/)
#   --pull-runs N               runs that pull one source (0)
#   --pull-pages P              requests of all runs (0)
#   --deliver-runs N            runs of delivery (0)
#   --deliver-rows R            rows of all runs (0)
#
# From a stack: quantities out of its metrics, scaled to a month of 730 hours. What no metric tells is worked out.
#   --local                     the local AWS (scripts/local.sh): its quantities, at the prices of AWS
#   --stack-name NAME           the stack (default: sluice)
#   --days D                    how far to look back (7)
#
#   --compare                   what a million events cost in other designs: 1, 20 and 500 of them to a request
#   --prices FILE               another price file (default: scripts/prices/us-east-1.json)
#   --free-tier                 subtract what is free in every account, as far as the price file knows it
#   --json                      the same facts as one JSON document, with the source of each price
#
# The prices are list prices from public sources, no offer: see docs/cost.md. Standard output gets the bill. Exit codes:
# 0 told, 1 failed, 2 wrong usage or no such stack.
set -euo pipefail
# shellcheck source=scripts/environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

main() {
  run cost aws "$@"
}

main "$@"
