#!/bin/bash
# gate.sh: how many instructions a packet takes, against bench/instructions.json: more than 5 % more is a
# failure. "gate.sh --update REASON" writes what it takes now, and why, into that file.
set -euo pipefail
cd "$(dirname "$0")/.."
reason=""
if [ "${1:-}" = --update ]; then
  reason=${2:-}
  [ -n "$reason" ] || { echo "gate: say why: make gate-update REASON=\"...\"" >&2; exit 2; }
elif [ $# -gt 0 ]; then
  echo "gate: usage: gate.sh [--update REASON]" >&2; exit 2
fi
if [ "$(uname -m)" != x86_64 ]; then
  echo "gate: the baseline is x86-64's; nothing to compare with on $(uname -m)" >&2; exit 0
fi
cargo build --locked --quiet --release -p sixferry-bench --bin sixferry-bench-gate
REASON=$reason exec python3 -B scripts/gate.py \
  "${CARGO_TARGET_DIR:-$PWD/target}/release/sixferry-bench-gate" bench/instructions.json
