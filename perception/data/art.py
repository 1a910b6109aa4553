# SPDX-License-Identifier: Apache-2.0
"""Abstract reasoning tasks on glyphs: same/different, relational match to sample, distribution of
three, identity rules, with glyphs held out for the test.

    train = art.Art(task="rmts", held_out=95, split="train", seed=0)

Tasks of T. Webb et al., "Emergent Symbols through Binding in External Memory" (ICLR 2021), as whole
images in the layout of the GAP experiments: glyphs lie on a canvas of 160 x 160 pixels, each at its
place plus an offset from -5 ... 4 per axis, and the canvas is reduced to 128 x 128. Ink is 255 here
(glyphs light on dark). "same_different" gives one image, the others one image per candidate; all
candidates of a problem show the same context at the same offsets.

Problems are numbered; the seed chooses a permutation of all problems of the task, so that a set
holds no problem twice as long as there are enough (offsets differ even then).
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from core import permute
from perception.data import glyphs as glyphs_lib
from perception.data import image_set, streams

VERSION = 2
SIZE, CANVAS = 128, 160
TEST_SIZE = 10_000
# Published training sizes with 5 training glyphs (95 held out).
TRAIN_SIZES = {"same_different": 40, "rmts": 480, "distribution_of_three": 360, "identity": 8_640}

_PAIR = ((80, 40), (80, 120))
_TWO_PAIRS = ((40, 40), (40, 120), (120, 40), (120, 120))
_GRID = tuple((row, col) for row in (40, 120) for col in (40, 88, 136))


class Problem(NamedTuple):
    """What a problem shows: places (row, column) on the canvas; for each panel the glyph at each
    place; the label; and its relation or rule."""

    places: tuple[tuple[int, int], ...]
    panels: list[list[int]]
    label: int
    rule: str


class Art(image_set.ImageSet):
    """Problems of one task; see `image_set.ImageSet` for order, memory and disk cache."""

    def __init__(
        self,
        task: str,
        held_out: int = 95,
        split: str = "train",
        size: int | None = None,
        seed: int = 0,
        *,
        glyphs: np.ndarray | None = None,
        shuffle: bool | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        workers: int = 0,
    ):
        """Describes a set.

        Args:
          task: one of `TASKS`.
          held_out: m: the first m glyphs of a permutation drawn with `seed` are for testing, the
            others for training and validation; 0: all glyphs serve in all splits.
          split: "train", "validation" or "test".
          size: number of problems; by default 10,000 for testing, otherwise `TRAIN_SIZES`.
          seed: of the permutation and the problems.
          glyphs: uint8 [n, 32, 32], ink high; None: `procedural_glyphs`. Pass
            `glyphs.unicode_glyphs()` for the published ones.
          shuffle, cache_dir, workers: as `ImageSet`.

        Raises:
          ValueError: an unknown task, or too few glyphs on one side for the task.
        """
        if task not in TASKS:
            raise ValueError(f"task must be one of {', '.join(TASKS)}, got {task!r}")
        self.task = task
        self.glyphs = (
            glyphs_lib.procedural_glyphs() if glyphs is None else glyphs_lib.check_glyphs(glyphs)
        )
        n, needed = len(self.glyphs), TASKS[task].glyphs
        order = permute.permute(np.arange(n), n, permute.derive_seed(seed, "art", "glyphs"))
        if not 0 <= held_out < n:
            raise ValueError(f"held_out must be in 0 ... {n - 1}, got {held_out}")
        mine = order[:held_out] if split == "test" and held_out else order[held_out:]
        if len(mine) < needed:
            raise ValueError(
                f"task {task} needs {needed} glyphs, but {split!r} has {len(mine)} "
                f"of {n} with {held_out=}"
            )
        self._mine = mine
        if size is None:
            size = TEST_SIZE if split == "test" else TRAIN_SIZES[task]
        super().__init__(
            ("art", task, held_out, _fingerprint(self.glyphs)), VERSION, split, size, seed,
            shuffle=shuffle, cache_dir=cache_dir, workers=workers,
        )  # fmt: skip

    def problems(self, rows: np.ndarray) -> list[Problem]:
        """The problems number `rows`; glyph numbers index `self.glyphs`."""
        names = ("art", self.task, self.split)
        return numbered_problems(self.task, self._mine, self.seed, names, rows)

    def make(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Images [n, 128, 128] or [n, P, 128, 128] and labels; see `ImageSet.make`."""
        names = ("art", self.task, self.split)
        problems = self.problems(rows)
        keys = streams.image_keys(self.seed, names, rows)
        images = np.stack(
            [self._paint(p, streams.Stream(int(k))) for p, k in zip(problems, keys, strict=True)]
        )
        if self.task == "same_different":
            images = images[:, 0]
        return {"image": images, "label": np.array([p.label for p in problems], np.int32)}

    def _paint(self, problem: Problem, rng: streams.Stream) -> np.ndarray:
        """uint8 [P, 128, 128]. Only the pixels near a glyph are worked out."""
        images = np.zeros((len(problem.panels), SIZE, SIZE), np.float32)
        for place, centre in enumerate(problem.places):
            weights, where = [], []
            for v in centre:
                first = v - glyphs_lib.SIZE // 2 + rng.integer(-5, 4)
                low = int(first * SIZE / CANVAS) - 2
                out = slice(low, low + _PATCH)
                where.append(out)
                weights.append(_SHRINK[out, first : first + glyphs_lib.SIZE])
            names = [panel[place] for panel in problem.panels]
            small = {n: weights[0] @ self.glyphs[n] @ weights[1].T for n in set(names)}
            for image, name in zip(images, names, strict=True):
                image[tuple(where)] += small[name]
        return np.rint(np.clip(images, 0, 255)).astype(np.uint8)


