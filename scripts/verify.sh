#!/usr/bin/env bash
# Prove that a running stack accounts for every event: sends canaries, finds each one, and removes them.
#
# usage: scripts/verify.sh [options]
#
# Sends about 17,500 events, refused ones too, through every route of the API and through an SDK, waits for their
# delivery, and checks answers, rows, rejected events, failed records, objects and metrics. Prints one line a check:
# expected, seen.
# Objects that hold nothing but canaries are deleted again, in all versions; others are left, and named.
# It takes as long as the stream buffers (FirehoseBufferingInterval), and five minutes more with RawBackup.
#
# Options:
#   --local             the local AWS (scripts/local.sh) instead of your AWS account
#   --profile NAME      a profile of your AWS configuration (default: AWS_PROFILE)
#   --region NAME       the region (default: AWS_REGION, else that of the profile)
#   --stack-name NAME   the stack (default: SLUICE_STACK_NAME, else sluice)
#   --report FILE       write all findings to this file, as JSON
#   --throttle          also ask for preflights so often that the API must answer 429; browsers get it meanwhile, too
#   --remove RUN        only remove the rest of an earlier run that was interrupted or whose events came late
#   --yes               do not ask before anything is sent to an AWS account
#
# Needs credentials that may read the stack, its bucket and its logs, put records, run queries, and delete objects.
# Exit codes: 0 all as expected, 1 something differs or failed, 2 wrong usage or no such stack, 130 interrupted.
set -euo pipefail
# shellcheck source=scripts/environment.sh
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/environment.sh"
run scripts.commands.verify.command erase "$@"
