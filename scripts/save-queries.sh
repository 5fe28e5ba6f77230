#!/usr/bin/env bash
# Copy the saved queries of queries.sql into template.yaml: run this after an edit of queries.sql.
#
# usage: scripts/save-queries.sh
#
# Exit codes: 0 done, 2 wrong usage, or queries.sql cannot be read as saved queries.
set -euo pipefail
# shellcheck source=scripts/environment.sh
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/environment.sh"
run scripts.commands.deploy.queries aws "$@"