def _shrink() -> np.ndarray:
    """[128, 160]: linear interpolation with a filter as wide as an output pixel."""
    scale = CANVAS / SIZE
    centres = (np.arange(SIZE)[:, None] + 0.5) * scale
    weights = np.maximum(0, 1 - np.abs(np.arange(CANVAS) + 0.5 - centres) / scale)
    return (weights / weights.sum(1, keepdims=True)).astype(np.float32)


_SHRINK = _shrink()
_PATCH = glyphs_lib.SIZE * SIZE // CANVAS + 6  # pixels per axis that a reduced glyph can reach


def _fingerprint(glyphs: np.ndarray) -> str:
    """Names the glyphs in cache files."""
    return hashlib.blake2b(glyphs.tobytes(), digest_size=4).hexdigest()


def _selection(number: int, n: int, k: int) -> list[int]:
    """Ordered selection number 0 ... n! / (n-k)! - 1 of k different ones of 0 ... n-1."""
    left, chosen = list(range(n)), []
    for i in range(k):
        number, digit = divmod(number, n - i)
        chosen.append(left.pop(digit))
    return chosen


def _same_different(variant: int, g: list[int]) -> Problem:
    """Label 0: same."""
    rule = "different" if variant else "same"
    return Problem(_PAIR, [[g[0], g[1] if variant else g[0]]], variant, rule)


def _rmts(variant: int, g: list[int]) -> Problem:
    """Source pair above, candidate pair below; label: the candidate with the source's relation."""
    label, different = variant % 2, variant // 2
    source = [g[0], g[1]] if different else [g[0], g[0]]
    matching, other = [g[2], g[3]], [g[4], g[4]]
    if not different:
        matching, other = other, matching
    candidates = [matching, other] if label == 0 else [other, matching]
    rule = "different" if different else "same"
    return Problem(_TWO_PAIRS, [source + c for c in candidates], label, rule)


def _distribution_of_three(variant: int, g: list[int]) -> Problem:
    """The second row holds the glyphs of the first in another or the same order."""
    second = [g[i] for i in _selection(variant % 6, 3, 3)]
    return _completed(g[:3] + second[:2], second[2], g[:4], variant // 6, "three")


def _identity(variant: int, g: list[int]) -> Problem:
    """The second row follows the rule of the first: AAA, ABA or ABB."""
    rule = ("AAA", "ABA", "ABB")[variant % 3]
    first, second = ([pair["AB".index(c)] for c in rule] for pair in (g[:2], g[2:4]))
    return _completed(first + second[:2], second[2], g[:4], variant // 3, rule)


def _completed(
    context: list[int], answer: int, candidates: list[int], order: int, rule: str
) -> Problem:
    """One panel per candidate for the last place, the four candidates in order number `order`."""
    candidates = [candidates[i] for i in _selection(order, 4, 4)]
    label = candidates.index(answer)
    return Problem(_GRID, [[*context, c] for c in candidates], label, rule)


class Task(NamedTuple):
    """Glyphs per problem, variants (trial types times orders of the candidates), and how problem
    (variant, glyphs) is built."""

    glyphs: int
    variants: int
    build: Callable[[int, list[int]], Problem]


TASKS = {
    "same_different": Task(2, 2, _same_different),
    "rmts": Task(5, 4, _rmts),
    "distribution_of_three": Task(4, 6 * 24, _distribution_of_three),
    "identity": Task(4, 3 * 24, _identity),
}


def numbered_problems(
    task: str, pool: np.ndarray, seed: int, names: Sequence[int | str], rows: np.ndarray
) -> list[Problem]:
    """Problems number `rows` of a task over the objects `pool`.

    Consecutive rows run through the task's variants; each variant runs through all choices of
    objects in an order of its own before one is repeated.
    """
    recipe = TASKS[task]
    total = math.perm(len(pool), recipe.glyphs)
    seeds = [permute.derive_seed(seed, *names, v) for v in range(recipe.variants)]
    found = []
    for row in np.asarray(rows, np.int64).tolist():
        number, variant = divmod(row, recipe.variants)
        choice = int(permute.permute(np.array([number % total]), total, seeds[variant])[0])
        selection = _selection(choice, len(pool), recipe.glyphs)
        found.append(recipe.build(variant, [int(pool[i]) for i in selection]))
    return found
