#!/usr/bin/env bash
# Ask a stack's events a question: a saved query by its name, or SQL of your own.
#
# usage: scripts/query.sh [options] --list
#        scripts/query.sh [options] NAME
#        scripts/query.sh [options] --sql 'SELECT count(*) FROM ${AthenaTableName}'
#
# The saved queries are those of the deployed stack (queries.sql as it was deployed). In --sql, ${AthenaDatabaseName}
# and ${AthenaTableName} stand for the stack's own. Athena's SQL is Trino's.
#
# Options:
#   --local               the local AWS (scripts/local.sh) instead of your AWS account
#   --profile NAME        a profile of your AWS configuration (default: AWS_PROFILE)
#   --region NAME         the region (default: AWS_REGION, else that of the profile)
#   --stack-name NAME     the stack (default: SLUICE_STACK_NAME, else sluice)
#   --list                show the saved queries and the question that each answers
#   --sql SQL             run this instead of a saved query
#   --param VALUE         the value of the next `?` in the query; repeat it in the order of the question marks.
#                         A number stays a number, everything else is a string: quote a string of digits as "'42'"
#   --format FORMAT       table (default), csv, or json (one object per line). A table that is wider than the terminal
#                         becomes lines of a name and a value, so that no id or time is cut. In csv, a text that a
#                         spreadsheet would take for a formula gets an apostrophe in front; json has every text exactly
#
# Standard output gets the rows; the number of rows, the bytes scanned, the time and the cost go to standard error. So
# does the age of the newest event, if the result has received_at or last_received_at: it is taken from these alone.
# Ctrl-C stops the query in Athena too. Exit codes: 0 answered, 1 failed, 2 wrong usage or no such stack, 130
# interrupted.
set -euo pipefail
# shellcheck source=scripts/environment.sh
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/environment.sh"
run scripts.commands.query aws "$@"
