#!/bin/bash
# demo.sh: build the programs and run the lab's demonstration; exit 0 only if every flow passed.
set -euo pipefail
cd "$(dirname "$0")/.."
if [ "$(id -u)" != 0 ]; then
  echo "demo: namespaces and AF_XDP need root: sudo make demo" >&2
  exit 2
fi
# What `make test` builds too, and in half the time of a release build; the packet path is optimised in
# either (Cargo.toml).
cargo build --locked -p sixferryd -p sixferry-control -p sixferry -p sixferry-cpe
exec "${CARGO_TARGET_DIR:-$PWD/target}/debug/sixferry" lab demo "$@"
