# SPDX-License-Identifier: Apache-2.0
"""Reads off a compiled program what each device sends: collectives, with loops counted.

XLA prints a loop body once; here an instruction counts as often as the loops around it run (the
trip counts that the compiler knows; the text of an unknown one is an error).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator

_BYTES = {
    **{"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s16": 2, "u16": 2, "f32": 4, "s32": 4},
    **{"u32": 4, "f64": 8, "s64": 8, "u64": 8, "f8e4m3fn": 1, "f8e5m2": 1},
}
_KINDS = ("all-gather", "all-reduce", "reduce-scatter", "collective-permute", "all-to-all")
_ARRAY = re.compile(r"\b([a-z]+\d+[a-z0-9]*|pred)\[([\d,]*)\]")
_HEADER = re.compile(r"^(ENTRY )?%?([\w.-]+) .*\{\s*$")
_OPERATION = re.compile(r"^\s*(?:ROOT )?%?([\w.-]+) = (.*?) ([\w-]+)\(")
_CALLED = re.compile(
    r"(?:calls|to_apply|body|condition|branch_computations|called_computations)="
    r"(\{[^}]*\}|%?[\w.-]+)"
)
_TRIPS = re.compile(r'known_trip_count"?:\s*\{"?n"?:\s*"?(\d+)')


def computations(text: str) -> tuple[dict[str, list[str]], str]:
    """(name -> instructions of every computation, name of the entry) of a program's text."""
    found: dict[str, list[str]] = {}
    entry, current = "", ""
    for line in text.splitlines():
        header = _HEADER.match(line)
        if header and not line.startswith(" "):
            current = header[2]
            found[current] = []
            entry = current if header[1] else entry
        elif line.startswith("}"):
            current = ""
        elif current:
            found[current].append(line)
    if not entry:
        raise ValueError("the text of a compiled program has an ENTRY computation; found none")
    return found, entry


def _calls(line: str) -> Iterator[tuple[str, int]]:
    """(computation, how often one execution of this instruction runs it)."""
    operation = _OPERATION.match(line)
    loop = operation is not None and operation[3] == "while"
    trips = _TRIPS.search(line)
    if loop and not trips:
        raise ValueError(f"a loop whose length the compiler does not know: {line.strip()[:200]}")
    for names in _CALLED.findall(line):
        for name in re.findall(r"[\w.-]+", names):
            yield name, int(trips[1]) if loop and trips else 1


def executions(found: dict[str, list[str]], entry: str) -> dict[str, int]:
    """Computation -> how often it runs in one run of the program."""
    counts = dict.fromkeys(found, 0)

    def visit(name: str, times: int) -> None:
        counts[name] += times
        for line in found[name]:
            for called, each in _calls(line):
                if called in found:
                    visit(called, times * each)

    visit(entry, 1)
    return counts


def _sizes(shape: str) -> list[int]:
    """Bytes of every array of a result."""
    return [
        _BYTES.get(kind, 4) * math.prod(int(n) for n in dims.split(",") if n)
        for kind, dims in _ARRAY.findall(shape)
    ]


def _group(line: str, devices: int) -> int:
    """Devices that exchange with each other."""
    listed = re.search(r"replica_groups=\{\{([\d,]+)\}", line)
    if listed:
        return listed[1].count(",") + 1
    iota = re.search(r"replica_groups=\[(\d+),(\d+)\]", line)
    return int(iota[2]) if iota else devices


def traffic(text: str, devices: int) -> dict[str, float]:
    """Kind of collective -> bytes that each device sends in one run, by the usual ring algorithms.

    With r the bytes of the result on a device and n devices in a group: all-gather r (n-1)/n,
    reduce-scatter r (n-1), all-reduce 2 r (n-1)/n, all-to-all r (n-1)/n, permutation r.

    Raises:
      ValueError: the text is no compiled program, or a loop's length is unknown.
    """
    found, entry = computations(text)
    times = executions(found, entry)
    total = dict.fromkeys(_KINDS, 0.0)
    for name, lines in found.items():
        if not times[name]:
            continue
        for line in lines:
            operation = _OPERATION.match(line)
            kind = operation[3].removesuffix("-start") if operation else ""
            if operation is None or kind not in _KINDS:
                continue
            n = _group(line, devices)
            sizes = _sizes(operation[2])
            # Asynchronous ones show their operand as well, but for the all-reduce.
            with_operand = operation[3].endswith("-start") and kind != "all-reduce"
            size = max(sizes, default=0) if with_operand else sum(sizes)
            # An all-reduce of which each device keeps a part is a reduce-scatter that the TPU
            # compiler wrote as a fusion.
            fused = kind == "all-reduce" and "all-reduce-scatter" in name
            factor = {
                "all-gather": (n - 1) / n,
                "reduce-scatter": n - 1,
                "all-reduce": (1 if fused else 2) * (n - 1) / n,
                "all-to-all": (n - 1) / n,
                "collective-permute": 1,
            }[kind]
            total["reduce-scatter" if fused else kind] += times[name] * size * factor
    return total
