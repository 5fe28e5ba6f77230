#!/usr/bin/env bash
# Pull the rows of declared REST APIs, see their state, and send given-up requests again.
#
# usage: scripts/pull.sh run [options] [--source NAME]... [--no-wait]
#        scripts/pull.sh status [options] [--source NAME]...
#        scripts/pull.sh redrive [options] [--source NAME]... [--discard]
#        scripts/pull.sh token [options] NAME < FILE
#
# run      start a run, or continue one that failed, and show its progress
# status   each source's checkpoint and last run, and why requests were given up
# redrive  put given-up requests into the queue again; then `run` counts them
# token    keep a source's credentials, from standard input, in Secrets Manager
#
# The stack pulls when it is deployed with scripts/deploy.sh --pull DIR, as docs/pull.md says.
#
# Options:
#   --local             the local AWS (scripts/local.sh) instead of your AWS account
#   --profile NAME      a profile of your AWS configuration (default: AWS_PROFILE)
#   --region NAME       the region (default: AWS_REGION, else that of the profile)
#   --stack-name NAME   the stack (default: SLUICE_STACK_NAME, else sluice)
#   --source NAME       only this source; repeat it for more (default: all)
#   --no-wait           only start the run
#   --discard           give the requests up for good instead, so that their run can end without them
#
# Standard output gets the tables; the talk goes to standard error. Ctrl-C ends this script, not the run. Exit codes:
# 0 all has landed or nothing was new, 1 failed or some was given up, 2 wrong usage or no such stack, 130
# interrupted.
set -euo pipefail
# shellcheck source=scripts/environment.sh
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/environment.sh"
run stacks.pull.command aws "$@"
