#!/usr/bin/env bash
# Delete a stack; its data stays unless you ask for its deletion.
#
# usage: scripts/destroy.sh [options]
#
# Shows what goes and what stays, asks you to type the stack's name, and follows the deletion to its end.
# Events still buffered in Firehose are lost: stop the senders first, and wait for one FirehoseBufferingInterval.
#
# Options:
#   --local               the local AWS (scripts/local.sh) instead of your AWS account
#   --profile NAME        a profile of your AWS configuration (default: AWS_PROFILE)
#   --region NAME         the region (default: AWS_REGION, else that of the profile)
#   --stack-name NAME     the stack (default: SLUICE_STACK_NAME, else sluice)
#   --delete-data         also delete the bucket, with every version of every object in it
#   --yes                 do not ask
#
# Exit codes: 0 deleted, 1 not (or not all of it), 2 wrong usage or no such stack, 130 interrupted.
set -euo pipefail
# shellcheck source=scripts/environment.sh
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/environment.sh"
run scripts.commands.destroy aws "$@"
