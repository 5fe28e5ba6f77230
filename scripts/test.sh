#!/usr/bin/env bash
# Run everything that CI runs: linters, types, templates, and all tests.
#
# usage: scripts/test.sh [--quick] [TEST... [PYTEST OPTIONS]]
#        scripts/test.sh --clients
#
#   --quick    leave out what is slow: checkov and the tests against a running local AWS
#   --clients  run one task with each common reader of Athena against a local AWS, and nothing else: PyAthena, pandas,
#              awswrangler and the AWS CLI, unmodified
#   TEST       run these tests and nothing else: files or folders, as pytest takes them, such as tests/test_docs.py
#
# checkov runs when a template, or what completes it, differs from the commit before, and at a tag: it takes a minute.
#
# The quick tests run 400 days ahead of today and in India's time zone, so that no test depends on a date or a time
# zone. That needs Linux on x86-64; elsewhere they run today.
#
# The transform's tests run on Python 3.13 as well, as on AWS, if a python3.13 is on PATH.
#
# Installs what it needs into .sluice/. Exit codes: 0 all is well, 1 something is not.
set -euo pipefail
# shellcheck source=scripts/environment.sh
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/environment.sh"

# Many tests start Python, which would compile everything each time.
unset PYTHONDONTWRITEBYTECODE

step() {
  printf '\n== %s\n' "$1" >&2
  shift
  "$@"
}

# Waits for a background job and shows what it wrote.
show() {
  local code=0
  wait "$1" || code=$?
  cat "$2"
  return "$code"
}

# Runs a command 400 days ahead. Its monotonic clocks stay as they are.
ahead() (
  eval "$(python-libfaketime)"
  export FAKETIME=+400d TZ=Asia/Kolkata
  "$@"
)

# So many files of tests run at the same time, and they say how long the slowest took.
tests() {
  local processes=$1
  shift
  pytest -q -n "$processes" --dist loadfile --durations=20 "$@"
}

quick_tests() {
  if [[ $(ahead date -u +%Y-%m 2>/dev/null) > $(date -u +%Y-%m) ]]; then
    ahead tests 2 -m "not slow"
  else
    echo "The clock cannot be shifted on this machine, so these tests run today." >&2
    tests 2 -m "not slow"
  fi
}

# Reads no file without such a test: that takes as long as some of the tests. The folders with the longest tests come
# first, and xdist keeps this order, so that no long one begins when the others are done. They wait as much as they work.
slow_tests() {
  local files longest=(tests/examples tests/end_to_end tests/scripts tests/stacks tests/test_granted.py)
  mapfile -t files < <(grep -rl --include='test_*.py' 'pytest.mark.slow' "${longest[@]}" tests | awk '!seen[$0]++')
  tests 3 --no-loadscope-reorder -m slow "${files[@]}"
}

# An environment beside the others, for a set that cannot be with them or another Python; made anew when a pin changes.
ensure_own_environment() {
  local environment="$SLUICE_HOME/$1" python=$2 set=$3 pins="$REPOSITORY/scripts/requirements/$3.txt"
  if ! cmp -s "$pins" "$environment/installed.txt"; then
    rm -rf "$environment"
    "$python" -m venv "$environment"
    install_with_uv "$environment" "$set"
    cp "$pins" "$environment/installed.txt"
  fi
}

# checkov pins a boto3 of its own, and so lives in an environment of its own. Its paths must be relative: it takes 40
# letters and slashes in a row of an absolute path for a secret key of AWS.
check_security() {
  ensure_own_environment checkov "$(find_python)" checkov
  "$SLUICE_HOME/checkov/bin/checkov" --framework cloudformation --file "$@" --compact --quiet --skip-download
}

# What AWS runs the functions with, if it is here and the environment has another one.
python_of_aws() {
  ! "$VENV/bin/python" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 13))' && python3.13 -c '' 2>/dev/null
}

test_on_python_of_aws() {
  ensure_own_environment python3.13 python3.13 test
  "$SLUICE_HOME/python3.13/bin/python" -m pytest -q tests/lambda/transform
}

# Whether the templates may differ from those of the commit before, or this commit has a tag.
templates_differ() {
  ! git diff --quiet HEAD~1 -- '*.yaml' queries.sql scripts/commands/deploy scripts/requirements/checkov.txt 2>/dev/null ||
    git describe --exact-match --tags >/dev/null 2>&1
}

main() {
  local quick="" clients=""
  case ${1:-} in
  -h | --help) print_help "$0" && exit 0 ;;
  --quick) quick=yes && shift ;;
  --clients) clients=yes && shift ;;
  -*) fail "unknown option '$1' (see scripts/test.sh --help)" ;;
  esac
  ensure_environment test
  cd "$REPOSITORY"
  export PATH="$VENV/bin:$PATH"
  if [[ -n $clients ]]; then
    # The readers pin libraries of their own.
    ensure_own_environment clients "$(find_python)" clients
    exec pytest -q tests/local/athena/test_athena_readers.py
  fi
  if [[ $# -gt 0 ]]; then
    local few=(pytest --durations=5 "$@")
    if [[ -n $quick ]]; then few+=(-m "not slow"); fi
    exec "${few[@]}"
  fi
  # The types take as long as all the others, so they are checked beside them.
  mypy >"$SLUICE_HOME/mypy.log" 2>&1 &
  local types=$!
  trap 'kill $(jobs -p) 2>/dev/null || true' EXIT
  step "shell scripts" shellcheck -x scripts/*.sh examples/*.sh examples/*/*.sh .ci/run
  step "shell format" shfmt -i 2 -d scripts examples .ci/run
  step "python style" ruff check .
  step "python format" ruff format --check .
  step "python security" bandit --quiet --recursive lambda scripts stacks --severity-level medium --confidence-level medium
  # The core is checked as scripts/deploy.sh completes it, and by cfn-lint also as it is.
  local deployed=.sluice/build/deployed.yaml
  mkdir -p .sluice/build
  PYTHONPATH=lambda python -m scripts.commands.deploy.deployed >"$deployed"
  local templates=("$deployed" stacks/*/template.yaml examples/*.yaml tests/aws/probe.yaml)
  step "templates" cfn-lint --include-checks I -- template.yaml "${templates[@]}"
  step "python types" show "$types" "$SLUICE_HOME/mypy.log"
  if ! command -v chromium-headless-shell chromium chromium-browser google-chrome >/dev/null; then
    echo "The browser tests are left out: Chromium is not on PATH" \
      "(Debian: apt-get install chromium-headless-shell)." >&2
  fi
  if [[ -z $quick ]]; then
    if templates_differ; then
      step "template security" check_security "${templates[@]}"
    else
      echo "checkov is left out: no template differs from the commit before." >&2
    fi
  fi
  step "quick tests, 400 days ahead" quick_tests
  if [[ -z $quick ]]; then
    if python_of_aws; then step "the transform on Python 3.13" test_on_python_of_aws; fi
    step "slow tests" slow_tests
  fi
}

main "$@"
