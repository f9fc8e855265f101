#!/usr/bin/env python3
"""Checks that every test docs/rfc-coverage.md and docs/dtcp-coverage.md name exists.

A row is `| P41-nn | what | function | test | state |`, or `| DTCP-nn | what | function | test |`
for each number that table must have. Tests are written in backquotes:
`crate::path::name` or `tests/netns:name` for a test function, `vector:encap-*` for vectors.
The check is by name: a test that was renamed or removed makes the row, and lint, fail.
"""

import fnmatch
import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# File, how its numbers begin, cells of a row, and the last number if none may be missing.
TABLES = [("rfc-coverage.md", "P41", 5, None), ("dtcp-coverage.md", "DTCP", 4, 43)]
SKIP = {"target", ".git", "corpus"}


def crate_dirs():
    """Library name (and last path part) -> directory of each crate."""
    found = {}
    for manifest in ROOT.glob("**/Cargo.toml"):
        if SKIP & set(manifest.relative_to(ROOT).parts):
            continue
        name = re.search(r'^name\s*=\s*"([^"]+)"', manifest.read_text(), re.MULTILINE)
        if name:
            crate = name.group(1)
            found[crate.replace("-", "_")] = manifest.parent
            found[crate] = manifest.parent
            found.setdefault(crate.removeprefix("sixferry-").replace("-", "_"), manifest.parent)
    return found


def test_functions(directory, cache={}):
    """Names of all functions below a directory that are tests (also inside proptest!)."""
    if directory not in cache:
        names = set()
        for source in directory.glob("**/*.rs"):
            if SKIP & set(source.relative_to(directory).parts):
                continue
            text = source.read_text()
            pattern = r"#\[(?:\w+::)?test(?:\([^)]*\))?\](?:\s|#\[[^\]]*\]|//[^\n]*)*(?:async\s+)?fn\s+(\w+)"
            names.update(re.findall(pattern, text))
        cache[directory] = names
    return cache[directory]


def vector_names():
    """All names in tests/vectors/*.json, steering frames included."""
    names = set()
    for path in (ROOT / "tests" / "vectors").glob("**/*.json"):
        data = json.loads(path.read_text())
        if isinstance(data, dict):
            for kind in ("vectors", "steering"):
                names.update(item["name"] for item in data.get(kind, []) if "name" in item)
    return names


def check_test(name, crates, vectors):
    """None when the test exists, else what is wrong."""
    if name.startswith("vector:"):
        pattern = name.removeprefix("vector:")
        if not any(fnmatch.fnmatchcase(vector, pattern) for vector in vectors):
            return f"no vector matches {pattern}"
        return None
    if ":" in name and "::" not in name.split(":", 1)[0] and not name.split(":", 1)[1].startswith(":"):
        place, function = name.split(":", 1)
        directory = ROOT / place
    else:
        crate, _, rest = name.partition("::")
        if crate not in crates:
            return f"no crate {crate}"
        directory, function = crates[crate], rest
    function = function.rsplit("::", 1)[-1]
    if not directory.is_dir():
        return f"no directory {directory.relative_to(ROOT)}"
    if function not in test_functions(directory):
        return f"no test function {function} in {directory.relative_to(ROOT)}"
    return None


def rows(text, prefix):
    """(line number, cells) of each requirement row."""
    for number, line in enumerate(text.splitlines(), 1):
        if re.match(rf"\|\s*{prefix}-\d+\s*\|", line):
            yield number, [cell.strip() for cell in line.strip().strip("|").split("|")]


def check_table(name, prefix, width, last, crates, vectors):
    """What is wrong with one table; how many requirements it has and how many tests it names."""
    table = ROOT / "docs" / name
    if not table.is_file():
        return [f"docs/{name} is missing"], 0, 0
    problems, tests, seen = [], 0, set()
    for number, cells in rows(table.read_text(), prefix):
        where = f"docs/{name}:{number}: {cells[0]}"
        if len(cells) != width:
            problems.append(f"{where}: {len(cells)} cells, a row has {width}")
            continue
        if cells[0] in seen:
            problems.append(f"{where}: a second row for this requirement")
        seen.add(cells[0])
        named = re.findall(r"`([^`]+)`", cells[3])
        if not named and not cells[-1].startswith("later"):
            problems.append(f"{where}: names no test and is not put off (`later`)")
        tests += len(named)
        wrong = (check_test(test, crates, vectors) for test in named)
        problems.extend(f"{where}: {problem}" for problem in wrong if problem)
    if not seen:
        problems.append(f"docs/{name}: no requirement rows")
    for number in range(1, (last or 0) + 1):
        if f"{prefix}-{number:02}" not in seen:
            problems.append(f"docs/{name}: no row for {prefix}-{number:02}")
    return problems, len(seen), tests


def main():
    crates, vectors = crate_dirs(), vector_names()
    found = [check_table(*table, crates, vectors) for table in TABLES]
    problems = [problem for problems, _, _ in found for problem in problems]
    for problem in problems:
        print(problem, file=sys.stderr)
    if problems:
        sys.exit(1)
    requirements, tests = (sum(counts) for counts in list(zip(*found))[1:])
    print(f"{requirements} requirements, {tests} tests named, all there")


if __name__ == "__main__":
    main()
