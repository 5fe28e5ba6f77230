#!/usr/bin/env bash
# Post events to a stack: one from the command line, or a file of them.
#
# usage: scripts/track.sh [options] '{"name": "John", "action": "charge", "value": 100}'
#        scripts/track.sh [options] --file events.ndjson
#        scripts/track.sh [options] - < events.ndjson
#
# A file holds one JSON object per line. Each event gets an event_id before its first try, unless it has one, so that
# an event which a retry posts twice is counted once. For a file the ids follow from its content and the line numbers:
# sending the same file again, whole or from some line on, gives the same ids. On standard input they are random.
#
# One event goes to /track. Those of a file go to /batch, up to 5,000 events or 500 KB in a request, which is taken or
# refused as a whole; an event on standard input waits for others for half a second.
#
# Options:
#   --local               the local AWS (scripts/local.sh start) instead of your AWS account
#   --stack-name NAME     the stack (default: sluice)
#   --file FILE           the events, one JSON object per line; - is standard input
#   --from-line N         begin at this line, counted from 1; an interrupted run says which
#   --refused FILE        write the events that were refused to this file, one per line
#   --rate N              requests per second at most (default: 80), where each 10 KB of a request count as one: 80 is
#                         800 KB/s, below the 1 MiB/s that a stream takes in most regions. A busy API slows it down
#   --user-agent TEXT     the User-Agent header (default: sluice-track/1)
#   --api-key VALUE       the API key of a stack with ApiAuth=API_KEY; better in the variable SLUICE_API_KEY, which the
#                         list of processes does not show. Without either it is read from API Gateway, which takes the
#                         permission apigateway:GET
#
# For a stack with ApiAuth=AWS_IAM, requests are signed with your AWS credentials; with --local as root of the local
# account, whatever AWS_* and profiles say: for another's rights, sign requests of your own. Answers 429, 503 and the
# like are tried again, with pauses, for up to 8 times; 401 and 403 refuse you and no event, and end it at once.
# Standard output gets the API's answer for one event, and a JSON summary for a file. Exit codes: 0 all accepted,
# 1 some refused, you may not post, or the API out of reach, 2 wrong usage or no such stack, 130 interrupted.
set -euo pipefail
# shellcheck source=scripts/environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

main() {
  run track aws "$@"
}

main "$@"
