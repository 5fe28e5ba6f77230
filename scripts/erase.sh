#!/usr/bin/env bash
# Erase one person: remove their events from every zone of the bucket, prove it, and leave a receipt without their data.
#
# usage: scripts/erase.sh --user-id ID | --anonymous-id ID [options]
#
# Shows the objects with rows of the person and their fate, and asks. Then it waits until all events under way are
# delivered, and looks again. Objects are rewritten without the person, or deleted if nothing is left; their older
# versions with the person, and all results of queries, are deleted. At the end everything is read once more. The same
# command continues a stopped run.
#
# Options:
#   --user-id ID        whose events: the user_id, after trimming. Other forms of it, such as another case, are named and
#                       not erased
#   --anonymous-id ID   the same for the anonymous_id, of somebody who has not signed in
#   --yes               do not ask before anything is erased
#   --receipt FILE      where the receipt goes (default: erase-receipt-<time>.json); one of the same person is continued
#   --local             the local AWS (scripts/local.sh) instead of your AWS account
#   --profile NAME      a profile of your AWS configuration (default: AWS_PROFILE)
#   --region NAME       the region (default: AWS_REGION, else that of the profile)
#   --stack-name NAME   the stack (default: SLUICE_STACK_NAME, else sluice)
#
# Exit codes: 0 nothing of the person is left; 1 an object was set aside because it cannot be read, or something is
# left; 2 wrong usage, no such stack, or nobody to ask: only shown; 130 interrupted.
set -euo pipefail
# shellcheck source=scripts/environment.sh
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/environment.sh"
run scripts.commands.erase.command erase "$@"
