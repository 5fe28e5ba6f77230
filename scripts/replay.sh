#!/usr/bin/env bash
# Bring rejected events, failed records or raw records back, once the cause is fixed and deployed.
#
# usage: scripts/replay.sh --from rejected|errors|raw [options]
#
# Shows the stored events by reason, with the answers of this folder's transform today, and sends them to the stack's
# delivery stream. Events keep their event_id, position and received_at. Those that would be rejected or fail again are
# held back. Sent events are marked in the bucket under replayed/, so a second run sends nothing twice, also after a kill.
#
# Options:
#   --from ZONE         rejected (events), errors (records that failed) or raw (every record, with RawBackup)
#   --since DAY         from this day of delivery on, in UTC, as in 2026-01-31
#   --until DAY         up to this day, which counts
#   --reason REASON     only events rejected for this reason, or failed with this error code
#   --limit N           send at most so many
#   --dry-run           show, and send nothing
#   --yes               do not ask before anything is sent to an AWS account
#   --local             the local AWS (scripts/local.sh) instead of your AWS account
#   --profile NAME      a profile of your AWS configuration (default: AWS_PROFILE)
#   --region NAME       the region (default: AWS_REGION, else that of the profile)
#   --stack-name NAME   the stack (default: SLUICE_STACK_NAME, else sluice)
#
# Exit codes: 0 sent, or nothing to send; 1 an object was set aside because it cannot be read, or sending failed (the same
# command goes on from there); 2 wrong usage, no such stack or an empty zone; 130 interrupted.
set -euo pipefail
# shellcheck source=scripts/environment.sh
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/environment.sh"
run scripts.commands.replay.command aws "$@"
