# SPDX-License-Identifier: Apache-2.0
"""Speed of the SVRT problems, beside a plain Python generator of the same semantics.

    python -m benchmarks.svrt_generators [--images=256] [--plain_images=6] [--output=svrt.jsonl]

The plain generator is what one writes down from the description: a contour is refined segment by
segment by recursion, drawn range by range, tested pixel by pixel against the 3 x 3 neighbourhood,
and shapes and positions are drawn again where the layout fails. It covers the problems whose layout
is simple enough to be obviously right (1, 5, 15, 19, 20, 21, 22); for the others only our speed is
given. Images per CPU second of one core; the ink of both is printed as a check that they draw the
same thing.
"""

from __future__ import annotations

import json
import math
import random
import time
from typing import Any

import numpy as np
from absl import flags

from core import cli, files
from perception.data import svrt
from perception.data.svrt_problems import PROBLEMS

_FLAGS = flags.FlagValues()
flags.DEFINE_integer("images", 256, "Images per problem.", 2, flag_values=_FLAGS)
flags.DEFINE_integer("plain_images", 6, "Images of the plain generator.", 2, flag_values=_FLAGS)
flags.DEFINE_list("problems", [str(p) for p in PROBLEMS], "Problems.", flag_values=_FLAGS)
flags.DEFINE_string("output", "", "File for the JSON lines.", flag_values=_FLAGS)

Point = tuple[float, float]
W = 128


def _refine(a: Point, b: Point, radius: float, points: list[Point]) -> None:
    if abs(a[0] - b[0]) <= 0.25 and abs(a[1] - b[1]) <= 0.25:
        points.append(a)
        return
    reach = math.dist(a, b) / 5
    while True:
        r, t = reach * math.sqrt(random.random()), random.uniform(0, 2 * math.pi)
        m = (a[0] + b[0]) / 2 + r * math.cos(t), (a[1] + b[1]) / 2 + r * math.sin(t)
        if m[0] ** 2 + m[1] ** 2 < radius**2:
            break
    _refine(a, m, radius, points)
    _refine(m, b, radius, points)


def plain_contour(radius: float, hole: float) -> tuple[list[Point], list[int]]:
    """One contour: its points and the indices of the anchors."""
    while True:
        anchors = []
        for sx, sy in ((1, 1), (-1, 1), (-1, -1), (1, -1)):
            while True:
                x, y = radius * random.random(), radius * random.random()
                if hole <= math.hypot(x, y) <= radius:
                    break
            anchors.append((sx * x, sy * y))
        points: list[Point] = []
        starts = []
        for k in range(4):
            starts.append(len(points))
            _refine(anchors[k], anchors[(k + 1) % 4], radius, points)
        starts.append(len(points))
        points.append(anchors[0])
        if min(x * x + y * y for x, y in points) >= hole * hole:
            break
    return plain_map(points, random.uniform(0, 2 * math.pi)), starts


def plain_map(points: list[Point], angle: float, scale: float = 1.0) -> list[Point]:
    """Rotated and scaled points."""
    c, s = scale * math.cos(angle), scale * math.sin(angle)
    return [(x * c - y * s, x * s + y * c) for x, y in points]


def plain_reflect(points: list[Point], axis: float) -> list[Point]:
    """Reflected points; the direction `axis` is kept."""
    c, s = math.cos(2 * axis), math.sin(2 * axis)
    return [(x * c + y * s, x * s - y * c) for x, y in points]


