#!/bin/bash
# bench.sh [quick]: what a packet costs in memory; as root also end to end over veth beside the bare
# AF_XDP ceiling of the same run, what is lost while a control process dies or re-syncs a million
# tunnels, and the DTCP service with thousands of users. Then the verdict on every goal: report.md with
# plots, verdicts.json. At most 25 minutes and the build; quick: 3 minutes, a part of the tests.
#
# bench.sh publish: the report of the last full run goes into docs/measured and the README.
#
# bench.sh --nic GEN,SINK --to-mac MAC [option of `sixferry-pktgen measure` ...]: rates and delays of
# whatever stands between two interfaces of this host instead.
set -euo pipefail
cd "$(dirname "$0")/.."
programs=${CARGO_TARGET_DIR:-$PWD/target}/release
out=${CARGO_TARGET_DIR:-$PWD/target}/bench
mkdir -p "$out"

mode=${1:-all}
case $mode in
  all | quick | publish | --nic) ;;
  *)
    sed -n '2,11s/^# \{0,1\}//p' "$0" >&2
    exit 2
    ;;
esac

figures() {
  local name
  for name in e2e ratio changes dtcp; do
    [ ! -e "$out/$name.json" ] || echo "$out/$name.json"
  done
}

if [ "$mode" = publish ]; then
  [ -e "$out/dtcp.json" ] || { echo "no figures of a full run in $out; run: make bench" >&2; exit 1; }
  mapfile -t figures < <(figures)
  "$programs/sixferry-bench-report" "${figures[@]}" --out docs/measured --readme README.md
  exit
fi

# one build for all: a second one with other features, or without those of the tests, would make the
# libraries again
build=(cargo build --release --locked -p sixferryd -p sixferry-control -p sixferry-bench
  --features sixferry-bench/dtcp --bench process --bin sixferryd --bin sixferry-control
  --bin sixferry-pktgen --bin sixferry-rfc8219 --bin sixferry-bench-ratio --bin sixferry-bench-changes
  --bin sixferry-bench-e2e --bin sixferry-bench-dtcp --bin sixferry-bench-report)
"${build[@]}"
# where cargo has put the criterion bench
criterion=$("${build[@]}" --quiet --message-format=json | python3 -c '
import json, sys
for line in sys.stdin:
    message = json.loads(line)
    if message.get("executable") and message["target"]["kind"] == ["bench"]:
        print(message["executable"])')

if [ "$mode" = --nic ]; then
  pair=${2:?--nic needs two interfaces: GEN,SINK}
  shift 2
  "$programs/sixferry-pktgen" measure "${pair%%,*}" "${pair##*,}" --json "$@" >"$out/nic.json"
  echo "figures of every trial: $out/nic.json"
  exit
fi

# without root there is no end-to-end figure; what an earlier run left must not be judged
rm -f "$out"/{ratio,e2e,changes,dtcp}.json
ratio=(--json "$out/ratio.json" --cpu $(($(nproc) - 1)) --rounds 61)
e2e=(--json "$out/e2e.json" --rounds 60 --sets 3 --seconds 0.8 --timing-rounds 13 --events 1)
if [ "$mode" = quick ]; then
  ratio=(--json "$out/ratio.json" --cpu $(($(nproc) - 1)) --rounds 31)
  e2e=(--json "$out/e2e.json" --rounds 8 --sets 1 --seconds 0.3 --timing-rounds 3
    --only rxdrop-bare,rxdrop,ref-decap,decap,decap-udp,ref-encap,encap,forwarding,timing)
else
  echo "== in memory, ns a packet: criterion =="
  CRITERION_HOME=$out/criterion "$criterion" --bench --noplot --quiet --quick
fi
echo "== in memory: beside the yardstick, a million tunnels beside one =="
# the daemon keeps what it frees, too
kept=(env MIMALLOC_PURGE_DELAY=-1)
"${kept[@]}" "$programs/sixferry-bench-ratio" "${ratio[@]}"
# what it finds wrong is in the report too, and no reason to have no report
failed=0
if [ "$mode" = all ] && [ "$(nproc)" -gt 1 ]; then
  echo "== in memory: packets while 10,000 of a million tunnels change each second =="
  "${kept[@]}" "$programs/sixferry-bench-changes" --rounds 240 --json "$out/changes.json" || failed=$?
  [ "$failed" -le 1 ] || exit "$failed"
fi
if [ "$(id -u)" = 0 ]; then
  echo "== end to end over veth =="
  "$programs/sixferry-bench-e2e" "${e2e[@]}" || failed=$?
  [ "$failed" -le 1 ] || exit "$failed"
  if [ "$mode" = all ]; then
    echo "== DTCP: idle sessions, logins, everybody at once =="
    # a minute of it; without arguments it takes about ten
    "$programs/sixferry-bench-dtcp" --json "$out/dtcp.json" --rounds 1 --idle-sessions 4000 \
      --idle-seconds 15 --login-users 4000 --login-seconds 4 --churn-sessions 4000
  fi
else
  echo "end to end: skipped; namespaces and AF_XDP need root; run: sudo make bench"
fi
echo "== goals =="
mapfile -t figures < <(figures)
"$programs/sixferry-bench-report" "${figures[@]}" --out "$out"
exit "$failed"
