#!/usr/bin/env bash
# Pin every library with its hashes: make the requirements' .txt files from the .in files, which people edit.
#
# usage: scripts/lock.sh [--upgrade]
#
#   --upgrade    take the newest versions of what the .in files leave open
#
# Needs the network. Then pip installs exactly the files that are pinned.
set -euo pipefail
# shellcheck source=scripts/environment.sh
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/environment.sh"

UV=$(sed "s/uv==//" "$REPOSITORY/scripts/requirements/uv.in")

main() {
  local options=()
  case ${1:-} in
  -h | --help) print_help "$0" && exit 0 ;;
  --upgrade) options=(--upgrade) ;;
  '') ;;
  *) fail "unknown option '$1' (see scripts/lock.sh --help)" ;;
  esac
  local uv="$REPOSITORY/.sluice/uv-$UV" file
  if ! [[ -x $uv/bin/uv ]]; then
    "$(find_python)" -m venv "$uv"
    "$uv/bin/pip" install --quiet --disable-pip-version-check "uv==$UV"
  fi
  cd "$REPOSITORY"
  for file in lambda/requirements scripts/requirements/{aws,console,erase,local,test,checkov,clients,uv}; do
    echo "Locking $file.txt ..." >&2
    # For every platform and every Python from 3.11 on, as people have different ones.
    "$uv/bin/uv" pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate \
      --no-emit-index-url --custom-compile-command scripts/lock.sh "${options[@]}" --output-file "$file.txt" "$file.in"
  done
}

main "$@"
