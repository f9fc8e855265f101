#!/bin/bash
# fuzz.sh: every fuzz target for FUZZ_SECONDS, on a stable compiler without sanitizers (the
# targets contain no unsafe code; what is looked for is panics and lost frames).
set -euo pipefail
cd "$(dirname "$0")/../tests/fuzz"
for target in $(cargo fuzz list); do
  echo "fuzz: $target for ${FUZZ_SECONDS:-60} s" >&2
  cargo fuzz run -s none "$target" -- -max_total_time="${FUZZ_SECONDS:-60}"
done
