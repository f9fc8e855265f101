#!/bin/bash
# soak.sh: mixed traffic for SIXFERRY_SOAK_SECONDS, then the counter invariant to the packet; and the
# daemons killed SIXFERRY_KILL_ROUNDS times under logins.
set -euo pipefail
cd "$(dirname "$0")/.."
if [ "$(id -u)" != 0 ]; then
  echo "soak: namespaces and AF_XDP need root: sudo make soak" >&2
  exit 2
fi
export SIXFERRY_SOAK_SECONDS=${SIXFERRY_SOAK_SECONDS:-600}
export SIXFERRY_REQUIRE=${SIXFERRY_REQUIRE-afxdp,sit}
export SIXFERRY_KILL_ROUNDS=${SIXFERRY_KILL_ROUNDS:-100}
cargo build --locked --release -p sixferryd -p sixferry-control -p sixferry-cpe
export SIXFERRY_BIN_DIR="${CARGO_TARGET_DIR:-$PWD/target}/release"
cargo nextest run --locked --profile soak -p sixferry-netns-tests --run-ignored all \
  -E 'test(/^soak::/) | test(/^dtcp::.*kill/)'
