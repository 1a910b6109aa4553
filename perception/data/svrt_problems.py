# SPDX-License-Identifier: Apache-2.0
"""The 23 problems of the Synthetic Visual Reasoning Test as recipes for `svrt_scene.render`.

Label 1 means that the rule of the problem holds. Rules and sizes follow F. Fleuret et al.,
"Comparing machines and humans on a visual categorization test", PNAS 108 (2011). Lengths are
pixels of the 128 x 128 image. Where a layout fails, shapes and positions are drawn again, as in the
published generator, which makes large shapes a little rarer; where that would take too long
(problems 2 to 5, 7, 8, 11 to 13, 16, 18, 23), other positions of the same shapes are tried first.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from perception.data import bitboard, contours
from perception.data import svrt_layouts as lay
from perception.data.bitboard import grow4
from perception.data.streams import Stream
from perception.data.svrt_layouts import Point, W
from perception.data.svrt_scene import Again, Canvas, Figure, New, Recipe, RecipeFunction

TRIES = 100  # positions tried for one set of shapes
BIG, SMALL, MIDDLE = New(48, 21), New(10, 1), New(21, 2)

# Shares measured on the published generator, where rejection thins out the rarer kind.
INSIDE_SHARE_8 = 0.17  # label 0 of problem 8: a different shape inside, instead of a copy outside
INSIDE_SHARE_23 = 0.21  # label 0 of problem 23: both inside, instead of both outside

# How the literature groups the problems.
SAME_DIFFERENT = (1, 5, 6, 7, 13, 16, 17, 19, 20, 21, 22)
SPATIAL_RELATION = (2, 3, 4, 8, 9, 10, 11, 12, 14, 15, 18, 23)

PROBLEMS: dict[int, RecipeFunction] = {}


def _problem(number: int) -> Callable[[RecipeFunction], RecipeFunction]:
    def register(recipe: RecipeFunction) -> RecipeFunction:
        PROBLEMS[number] = recipe
        return recipe

    return register


def _drawn(figures: Sequence[Figure], centres: Sequence[Point]) -> Canvas | None:
    canvas = Canvas()
    if not all(f.stamp.inside(*c) for f, c in zip(figures, centres, strict=True)):
        return None
    return canvas if canvas.put_all(figures, centres) else None


def _arranged(
    figures: Sequence[Figure], propose: Callable[[], Sequence[Point] | None], tries: int = TRIES
) -> Canvas | None:
    """The figures at the first proposed centres at which they fit."""
    for _ in range(tries):
        centres = propose()
        canvas = _drawn(figures, centres) if centres is not None else None
        if canvas is not None:
            return canvas
    return None


def _scatter(rng: Stream, figures: Sequence[Figure], tries: int = TRIES) -> Canvas | None:
    """Draws the figures one after the other, each at a uniform free position."""
    canvas = Canvas()
    for figure in figures:
        if not canvas.put_anywhere(rng, figure, tries):
            return None
    return canvas


def _half(figure: Figure) -> Again:
    return Again(figure, contours.turn(0.0, 0.5), 0.5)


@_problem(1)
def _two_equal(rng: Stream, label: int) -> Recipe:
    first, *other = yield [New(26.25, 2.5)] * (1 if label else 2)
    return _scatter(rng, [first, *(other or [first])], tries=1)


@_problem(2)
def _inside_near_outline(rng: Stream, label: int) -> Recipe:
    big, small = yield [BIG, SMALL]
    canvas = Canvas()
    if not canvas.put_anywhere(rng, big):
        return None
    room = bitboard.enclosed(canvas.ink) & ~canvas.blocked
    if label:  # one white pixel between the two
        spots = bitboard.places(small.stamp, room)
        spots &= bitboard.meeting_places(small.stamp, grow4(canvas.blocked))
    else:
        spots = bitboard.places(small.stamp, room & ~grow4(canvas.ink, W // 8))
    return canvas if canvas.put_on(rng, small, spots) else None


@_problem(3)
def _pairs_or_triple(rng: Stream, label: int) -> Recipe:
    figures = yield [MIDDLE] * 4
    # Label 1: {0, 1} and {2, 3}; label 0: {0, 1, 2} and {3}.
    groups = (figures[:2], figures[2:]) if label else (figures[:3], figures[3:])
    chains = [chain for group in groups if (chain := _chain(rng, group, 1, 3))]
    if len(chains) < 2:
        return None
    for _ in range(TRIES):
        canvas = Canvas()
        if all(_put_group(rng, canvas, *pair) for pair in zip(groups, chains, strict=True)):
            return canvas
    return None


def _put_group(rng: Stream, canvas: Canvas, figures: Sequence[Figure], chain: list[Point]) -> bool:
    """Draws touching figures at a random place W / 8 pixels from all others, if it is free."""
    origin, forbidden = lay.point(rng), grow4(canvas.ink, W // 8)
    placed = [(f, lay.moved(origin, c)) for f, c in zip(figures, chain, strict=True)]
    if any(not f.stamp.inside(*c) or f.stamp.at(*c) & forbidden for f, c in placed):
        return False
    return all(canvas.put(f, *c, touching=True) for f, c in placed)


def _chain(rng: Stream, figures: Sequence[Figure], low: int, high: int) -> list[Point] | None:
    """Centres, the first at the origin, at which each silhouette overlaps those before it by low
    ... high pixels in all."""
    centres: list[Point] = [(0, 0)]
    silhouettes = [f.stamp.filled() for f in figures]
    for k in range(1, len(figures)):
        count = bitboard.overlaps(silhouettes[0], silhouettes[k])
        for (x, y), silhouette in zip(centres[1:], silhouettes[1:k], strict=True):
            count = count + np.roll(bitboard.overlaps(silhouette, silhouettes[k]), (y, x), (0, 1))
        rows, cols = np.nonzero((count >= low) & (count <= high))
        if not len(rows):
            return None
        i = rng.integer(0, len(rows) - 1)
        centres.append((int(cols[i]) - bitboard.REACH, int(rows[i]) - bitboard.REACH))
    return centres


@_problem(4)
def _inside_or_outside(rng: Stream, label: int) -> Recipe:
    big, small = yield [BIG, SMALL]
    canvas = Canvas()
    if not canvas.put_anywhere(rng, big):
        return None
    return canvas if _put_by_side(rng, canvas, small, bool(label)) else None


def _put_by_side(
    rng: Stream, canvas: Canvas, figure: Figure, inside: bool, walls: int | None = None
) -> bool:
    """Draws the figure inside or outside of what the outline `walls` (by default all ink)
    encloses."""
    room = bitboard.enclosed(canvas.ink if walls is None else walls)
    if inside:
        return canvas.put_on(rng, figure, bitboard.places(figure.stamp, room & ~canvas.blocked))
    return canvas.put_anywhere(rng, figure, forbidden=room)


@_problem(5)
def _two_pairs(rng: Stream, label: int) -> Recipe:
    shapes = yield [MIDDLE] * (2 if label else 4)
    return _scatter(rng, [shapes[0], shapes[0], shapes[1], shapes[1]] if label else shapes)


@_problem(6)
def _equal_distances(rng: Stream, label: int) -> Recipe:
    def layout() -> Sequence[Point] | None:
        first = rng.real(0, W / 2)
        second = first if label else rng.real(0, W / 2)
        pairs = [*lay.opposite(rng, first), *lay.opposite(rng, second)]
        gap = abs(lay.distance(*pairs[:2]) - lay.distance(*pairs[2:]))
        wrong = gap > 1.5 if label else gap < lay.APART
        return None if wrong else lay.unless_cluttered(pairs)

    centres = lay.propose(rng, SMALL.hole, layout)
    a, b = yield [SMALL] * 2
    return _drawn([a, a, b, b], centres)


@_problem(7)
def _groups_of_three_or_two(rng: Stream, label: int) -> Recipe:
    shapes = yield [MIDDLE] * (2 if label else 3)
    return _scatter(rng, [s for s in shapes for _ in range(3 if label else 2)])


@_problem(8)
def _half_size_copy_inside(rng: Stream, label: int) -> Recipe:
    different = not label and rng.coin(INSIDE_SHARE_8)
    while True:  # the kind is kept until a layout succeeds, so that its share is as stated
        big, *other = yield [BIG] * (2 if different else 1)
        (small,) = yield [_half(other[0] if different else big)]
        canvas = Canvas()
        canvas.kind = "" if label else ("different inside" if different else "copy outside")
        if canvas.put_anywhere(rng, big) and _put_by_side(
            rng, canvas, small, bool(label) or different
        ):
            return canvas


@_problem(9)
def _big_at_the_end(rng: Stream, label: int) -> Recipe:
    start, middle, end = lay.propose(rng, MIDDLE.hole / 2, lambda: lay.on_a_line(rng))
    (big,) = yield [MIDDLE]
    (small,) = yield [_half(big)]
    return _drawn([big, small, small], [start, middle, end] if label else [middle, start, end])


@_problem(10)
def _square_or_not(rng: Stream, label: int) -> Recipe:
    def layout() -> Sequence[Point] | None:
        centres = lay.square(rng) if label else [lay.point(rng) for _ in range(4)]
        return None if not label and lay.nearly_square(centres) else lay.unless_cluttered(centres)

    centres = lay.propose(rng, SMALL.hole, layout)
    (shape,) = yield [SMALL]
    return _drawn([shape] * 4, centres)


@_problem(11)
def _touching(rng: Stream, label: int) -> Recipe:
    big, small = yield [New(48, 16), New(21, 7)]
    if label:
        chain = _chain(rng, [big, small], 1, 4)
        if chain is None:
            return None
        for _ in range(TRIES):
            canvas = Canvas()
            if _put_group(rng, canvas, [big, small], chain):
                return canvas
        return None
    canvas = Canvas()
    if not canvas.put_anywhere(rng, big):
        return None
    silhouette = canvas.ink | bitboard.enclosed(canvas.ink)
    return canvas if canvas.put_anywhere(rng, small, forbidden=grow4(silhouette, W // 12)) else None


@_problem(12)
def _big_equidistant(rng: Stream, label: int) -> Recipe:
    def layout() -> Sequence[Point]:
        # Three points of a circle: the apex, and two on the far side, `opening` apart.
        (x, y), angle = lay.point(rng), rng.angle()
        opening, radius = rng.real(0.1, 0.5) * math.pi, rng.real(0.1, 0.6) * W
        turns = [angle, angle + math.pi - opening / 2, angle + math.pi + opening / 2]
        return [lay.rounded(x + radius * math.cos(a), y + radius * math.sin(a)) for a in turns]

    def order() -> list[Point]:
        apex, first, second = lay.propose(rng, 5, layout)
        return [apex, first, second] if label else [first, apex, second]

    small, big = yield [New(10, 5), New(21, 10)]
    return _arranged([big, small, small], order)


@_problem(13)
def _same_offset(rng: Stream, label: int) -> Recipe:
    def layout() -> Sequence[Point] | None:
        a, b, first = lay.point(rng), lay.point(rng), lay.offset(rng)
        second = first if label else lay.offset(rng)
        near = [lay.moved(a, first), lay.moved(b, second)]
        # The shapes are equal: neither way to pair them may give equal offsets by chance.
        if (
            not label
            and min(lay.offset_change(a, b, *near), lay.offset_change(b, a, *near)) < W // 4
        ):
            return None
        return [a, b, *near]

    big, small = yield [New(32, 16), New(10, 5)]
    return _arranged([big, big, small, small], layout, 10 * TRIES)


@_problem(14)
def _collinear(rng: Stream, label: int) -> Recipe:
    def layout() -> Sequence[Point] | None:
        if label:
            return lay.unless_cluttered(list(lay.on_a_line(rng)))
        centres = [lay.point(rng) for _ in range(3)]
        return None if lay.cluttered(centres) or lay.near_a_segment(centres) else centres

    centres = lay.propose(rng, SMALL.hole, layout)
    (shape,) = yield [SMALL]
    return _drawn([shape] * 3, centres)


@_problem(15)
def _square_of_equals(rng: Stream, label: int) -> Recipe:
    centres = lay.propose(rng, SMALL.hole, lambda: lay.unless_cluttered(lay.square(rng)))
    shapes = yield [SMALL] * (1 if label else 4)
    return _drawn(shapes * 4 if label else shapes, centres)


@_problem(16)
def _mirror_images(rng: Stream, label: int) -> Recipe:
    (shape,) = yield [SMALL]
    figures = [shape] * 3 + [shape.flipped() if label else shape] * 3
    return _arranged(figures, lambda: lay.with_mirror_images(lay.left_half(rng)))


@_problem(17)
def _odd_one_at_the_circumcentre(rng: Stream, label: int) -> Recipe:
    def layout() -> Sequence[Point] | None:
        equal = [lay.point(rng) for _ in range(3)]
        centre = lay.circumcentre(*equal)
        if centre is None:
            return None
        fourth = lay.rounded(*centre) if label else lay.point(rng)
        wrong = not label and math.dist(fourth, centre) < lay.APART
        return None if wrong else lay.unless_cluttered([*equal, fourth])

    centres = lay.propose(rng, SMALL.hole, layout)
    shape, odd = yield [SMALL] * 2
    return _drawn([shape, shape, shape, odd], centres)


@_problem(18)
def _symmetric_positions(rng: Stream, label: int) -> Recipe:
    def layout() -> Sequence[Point] | None:
        left = lay.left_half(rng)
        if label:
            return lay.with_mirror_images(left)
        right = [(rng.integer(0, W - 1), y) for _, y in left]
        # Chance mirror images would break the label.
        gaps = [abs(W - 1 - a[0] - b[0]) for a, b in zip(left, right, strict=True)]
        if max(gaps) < lay.CLUTTER:
            return None
        return lay.unless_cluttered(left + right)

    (shape,) = yield [SMALL]
    return _arranged([shape] * 6, layout)


@_problem(19)
def _equal_up_to_scale(rng: Stream, label: int) -> Recipe:
    return (yield from _transformed_pair(rng, label, turned=False))


def _transformed_pair(rng: Stream, label: int, turned: bool) -> Recipe:
    """Two shapes of radius 10.5 at their own scales from U(1, 4) (and angles)."""
    shapes = yield [New(10.5, 1)] * (1 if label else 2)
    wants: list[New | Again] = []
    for k in range(2):
        scale, angle = rng.real(1, 4), rng.angle() if turned else 0.0
        wants.append(Again(shapes[k % len(shapes)], contours.turn(angle, scale), scale, angle))
    return _scatter(rng, (yield wants), tries=1)


@_problem(20)
def _reflected(rng: Stream, label: int) -> Recipe:
    first, *other = yield [New(16, 2)] * (1 if label else 2)
    a, b = lay.point(rng), lay.point(rng)
    if label:
        # The mirror is the perpendicular bisector of the centres: its direction is kept.
        axis = math.atan2(b[1] - a[1], b[0] - a[0]) + math.pi / 2
        other = yield [Again(first, contours.reflection(axis), 1.0, 2 * axis, True)]
    canvas = Canvas()
    return canvas if canvas.put_all([first, other[0]], [a, b]) else None


@_problem(21)
def _equal_up_to_scale_and_turn(rng: Stream, label: int) -> Recipe:
    return (yield from _transformed_pair(rng, label, turned=True))


@_problem(22)
def _collinear_equals(rng: Stream, label: int) -> Recipe:
    centres = lay.propose(rng, SMALL.hole, lambda: lay.unless_cluttered(list(lay.on_a_line(rng))))
    shapes = yield [SMALL] * (1 if label else 3)
    return _drawn(shapes * 3 if label else shapes, centres)


@_problem(23)
def _one_inside_one_outside(rng: Stream, label: int) -> Recipe:
    both_inside = rng.coin(INSIDE_SHARE_23)
    sides = (True, False) if label else (both_inside, both_inside)
    while True:
        big, *smalls = yield [BIG, SMALL, SMALL]
        canvas = Canvas()
        canvas.kind = "" if label else ("both inside" if both_inside else "both outside")
        if not canvas.put_anywhere(rng, big):
            continue
        outline = canvas.ink
        if all(
            _put_by_side(rng, canvas, small, side, outline)
            for small, side in zip(smalls, sides, strict=True)
        ):
            return canvas
