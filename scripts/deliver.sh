#!/usr/bin/env bash
# Deliver the rows of a saved query to an HTTP endpoint, and see their outcome.
#
# usage: scripts/deliver.sh run [options] [--query NAME] [--parameter VALUE]... [--from TIME --to TIME] [--no-wait]
#        scripts/deliver.sh status [options]
#        scripts/deliver.sh redrive [options]
#        scripts/deliver.sh token [options] < FILE
#
# run      start a run, and show its progress until the queue has no more rows of it
# status   the latest runs, the queue, and why rows were refused
# redrive  put refused rows into the queue again
# token    keep the endpoint's bearer token, from standard input, in Secrets Manager
#
# The stack delivers when it is deployed with --parameter DeliverUrl=https://..., as docs/deliver.md says.
#
# Options:
#   --local               the local AWS (scripts/local.sh) instead of your AWS account
#   --profile NAME        a profile of your AWS configuration (default: AWS_PROFILE)
#   --region NAME         the region (default: AWS_REGION, else that of the profile)
#   --stack-name NAME     the stack (default: SLUICE_STACK_NAME, else sluice)
#   --query NAME          another saved query than DeliverQuery
#   --parameter VALUE     instead of DeliverParameters: the value of the next `?` in the query; repeat it in the order of
#                         the question marks. {from} and {to} are the ends of the time window. A number stays a number,
#                         everything else is a string: quote a string of digits as "'42'"
#   --from TIME --to TIME this time window instead of the new rows: 2026-01-31 or 2026-01-31T18:00:00, in UTC
#   --no-wait             only start the run
#
# Standard output gets what status found, or the name of the run; the talk goes to standard error. Ctrl-C ends this
# script, not the run. Exit codes: 0 all delivered, 1 failed or some refused, 2 wrong usage or no
# such stack, 130 interrupted.
set -euo pipefail
# shellcheck source=scripts/environment.sh
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/environment.sh"
run stacks.deliver.command aws "$@"
