#!/usr/bin/env bash
# Start, stop or reset the local AWS: the same pipeline on this machine, without an AWS account.
#
# usage: scripts/local.sh start [--port N] | stop | status | reset
#
#   start     run it in the background on 127.0.0.1 (default port: SLUICE_LOCAL_PORT, else 4566)
#   stop      stop it; stacks and events stay on disk
#   status    print its address, or "not running" (exit code 3)
#   reset     stop it and remove all of its state, which is in .sluice/local or SLUICE_LOCAL_STATE
#
# Exit codes: 0 done, 1 failed, 2 wrong arguments, 3 not running (status).
set -euo pipefail
# shellcheck source=scripts/environment.sh
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/environment.sh"
run scripts.commands.local local "$@"