def plain_draw(
    canvas: np.ndarray, points: list[Point], starts: list[int], centre: tuple[int, int]
) -> bool:
    """Draws a shape unless it is blocked."""
    pixels = [(int(x + centre[0]), int(y + centre[1])) for x, y in points]
    for x, y in pixels:
        if not (1 <= x <= W - 2 and 1 <= y <= W - 2):
            return False
        if (canvas[y - 1 : y + 2, x - 1 : x + 2] != 255).any():
            return False

    def line(a: int, b: int) -> None:
        (ax, ay), (bx, by) = pixels[a], pixels[b]
        if (abs(ax - bx) <= 1 and abs(ay - by) <= 1) or a + 1 >= b:
            canvas[ay, ax] = 0
        else:
            line(a, (a + b) // 2)
            line((a + b) // 2, b)

    for a, b in zip(starts[:-1], starts[1:], strict=True):
        line(a, b)
    return True


def _somewhere() -> tuple[int, int]:
    return random.randrange(W), random.randrange(W)


def _square() -> list[tuple[int, int]]:
    (x, y), r, t = _somewhere(), random.uniform(0, W / 2), random.uniform(0, 2 * math.pi)
    angles = [t + k * math.pi / 2 for k in range(4)]
    return [(round(x + r * math.cos(a)), round(y + r * math.sin(a))) for a in angles]


def _line() -> list[tuple[int, int]]:
    a, b, t = _somewhere(), _somewhere(), random.uniform(0.25, 0.75)
    return [a, (round(a[0] + t * (b[0] - a[0])), round(a[1] + t * (b[1] - a[1]))), b]


def _cluttered(centres: list[tuple[int, int]]) -> bool:
    pairs = [(a, b) for i, a in enumerate(centres) for b in centres[:i]]
    return any(abs(a[0] - b[0]) < 21 and abs(a[1] - b[1]) < 21 for a, b in pairs)


def _shapes(problem: int, label: int) -> list[tuple[list[Point], list[int]]]:
    """The contours of one attempt, in the order in which they are placed."""
    radius, hole, count = {
        1: (26.25, 2.5, 2), 5: (21, 2, 4), 15: (10, 1, 4), 19: (10.5, 1, 2), 20: (16, 2, 2),
        21: (10.5, 1, 2), 22: (10, 1, 3),
    }[problem]  # fmt: skip
    different = count if not label else 2 if problem == 5 else 1
    made = [plain_contour(radius, hole) for _ in range(different)]
    shapes = [made[k * different // count] for k in range(count)]
    if problem in (19, 21):
        turn = [random.uniform(0, 2 * math.pi) if problem == 21 else 0.0 for _ in shapes]
        shapes = [
            (plain_map(p, t, random.uniform(1, 4)), s)
            for (p, s), t in zip(shapes, turn, strict=True)
        ]
    return shapes


def plain_image(problem: int, label: int) -> np.ndarray:
    """One image by redrawing everything until the layout succeeds."""
    while True:
        canvas = np.full((W, W), 255, np.uint8)
        shapes = _shapes(problem, label)
        if problem in (15, 22):
            centres = _square() if problem == 15 else _line()
            if _cluttered(centres):
                continue
        else:
            centres = [_somewhere() for _ in shapes]
        if problem == 20 and label:
            (ax, ay), (bx, by) = centres
            points, starts = shapes[0]
            axis = math.atan2(by - ay, bx - ax) + math.pi / 2
            shapes[1] = plain_reflect(points, axis), starts
        for (points, starts), centre in zip(shapes, centres, strict=True):
            tries = 100 if problem == 5 else 1
            while tries and not plain_draw(canvas, points, starts, centre):
                tries, centre = tries - 1, _somewhere()
            if not tries:
                break
        else:
            return canvas


def measure(problem: int, images: int, plain_images: int) -> dict[str, Any]:
    """Images per second of both generators."""
    made = svrt.Svrt(problem, split="test", size=images)
    start = time.process_time()
    stored = made.make(np.arange(images))
    seconds = time.process_time() - start
    ink = float(np.unpackbits(stored["image"], axis=-1).sum(1).mean())
    record = {"problem": problem, "images_per_s": round(images / seconds, 1), "ink": round(ink, 1)}
    if problem in (1, 5, 15, 19, 20, 21, 22):
        random.seed(problem)
        start = time.process_time()
        plain = [plain_image(problem, k % 2) for k in range(plain_images)]
        seconds = time.process_time() - start
        record["plain_images_per_s"] = round(plain_images / seconds, 2)
        record["plain_ink"] = round(float(np.mean([(p == 0).sum() for p in plain])), 1)
        record["ratio"] = round(record["images_per_s"] / record["plain_images_per_s"], 1)
    return record


def main(values: flags.FlagValues) -> None:
    """Measures the problems and prints JSON lines and a table."""
    with cli.explain():
        problems = [int(p) for p in values.problems]
        for problem in problems:
            svrt.check_problem(problem)
    records = []
    for problem in problems:
        records.append(measure(problem, values.images, values.plain_images))
        print(json.dumps(records[-1]), flush=True)
    print(f"\n{'problem':>7} {'images/s':>9} {'plain':>7} {'ratio':>7} {'ink':>6} {'plain':>6}")
    for r in records:
        cells = [r.get(k, "") for k in ("plain_images_per_s", "ratio", "ink", "plain_ink")]
        plain, ratio, ink, plain_ink = (str(c) for c in cells)
        speed = r["images_per_s"]
        print(f"{r['problem']:>7} {speed:>9} {plain:>7} {ratio:>7} {ink:>6} {plain_ink:>6}")
    if values.output:
        files.write_text(values.output, "".join(json.dumps(r) + "\n" for r in records))


if __name__ == "__main__":
    cli.program(main, _FLAGS, __doc__)
