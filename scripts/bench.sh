#!/bin/bash
# bench.sh: what a packet costs in memory (criterion, and a million tunnels beside one); as root
# also end to end over veth beside the bare AF_XDP ceiling of the same run, and what is lost while a
# control process dies or re-syncs a million tunnels. About ten minutes, and the build.
set -euo pipefail
cd "$(dirname "$0")/.."
programs=${CARGO_TARGET_DIR:-$PWD/target}/release
out=${CARGO_TARGET_DIR:-$PWD/target}/bench
mkdir -p "$out"

# one build for the programs: a second one with other features would make the libraries again
cargo build --locked --release -p sixferryd -p sixferry-bench --features sixferry-bench/e2e \
  --bin sixferryd --bin sixferry-bench-ratio --bin sixferry-bench-e2e

echo "== in memory, ns a packet: criterion =="
cargo bench --locked -p sixferryd -p sixferry-bench --features sixferry-bench/e2e \
  --bench process -- --noplot --quiet
echo "== in memory: a million tunnels beside one =="
"$programs/sixferry-bench-ratio" --json "$out/ratio.json"
echo "== end to end over veth =="
if [ "$(id -u)" = 0 ]; then
  "$programs/sixferry-bench-e2e" --json "$out/e2e.json"
  echo "figures of every trial: $out"
else
  echo "skipped: namespaces and AF_XDP need root; run: sudo make bench"
fi
