#!/usr/bin/env bash
# Post events to a stack: one from the command line, or a file of them.
#
# usage: scripts/track.sh [options] '{"name": "John", "action": "charge", "value": 100}'
#        scripts/track.sh [options] --file events.ndjson
#        scripts/track.sh [options] - < events.ndjson
#
# A file has one JSON object per line; or JSON arrays of objects, or pretty-printed objects, of any length. It may be
# gzip, and UTF-16 or UTF-32 if it begins with a byte order mark.
#
# Each event gets an event_id before its first try, so an event that is sent twice counts once. It keeps its own event_id
# if that is a whole number or a text that is not blank; any other value moves to properties.
#
# The ids of a file follow from its content: each from the texts of all events up to its own, without the white space
# between their tokens. So a file has the same ids when it is sent again, also from some line on, on standard input,
# packed, as an array, or after it has grown.
#   - A changed line changes the ids of all events after it. Fix refused events in the file that --refused writes.
#   - Files that begin with the same events share the ids of those, and so count them once. So does standard input: a
#     cron job that pipes the same line every minute, such as a heartbeat without a timestamp, counts once in all. If
#     these are different events, give each a timestamp or an id of its own, or each run another --seed, as in
#     --seed "$(date +%s)".
#
# One event goes to /track. Those of a file go to /batch, up to 5,000 events or 500 KB in a request, which is taken or
# refused as a whole; an event on standard input waits for others for half a second.
#
# Options:
#   --local               the local AWS (scripts/local.sh start) instead of your AWS account
#   --profile NAME        a profile of your AWS configuration (default: AWS_PROFILE)
#   --region NAME         the region (default: AWS_REGION, else that of the profile)
#   --stack-name NAME     the stack (default: SLUICE_STACK_NAME, else sluice)
#   --file FILE           the file of events; - is standard input
#   --from-line N         begin at this line of the file, counted from 1; an interrupted run says which. If lines are
#                         not events, as in an array, this is the number of the event
#   --refused FILE        write the events that were refused to this file, one per line, whatever their size
#   --seed TEXT           the ids of a file follow from this text as well (default: empty)
#   --rate N              requests per second at most (default: 80), where each 10 KB of a request count as one: 80 is
#                         800 KB/s, below the 1 MiB/s that a stream takes in most regions. A busy API slows it down
#   --wait                ask Athena until each accepted event is a row or is rejected, for 135 seconds more than the
#                         stack's FirehoseBufferingInterval at the most. On AWS each question costs 0.00005 USD or more,
#                         for up to 5,000 events; most need one. Takes about 200 MB of memory for a million events
#   --user-agent TEXT     the User-Agent header (default: sluice-track/1)
#   --api-key VALUE       the API key of a stack with ApiAuth=API_KEY; better in the variable SLUICE_API_KEY, which the
#                         list of processes does not show. Without either it is read from API Gateway, which takes the
#                         permission apigateway:GET
#
# For a stack with ApiAuth=AWS_IAM, requests are signed with your AWS credentials; with --local as root of the local
# account, whatever AWS_* and profiles say: for another's rights, sign requests of your own. Answers 429, 503 and the
# like are tried again, with pauses, for up to 8 times; 401 and 403 refuse you and no event, and end it at once.
# Standard output gets the API's answer for one event, and a JSON summary for a file; with --wait also a line of JSON
# with the numbers of rows, of rejected events, and of those in neither table, such as those that a rule drops. Exit
# codes: 0 all accepted (with --wait: each is a row or rejected), 1 some not, you may not post, or the API out of reach,
# 2 wrong usage or no such stack, 130 interrupted.
set -euo pipefail
# shellcheck source=scripts/environment.sh
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/environment.sh"
run scripts.commands.track.command aws "$@"
