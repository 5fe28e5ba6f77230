#!/usr/bin/env bash
# Open pages about a stack in your browser: arrivals, rejections, and the answers of saved queries.
#
# usage: scripts/console.sh [options]
#
# Prints the address to open in a browser, and serves it until Ctrl-C. The pages take nothing from the internet, answer
# to a browser on this machine alone, and use the AWS credentials of this shell. They change nothing in AWS, except that
# queries run in the stack's workgroup. On AWS nothing that costs runs before a click, and each button has its price
# beside it.
#
# Options:
#   --port P             the port on 127.0.0.1 (default: 8321; 0 takes a free one)
#   --export FILE.html   write what all saved queries without parameters answer today into one file, and end. On AWS
#                        each query costs 0.00005 USD or more
#   --local              the local AWS (scripts/local.sh) instead of your AWS account
#   --profile NAME       a profile of your AWS configuration (default: AWS_PROFILE)
#   --region NAME        the region (default: AWS_REGION, else that of the profile)
#   --stack-name NAME    the stack (default: SLUICE_STACK_NAME, else sluice)
#
# Exit codes: 0 exported, 1 failed, as when the port is taken, 2 wrong usage or no such stack, 130 interrupted.
set -euo pipefail
# shellcheck source=scripts/environment.sh
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/environment.sh"
run scripts.commands.console.command console "$@"
