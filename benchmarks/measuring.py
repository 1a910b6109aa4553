# SPDX-License-Identifier: Apache-2.0
"""What several benchmarks share: lines of results, and the memory of this process."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def report(line: dict[str, Any], output: str | None) -> None:
    """Prints one JSON line and appends it to the file `output`, if one is named."""
    text = json.dumps(line)
    print(text, flush=True)
    if output:
        with open(output, "a", encoding="utf-8") as file:
            file.write(text + "\n")


def resident_bytes(key: str) -> int:
    """VmRSS (now) or VmHWM (the peak) of this process (Linux)."""
    with open("/proc/self/status", encoding="ascii") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(key))


def forget_peak() -> None:
    """The peak starts again from what is resident now (Linux)."""
    Path("/proc/self/clear_refs").write_text("5")
