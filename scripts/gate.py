"""gate.py PROGRAM BASELINE: counts the instructions of `process` for each kind of packet, and compares.

With REASON set the baseline is written anew instead.
"""

import json
import os
import re
import subprocess
import sys
import tempfile

WORK = ["decap-one", "decap-many", "decap-udp", "encap-one", "encap-many", "drop"]
TOLERANCE = 0.05
# only what a worker does with a batch counts, not the making of tables and packets
COUNTED = "*sixferry_fwd::process::process*"


def instructions(program, work):
    """Instructions a packet takes."""
    with tempfile.TemporaryDirectory() as scratch:
        run = subprocess.run(
            ["valgrind", "--tool=callgrind", f"--callgrind-out-file={scratch}/out",
             f"--toggle-collect={COUNTED}", program, work],
            capture_output=True, text=True, check=False)
    collected = re.search(r"Collected : (\d+)", run.stderr)
    if run.returncode != 0 or not collected:
        sys.exit(f"gate: {work}: {run.stderr.strip() or run.stdout.strip()}")
    total, packets = int(collected[1]), int(run.stdout)
    if total == 0:
        sys.exit(f"gate: {work}: nothing was counted; is {COUNTED} still its name?")
    return round(total / packets, 1)


def main():
    program, baseline = sys.argv[1:]
    found = {work: instructions(program, work) for work in WORK}
    reason = os.environ.get("REASON")
    if reason:
        rustc = subprocess.run(["rustc", "-V"], capture_output=True, text=True, check=True)
        content = {"reason": reason, "rustc": rustc.stdout.strip(), "instructions": found}
        with open(baseline, "w", encoding="utf-8") as out:
            json.dump(content, out, indent=2)
            out.write("\n")
        print(f"gate: {baseline} written: {found}")
        return 0
    with open(baseline, encoding="utf-8") as source:
        known = json.load(source)["instructions"]
    worse = 0
    for work, now in found.items():
        before = known.get(work)
        if before is None:
            sys.exit(f"gate: {baseline} says nothing about {work}: make gate-update REASON=\"...\"")
        change = now / before - 1
        verdict = "ok"
        if change > TOLERANCE:
            verdict = "WORSE"
            worse += 1
        elif change < -TOLERANCE:
            verdict = "better: make gate-update REASON=\"...\" keeps it"
        print(f"gate: {work:<10} {before:8.1f} -> {now:8.1f} instructions a packet"
              f" ({change:+.1%}) {verdict}")
    if worse:
        print("gate: more than 5 % more. If that is worth it: make gate-update REASON=\"why\"",
              file=sys.stderr)
    return 1 if worse else 0


if __name__ == "__main__":
    sys.exit(main())
