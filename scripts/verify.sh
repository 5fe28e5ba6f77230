#!/usr/bin/env bash
# Prove that a running stack accounts for every event: sends canaries, looks where each one went, and removes them.
#
# usage: scripts/verify.sh [options]
#        scripts/verify.sh --compare a.json b.json
#
# Sends about 17,500 events through every route of the API, with what it refuses, and through an SDK, waits for their
# delivery, and checks answers, rows, rejected events, failed records, objects and metrics. Prints one line a check:
# expected, seen.
# Objects that hold nothing but canaries are deleted again, in all versions; others are left, and named.
# It takes as long as the stream buffers (FirehoseBufferingInterval), and five minutes more with RawBackup.
#
# Options:
#   --local             the local AWS (scripts/local.sh) instead of your AWS account
#   --stack-name NAME   the stack (default: sluice)
#   --report FILE       write everything that was seen to this file, as JSON
#   --throttle          also ask so often that the API must answer 429; other senders get it meanwhile, too
#   --probe-transform   also see how Firehose treats a transform that leaves a record out, and one that raises: in a
#                       small stack of its own, which is created and deleted; for that you must be allowed to
#   --remove RUN        only remove what an earlier run has left, as it was interrupted or its events came late
#   --yes               do not ask before anything is sent to an AWS account
#   --compare A B       list where two reports differ, as of AWS and of the local AWS; ids and times do not count
#
# Needs credentials that may read the stack, its bucket and its logs, put records, run queries, and delete objects.
# Exit codes: 0 all as expected, 1 something differs or failed, 2 wrong usage or no such stack, 130 interrupted.
set -euo pipefail
# shellcheck source=scripts/environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

main() {
  run verify erase "$@"
}

main "$@"
