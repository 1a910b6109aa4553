# SPDX-License-Identifier: Apache-2.0
"""Speed of the oddity riddles, beside the authors' generator in the same run.

    python -m benchmarks.oddity_generator [--authors=FOLDER] [--riddles=60] [--output=oddity.jsonl]

FOLDER is a checkout of github.com/IBM/visual-oddity (Apache-2.0; needs Pillow, SciPy and shapely).
Its generator classes are called in this process without the TFRecord writer; ours include
everything up to the array of a batch. Milliseconds of CPU per riddle of six frames of 100 x 100
pixels, median over rounds in which both take turns.
"""

from __future__ import annotations

import collections
import importlib
import json
import random
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from absl import flags

from core import cli, files
from perception.data import oddity

_FLAGS = flags.FlagValues()
flags.DEFINE_string("authors", "", "Checkout of the authors' generator.", flag_values=_FLAGS)
flags.DEFINE_integer("riddles", 60, "Riddles per kind and round.", 1, flag_values=_FLAGS)
flags.DEFINE_integer("rounds", 3, "Rounds.", 1, flag_values=_FLAGS)
flags.DEFINE_string("output", "", "File for the JSON lines.", flag_values=_FLAGS)

# Riddle -> class of the authors' generator (their main.py keeps the table inside a script).
_CLASSES = (
    *("Color", "Orientation", "Line", "Line", "PointOnLine", "PointOnLine", "Parallel", "Parallel"),
    *("RightAngle", "RightAngle", "Quadrilateral", "Trapezoid", "Parallelogram", "Rectangle"),
    *("Square", "Equilateral", "RightAngleTriangle", "Circle", "Convex", *("Symmetrical",) * 3),
    *(*("Chiral",) * 4, "Distance", "PointDistance", "PointDistance", "CircleCenter"),
    *("QuadrilateralCenter", "Proportions", "Proportions", "Translation", "Fixed", "Fixed"),
    *(*("Symmetry",) * 3, "PointSymmetry", "Rotation", "Inside", "Closure", "Connectedness"),
    "Holes",
)


def authors_generator(folder: str) -> Callable[[int, int], None]:
    """A function (riddle, count) that draws with the authors' classes."""
    sys.path.insert(0, folder)
    try:
        generators = importlib.import_module("generators")
        names = importlib.import_module("constants").RIDDLE_IDS
    except ImportError as error:
        raise cli.UserError(f"--authors={folder}: {error}") from error
    np.seterr(all="raise")  # their redraws rely on it
    settings = collections.namedtuple("settings", ["img_size", "only_oddity"])(100, False)

    def draw(riddle: int, count: int) -> None:
        kind = getattr(generators, _CLASSES[riddle] + "Generator")
        for _ in range(count):
            kind(names[riddle], settings, False, list(range(235, 256))).get_images()

    return draw


def our_generator(riddle: int, count: int) -> None:
    """Draws a batch of riddles of one kind."""
    oddity.Oddity(riddle, split="test", size=count).make(np.arange(count))


def seconds(draw: Callable[[int, int], None], riddle: int, count: int) -> float:
    """CPU seconds of one call."""
    random.seed(riddle)
    np.random.seed(riddle)
    start = time.process_time()
    draw(riddle, count)
    return time.process_time() - start


def measure(count: int, rounds: int, authors: Callable[[int, int], None] | None) -> list[Any]:
    """One record per riddle."""
    records = []
    for riddle in range(len(oddity.NAMES)):
        ours, theirs = [], []
        for _ in range(rounds):
            ours.append(seconds(our_generator, riddle, count))
            if authors is not None:
                few = max(1, count // 6)  # theirs takes much longer
                theirs.append(seconds(authors, riddle, few) * count / few)
        record: dict[str, Any] = {"riddle": riddle, "name": oddity.NAMES[riddle]}
        record["ms"] = round(1e3 * statistics.median(ours) / count, 3)
        if authors is not None:
            record["authors_ms"] = round(1e3 * statistics.median(theirs) / count, 3)
            record["ratio"] = round(record["authors_ms"] / record["ms"], 2)
        records.append(record)
        print(json.dumps(record), flush=True)
    return records


def main(values: flags.FlagValues) -> None:
    """Measures all riddles and prints JSON lines and a table."""
    authors = authors_generator(values.authors) if values.authors else None
    records = measure(values.riddles, values.rounds, authors)
    mean: dict[str, Any] = {"riddle": "mean", "ms": statistics.mean(r["ms"] for r in records)}
    if authors is not None:
        mean["authors_ms"] = statistics.mean(r["authors_ms"] for r in records)
        mean["ratio"] = mean["authors_ms"] / mean["ms"]
    records.append({k: round(v, 3) if isinstance(v, float) else v for k, v in mean.items()})
    print(json.dumps(records[-1]))
    print(f"\n{'riddle':>6} {'ours (ms)':>10} {'authors (ms)':>13} {'ratio':>6}")
    for r in records:
        print(f"{r['riddle']!s:>6} {r['ms']:>10.2f} {r.get('authors_ms', '')!s:>13} "
              f"{r.get('ratio', '')!s:>6}")  # fmt: skip
    if values.output:
        files.write_text(values.output, "".join(json.dumps(r) + "\n" for r in records))


if __name__ == "__main__":
    cli.program(main, _FLAGS, __doc__)
