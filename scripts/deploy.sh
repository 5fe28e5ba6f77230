#!/usr/bin/env bash
# Deploy the stack, or update it: shows what will change, asks, and shows how it goes.
#
# usage: scripts/deploy.sh [--local] [--stack-name NAME] [--parameter Key=Value]... [--yes]
#
#   --local             deploy into the local AWS (scripts/local.sh start) instead of an AWS account
#   --stack-name NAME   which stack (default: sluice); a second stack lives beside the first
#   --parameter K=V     set a parameter of template.yaml; what is not given keeps its value
#   --yes               do not ask
#
# Prints the stack's outputs on stdout, a key and a value a line. Needs AWS credentials that may create the stack.
# Exit codes: 0 deployed or nothing to change, 1 failed, 2 wrong arguments, 130 interrupted.
set -euo pipefail
# shellcheck source=scripts/environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

main() {
  run deploy aws "$@"
}

main "$@"
