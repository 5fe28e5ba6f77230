#!/usr/bin/env bash
# Refine events into tables now: run the stack's SQL files for some days, in order.
#
# usage: scripts/refine.sh [--local] [--stack-name NAME] [--from DAY] [--to DAY] [--only TABLE]... | --last
#
#   --local             the local AWS (scripts/local.sh) instead of your AWS account
#   --profile NAME      a profile of your AWS configuration (default: AWS_PROFILE)
#   --region NAME       the region (default: AWS_REGION, else that of the profile)
#   --stack-name NAME   which stack (default: SLUICE_STACK_NAME, else sluice)
#   --from DAY          the first day, as 2026-01-31, on which the events happened (default: RefineDays days back)
#   --to DAY            the last day (default: today, in UTC)
#   --only TABLE        make this table only; repeat it for more. The tables that it needs stay as they are
#   --last              show the run that began last, and start none
#
# A day can be run again at any time, while people query: they see the old rows of a day or the new ones. While another
# run goes on, this one waits for its end. Ctrl-C leaves the run going. Prints a table of what was made on stdout; on
# stderr, days that stay as they were or have lost all their rows. Switch it on with scripts/deploy.sh --refine stacks/refine/sql.
# Exit codes: 0 done, 1 failed (with the file and the reason), 2 wrong usage or no such stack, 130 interrupted.
set -euo pipefail
# shellcheck source=scripts/environment.sh
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/environment.sh"
run stacks.refine.command aws "$@"
