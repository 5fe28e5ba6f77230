#!/usr/bin/env bash
# Bring rejected events, failed records or raw records back, once what was wrong is mended and deployed.
#
# usage: scripts/replay.sh --from rejected|errors|raw [options]
#
# Shows by reason what there is and what the transform of this folder would say to it today, and sends it to the stack's
# delivery stream. Events keep their event_id, position and received_at. What would be rejected or fail again is held
# back. What has been sent is marked in the bucket under replayed/, so that a second run sends nothing twice: also one
# that follows a run which was killed.
#
# Options:
#   --from ZONE         rejected (events), errors (records that failed) or raw (every record, with RawBackup)
#   --since DAY         from this day of delivery on, in UTC, as in 2026-01-31
#   --until DAY         up to this day, which counts
#   --reason REASON     only what was rejected for this reason, or failed with this error code
#   --limit N           send at most so many
#   --dry-run           show, and send nothing
#   --yes               do not ask before anything is sent to an AWS account
#   --local             the local AWS (scripts/local.sh) instead of your AWS account
#   --stack-name NAME   the stack (default: sluice)
#
# Exit codes: 0 sent, or nothing to send; 1 an object was set aside because it cannot be read, or sending failed (the same
# command goes on from there); 2 wrong usage, no such stack or an empty zone; 130 interrupted.
set -euo pipefail
# shellcheck source=scripts/environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

main() {
  run replay aws "$@"
}

main "$@"
