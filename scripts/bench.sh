#!/bin/bash
# bench.sh: what a packet costs in memory (criterion, and a million tunnels beside one); as root
# also end to end over veth beside the bare AF_XDP ceiling of the same run, and what is lost while a
# control process dies or re-syncs a million tunnels, and the DTCP service with thousands of users.
# About eleven minutes, and the build.
set -euo pipefail
cd "$(dirname "$0")/.."
programs=${CARGO_TARGET_DIR:-$PWD/target}/release
out=${CARGO_TARGET_DIR:-$PWD/target}/bench
mkdir -p "$out"

# one build for the programs: a second one with other features would make the libraries again
cargo build --locked --release -p sixferryd -p sixferry-control -p sixferry-bench \
  --features sixferry-bench/dtcp --bin sixferryd --bin sixferry-control \
  --bin sixferry-bench-ratio --bin sixferry-bench-e2e --bin sixferry-bench-dtcp

echo "== in memory, ns a packet: criterion =="
cargo bench --locked -p sixferryd -p sixferry-control -p sixferry-bench \
  --features sixferry-bench/dtcp \
  --bench process -- --noplot --quiet
echo "== in memory: a million tunnels beside one =="
"$programs/sixferry-bench-ratio" --json "$out/ratio.json"
echo "== end to end over veth =="
if [ "$(id -u)" = 0 ]; then
  "$programs/sixferry-bench-e2e" --json "$out/e2e.json"
  echo "== DTCP: idle sessions, logins, everybody at once =="
  # a minute of it; without arguments it takes about ten
  "$programs/sixferry-bench-dtcp" --json "$out/dtcp.json" --rounds 1 --idle-sessions 4000 \
    --idle-seconds 15 --login-users 4000 --login-seconds 4 --churn-sessions 4000
  echo "figures of every trial: $out"
else
  echo "skipped: namespaces and AF_XDP need root; run: sudo make bench"
fi
