#!/bin/bash
# demo.sh: build the programs and run the lab's demonstration; exit 0 only if every flow passed.
set -euo pipefail
cd "$(dirname "$0")/.."
if [ "$(id -u)" != 0 ]; then
  echo "demo: namespaces and AF_XDP need root: sudo make demo" >&2
  exit 2
fi
cargo build --locked --release -p sixferryd -p sixferry-control -p sixferry -p sixferry-cpe
exec "${CARGO_TARGET_DIR:-$PWD/target}/release/sixferry" lab demo "$@"
