#!/bin/bash
# interop.sh: the tests with a real Linux router at the far end, and those with two relays; part
# of test.sh, here alone. A missing peer is a failure.
set -euo pipefail
cd "$(dirname "$0")/.."
if [ "$(id -u)" != 0 ]; then
  echo "interop: namespaces and AF_XDP need root: sudo make interop" >&2
  exit 2
fi
export SIXFERRY_REQUIRE=${SIXFERRY_REQUIRE-afxdp,sit,qemu}
cargo build --locked -p sixferryd
export SIXFERRY_BIN_DIR="${CARGO_TARGET_DIR:-$PWD/target}/debug"
cargo nextest run --locked -p sixferry-netns-tests --run-ignored all \
  -E 'test(/^(sit|peers|interop|crossed|fragments)::/)' "$@"
