#!/usr/bin/env bash
# Show the state of a stack: arrivals, outcomes, waiting data, alarms, and whatever needs you.
#
# usage: scripts/status.sh [options]
#
# One screen: the stack's state and endpoint, the age of the last event, the last hour's outcomes, its drops by rule and
# refused requests by route, the age of what waits for delivery, alarms, errors of the deliveries, failed records, the
# newest object of each zone, dead letters. Its end lists what needs a person, each with the first command to type.
# Works while a stack is created or deleted, too.
#
# Options:
#   --json               the same facts as one JSON document
#   --watch [SECONDS]    look again every so many seconds (default: 10), until Ctrl-C
#   --local              the local AWS (scripts/local.sh) instead of your AWS account
#   --profile NAME       a profile of your AWS configuration (default: AWS_PROFILE)
#   --region NAME        the region (default: AWS_REGION, else that of the profile)
#   --stack-name NAME    the stack (default: SLUICE_STACK_NAME, else sluice)
#
# Exit codes, for cron: 0 nothing needs you, 1 something does, 2 wrong usage or no such stack, 130 interrupted.
set -euo pipefail
# shellcheck source=scripts/environment.sh
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/environment.sh"
run scripts.commands.status.command aws "$@"
