#!/usr/bin/env bash
# Deploy the stack, or update it: shows the changes, asks, and shows the progress.
#
# usage: scripts/deploy.sh [--local] [--stack-name NAME] [--environment NAME] [--parameter Key=Value]...
#                          [--refine DIR|off] [--pull DIR|off] [--queries FILE]... [--package DIR] [--yes]
#
#   --local             deploy into the local AWS instead of an AWS account; starts it if it does not run
#   --profile NAME      a profile of your AWS configuration (default: AWS_PROFILE)
#   --region NAME       the region (default: AWS_REGION, else that of the profile)
#   --stack-name NAME   which stack (default: SLUICE_STACK_NAME, else sluice); a second stack lives beside the first
#   --environment NAME  set the parameters of scripts/environments/NAME.json (dev or prod) or of a file NAME.json, and
#                       protect the stack from deletion as it says; the stack is sluice-NAME unless --stack-name
#                       names another
#   --parameter K=V     set a parameter of template.yaml; what is not given keeps its value
#   --refine DIR|off    refine events by the SQL files of a folder, such as refine/ (docs/refine.md); kept until `off`
#   --pull DIR|off      pull from the REST APIs that a folder declares (docs/pull.md); kept until `off`
#   --queries FILE      save the queries of this file beside those of queries.sql; not kept: give it each time
#   --package DIR       deploy nothing, and write the files for another pipeline into an empty folder;
#                       --parameter ArtifactBucket=NAME names the bucket of that pipeline (docs/operating.md)
#   --yes               do not ask
#
# Prints the stack's outputs on stdout, a key and a value a line; with --package, the commands that deploy the package.
# Needs AWS credentials that may create the stack; --package needs none.
# Exit codes: 0 deployed or nothing to change, 1 failed, 2 wrong usage or no such environment, 130 interrupted.
set -euo pipefail
# shellcheck source=scripts/environment.sh
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/environment.sh"
run scripts.commands.deploy.command aws "$@"
