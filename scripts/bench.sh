#!/bin/bash
# bench.sh: what a packet costs in memory (criterion, and a million tunnels beside one); as root
# also end to end over veth beside the bare AF_XDP ceiling of the same run.
set -euo pipefail
cd "$(dirname "$0")/.."
cargo bench --locked -p sixferry-bench --bench process
cargo run --locked --release -q -p sixferry-bench --bin sixferry-bench-ratio
