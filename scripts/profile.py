#!/usr/bin/env python3
"""profile.py BINARY [ROUNDS]: where the time of a packet goes, by stage, as a Markdown table.

Runs `sixferry-bench-ratio` (BINARY, with line tables) on one case at a time under `perf record` and gives
each sample to the innermost frame, inlined ones included, that lies in the forwarding core. What the
bench itself does (making packets, the clock) is left out.
"""
import collections
import os
import re
import shutil
import subprocess
import sys
import tempfile

CASES = ["decap one tunnel", "decap scattered", "encap one tunnel", "encap scattered"]
CORE = "dataplane/fwd/src/"
# access to a packet's bytes, numbers and the like: part of whatever asks for it
HELPERS = r"(packet|id|prefix|verdict)\.rs.*"
# by file and function of the core; the first pattern that fits
STAGES = [
    ("parse", r"(classify|fragment|udp)\.rs.*|fast\.rs.*Glance.*"),
    ("look up", r"(lookup|tables/.*)\.rs.*"),
    ("counters", r"(counters|local|limiter|drop_reason)\.rs.*"),
    ("prefetch, passes, batch", r"(process|batch|lib)\.rs.*"),
    ("check and rewrite", r".*"),
]


def output(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def segments(binary):
    """Where in memory the parts of the file go: (offset, length, address)."""
    for line in output("readelf", "-lW", binary).splitlines():
        fields = line.split()
        if fields[:1] == ["LOAD"]:
            yield int(fields[1], 16), int(fields[4], 16), int(fields[2], 16)


def sampled(binary, case, rounds):
    """How often each address of the file was met."""
    with tempfile.TemporaryDirectory() as home:
        data = f"{home}/perf.data"
        record = ["perf", "record", "-q", "-e", "cpu-clock:u", "-F", "5000", "-o", data, "--", binary]
        cpu = str(os.cpu_count() - 1)
        output(*record, "--cpu", cpu, "--only", case, "--rounds", str(rounds))
        text = output("perf", "script", "-i", data, "-F", "ip,event", "--show-mmap-events")
    name = os.path.realpath(binary)
    mapped, met = [], collections.Counter()
    parts = list(segments(binary))
    for line in text.splitlines():
        found = re.search(r"\[0x(\w+)\(0x(\w+)\) @ (?:0x)?(\w+) .*\]: \S+ (.*)$", line)
        if found and found[4].strip() == name:
            mapped.append([int(found[i], 16) for i in (1, 2, 3)])
        sample = re.search(r"cpu-clock:u:\s+(\w+)", line)
        if not sample:
            continue
        ip = int(sample[1], 16)
        for start, length, offset in mapped:
            at = ip - start + offset
            inside = [address + at - first for first, size, address in parts if first <= at < first + size]
            if start <= ip < start + length and inside:
                met[inside[0]] += 1
    return met


def places(binary, addresses):
    """The innermost file and function of the core of each address, if there is one."""
    text = subprocess.run(
        ["addr2line", "-a", "-f", "-C", "-i", "-e", binary],
        input="\n".join(f"{address:#x}" for address in addresses),
        check=True, capture_output=True, text=True,
    ).stdout
    found, address, function = {}, None, None
    for line in text.splitlines():
        if re.fullmatch(r"0x[0-9a-f]+", line):
            address, function = int(line, 16), None
        elif function is None:
            function = line
        else:
            if CORE in line:
                place = f"{line.split(CORE)[1].split(':')[0]} {function}"
                if not re.fullmatch(HELPERS, place):
                    found.setdefault(address, place)
            function = None
    return found


def shares(binary, case, rounds):
    met = sampled(binary, case, rounds)
    where = places(binary, met)
    by_stage, by_file = collections.Counter(), collections.Counter()
    for address, count in met.items():
        if address in where:
            by_file[where[address].split()[0]] += count
            stage = next(name for name, files in STAGES if re.fullmatch(files, where[address]))
            by_stage[stage] += count
    total = sum(by_stage.values())
    if total < 1000:
        sys.exit(f"profile: {case}: only {total} of {sum(met.values())} samples in {CORE}; line tables missing?")
    files = ", ".join(f"{name} {100 * count / total:.0f} %" for name, count in by_file.most_common(6))
    print(f"{case}: {total} samples; {files}", file=sys.stderr)
    return {name: 100 * by_stage[name] / total for name, _ in STAGES}


def main():
    if shutil.which("perf") is None:
        sys.exit("profile: perf is not installed; fix: apt-get install linux-perf")
    binary = sys.argv[1]
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 2000
    columns = [shares(binary, case, rounds) for case in CASES]
    print("| | " + " | ".join(CASES) + " |")
    print("|---" * (len(CASES) + 1) + "|")
    for name, _ in STAGES:
        print(f"| {name} | " + " | ".join(f"{column[name]:.0f} %" for column in columns) + " |")


if __name__ == "__main__":
    main()
