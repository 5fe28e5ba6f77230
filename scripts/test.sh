#!/usr/bin/env bash
# Run everything that CI runs: linters, types, templates, and all tests.
#
# usage: scripts/test.sh [--quick]
#
#   --quick    leave out what is slow: checkov and the tests against a running local AWS
#
# Installs what it needs into .sluice/. Exit codes: 0 all is well, 1 something is not.
set -euo pipefail
# shellcheck source=scripts/environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

DEPLOYED="$REPOSITORY/.sluice/build/deployed.yaml"

step() {
  printf '\n== %s\n' "$1" >&2
  shift
  "$@"
}

# checkov pins a boto3 of its own, and so lives in an environment of its own.
check_security() {
  local checkov="$REPOSITORY/.sluice/checkov"
  if ! [[ -x $checkov/bin/checkov ]]; then
    rm -rf "$checkov"
    "$(find_python)" -m venv "$checkov"
    "$checkov/bin/pip" install --quiet --disable-pip-version-check -r scripts/requirements/checkov.txt
  fi
  "$checkov/bin/checkov" --framework cloudformation --file "$DEPLOYED" stacks/*.yaml examples/key.yaml --compact --quiet \
    --skip-download
}

main() {
  local quick=""
  case ${1:-} in
  -h | --help) print_help "$0" && exit 0 ;;
  --quick) quick=yes ;;
  '') ;;
  *) fail "unknown option '$1' (see scripts/test.sh --help)" ;;
  esac
  ensure_environment test
  cd "$REPOSITORY"
  export PATH="$VENV/bin:$PATH"
  step "shell scripts" shellcheck -x scripts/*.sh examples/*.sh examples/*/*.sh .ci/run
  step "shell format" shfmt -i 2 -d scripts examples .ci/run
  step "python style" ruff check .
  step "python format" ruff format --check .
  step "python types" mypy
  step "python security" bandit --quiet --recursive lambda scripts --severity-level medium --confidence-level medium
  # As it stands, and as scripts/deploy.sh completes it.
  mkdir -p "$(dirname "$DEPLOYED")"
  python -m scripts.commands.deployed >"$DEPLOYED"
  step "templates" cfn-lint --include-checks I -- template.yaml "$DEPLOYED" stacks/*.yaml examples/key.yaml scripts/probe.yaml
  if [[ -n $quick ]]; then
    step "tests" pytest -q -n 2 --dist loadfile -m "not slow"
  else
    step "template security" check_security
    # Many of them wait for a local AWS, and two files can wait at the same time.
    step "tests" pytest -q -n 2 --dist loadfile
  fi
}

main "$@"
