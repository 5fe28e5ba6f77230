#!/usr/bin/env bash
# See the whole pipeline run on this machine: real events in, rows of saved queries out.
#
# usage: scripts/demo.sh [--port N]
#
#   --port N    where the local AWS listens on 127.0.0.1 if it is not running yet (default: SLUICE_LOCAL_PORT,
#               else 4566)
#
# Installs what it needs into .sluice/, starts the local AWS, deploys template.yaml, posts 8,764 events, waits for their
# delivery, accounts for each of them and runs two saved queries. May be run again: no event becomes a second row.
# Exit codes: 0 all events are accounted for, 1 something failed, 130 interrupted.
set -euo pipefail
# shellcheck source=scripts/environment.sh
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/environment.sh"
run scripts.commands.demo local "$@"
