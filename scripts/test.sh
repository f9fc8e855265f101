#!/bin/bash
# test.sh: every test of the workspace. Root also runs those in namespaces with real peers, and
# a missing peer is then a failure.
set -euo pipefail
cd "$(dirname "$0")/.."

arguments=(--locked --workspace)
ignored=()
if [ "$(id -u)" = 0 ]; then
  export SIXFERRY_REQUIRE=${SIXFERRY_REQUIRE-afxdp,sit,qemu}
  arguments+=(--features sixferry-vectors/steering,sixferry-bench/e2e)
  ignored=(--run-ignored all)
else
  echo "test: not root: tests in namespaces with real peers are left out" >&2
fi

# The namespace tests start the programs themselves: build those first, then all tests.
cargo build "${arguments[@]}" --bins
export SIXFERRY_BIN_DIR="${CARGO_TARGET_DIR:-$PWD/target}/debug"
cargo nextest run "${arguments[@]}" "${ignored[@]}" "$@"
