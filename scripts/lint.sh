#!/bin/bash
# lint.sh: everything that can be wrong without running the program.
set -euo pipefail
cd "$(dirname "$0")/.."
step() { echo "lint: $*" >&2; }

step "format"
cargo fmt --all --check
step "clippy"
cargo clippy --locked --workspace --all-targets \
  --features sixferry-vectors/steering,sixferry-bench/e2e,sixferry-bench/dtcp -- -D warnings
step "licences, bans, sources"
cargo deny --locked --log-level error check bans licenses sources
step "docs/counters.md against the drop reasons"
python3 -B scripts/counters_doc.py --check
step "docs/rfc-coverage.md and docs/dtcp-coverage.md against the tests"
python3 -B scripts/rfc_coverage_check.py
