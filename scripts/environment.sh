# shellcheck shell=bash
# Sourced by the scripts beside it: one Python environment for all of them, made when it is first needed.
#
#   run MODULE SET "$@"        show the calling script's help, or run MODULE in the environment
#   ensure_environment SET     make the environment and install scripts/requirements/SET.txt into it: aws, console, erase,
#                              local or test
#
# DEBUG=1 traces the shell and shows Python's tracebacks. SLUICE_HOME, SLUICE_STACK_NAME and SLUICE_LOCAL=1 are in
# docs/reference.md#scripts.

if [[ ${DEBUG:-} == 1 ]]; then set -x; fi
unset PYTHONHOME PYTHONPATH

REPOSITORY=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
SLUICE_HOME=${SLUICE_HOME:-$REPOSITORY/.sluice}
if [[ $SLUICE_HOME != /* ]]; then SLUICE_HOME=$PWD/$SLUICE_HOME; fi
VENV="$SLUICE_HOME/venv"

fail() {
  printf 'error: %s\n' "$*" >&2
  exit 1
}

# The help of a script is its header comment: what is between the shebang and the first line of code.
print_help() {
  local line
  while IFS= read -r line; do
    case $line in
    '#!'*) ;;
    '#'*)
      line=${line#\#}
      printf '%s\n' "${line# }"
      ;;
    *) return ;;
    esac
  done <"$1"
}

# Prints the first interpreter on PATH that is new enough.
find_python() {
  local name found=""
  for name in python3 python3.14 python3.13 python3.12 python3.11; do
    command -v "$name" >/dev/null || continue
    if "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      printf '%s\n' "$name"
      return
    fi
    found=${found:-$("$name" -V 2>&1)}
  done
  fail "Python 3.11 or newer is needed (found: ${found:-no python3 on PATH}): install it from your packages or from python.org"
}

# Changes whenever a pin of any requirements file changes; the sets include each other.
requirements_checksum() {
  cat "$REPOSITORY"/scripts/requirements/*.txt "$REPOSITORY/lambda/requirements.txt" | cksum
}

# Installs a set into an environment.
install_with_pip() {
  "$1/bin/python" -m pip install --quiet --no-input --disable-pip-version-check \
    --requirement "$REPOSITORY/scripts/requirements/$2.txt"
}

# The same, for the large sets of tests, in a tenth of the time. uv does not read pip's settings, such as those of a
# mirror: where it fails, pip installs.
install_with_uv() {
  if ! install_with_pip "$1" uv || ! "$1/bin/uv" pip install --quiet --no-progress --system-certs --require-hashes \
    --python "$1/bin/python" --requirement "$REPOSITORY/scripts/requirements/$2.txt"; then
    install_with_pip "$1" "$2"
  fi
}

# What a set needs once its stamp is missing or old. Runs in a subshell that holds the lock.
install_requirements() {
  local set=$1 python=$2 checksum=$3 made="" log="$SLUICE_HOME/pip.log"
  # Without pip it is what an interrupted run left behind, or its Python is gone.
  if ! "$VENV/bin/python" -m pip --version >/dev/null 2>&1; then
    "$python" -c 'import ensurepip, venv' 2>/dev/null ||
      fail "$python comes without venv: on Debian and Ubuntu \`apt-get install $python-venv\` fixes it"
    echo "Making a Python environment in ${VENV#"$REPOSITORY/"} ..." >&2
    made=yes
    rm -rf "$VENV"
    if ! "$python" -m venv "$VENV" >"$log" 2>&1; then
      rm -rf "$VENV"
      fail "$python -m venv failed: $(tail -n 1 "$log") (all of it: $log)"
    fi
  fi
  echo "Installing scripts/requirements/$set.txt ..." >&2
  local install=install_with_pip
  if [[ $set == test ]]; then install=install_with_uv; fi
  if ! "$install" "$VENV" "$set" >"$log" 2>&1; then
    if [[ -n $made ]]; then rm -rf "$VENV"; fi
    fail "pip could not install scripts/requirements/$set.txt: $(grep -m 1 ERROR "$log" || tail -n 1 "$log")" \
      "(all of it: $log): check the network or the proxy, and run this again"
  fi
  # What a set includes is installed with it: erase is beside local, and test has both.
  local included="aws $set"
  if [[ $set == test ]]; then included="aws console erase local test"; fi
  for set in $included; do
    printf '%s\n' "$checksum" >"$VENV/.installed-$set"
  done
}

ensure_environment() {
  local set=$1 checksum python
  checksum=$(requirements_checksum)
  is_installed() { [[ -x $VENV/bin/python && $(cat "$VENV/.installed-$set" 2>/dev/null) == "$checksum" ]]; }
  if is_installed; then return; fi
  python=$(find_python)
  if ! mkdir -p "$SLUICE_HOME" 2>/dev/null || ! [[ -w $SLUICE_HOME ]]; then
    fail "$SLUICE_HOME cannot be written: let SLUICE_HOME name a folder for the environment and its state"
  fi
  # A lock belongs to the open file, not to the process that asked for it: Python takes it where flock(1) is missing,
  # and the kernel gives it back however this shell ends.
  (
    "$python" -c 'import fcntl; fcntl.flock(9, fcntl.LOCK_EX)'
    if ! is_installed; then install_requirements "$set" "$python" "$checksum"; fi
  ) 9>"$SLUICE_HOME/venv.lock"
}

# Shows the help where it is asked for, and refuses an option that the help does not have before anything is installed.
check_options() {
  local help argument
  help=$(print_help "$0")
  for argument in "$@"; do
    case $argument in
    -h | --help)
      printf '%s\n' "$help"
      exit 0
      ;;
    --) break ;;
    *[[:space:]]*) ;; # it is a value, such as SQL that begins with a comment
    --*)
      if ! [[ $help =~ "${argument%%=*}"([^a-z-]|$) ]]; then
        printf 'error: unrecognized arguments: %s (see scripts/%s --help)\n' "$argument" "${0##*/}" >&2
        exit 2
      fi
      ;;
    esac
  done
}

run() {
  local module=$1 set=$2
  shift 2
  check_options "$@"
  ensure_environment "$set"
  # The working directory stays the caller's, for file arguments; -P keeps what lies in it from being imported.
  export PYTHONPATH="$REPOSITORY:$REPOSITORY/lambda"
  exec "$VENV/bin/python" -P -m scripts.commands "$module" "$@"
}
