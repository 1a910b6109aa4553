# SPDX-License-Identifier: Apache-2.0
"""The rules of the 23 SVRT problems, checked on pixels, independently of the generator.

`violation(problem, label, image, scene)` returns what is wrong with an image, or "". Shapes are
compared pixel by pixel; the scene only says which pixels belong to which figure and where the
centre of a figure lies, and both are checked against the image first.
"""

import itertools

import numpy as np
from scipy import ndimage, spatial

SQUARE = np.ones((3, 3))
EXPECTED = {  # problem -> 8-connected components
    **dict.fromkeys((1, 2, 3, 4, 8, 11, 19, 20, 21), 2),
    **dict.fromkeys((9, 12, 14, 22, 23), 3),
    **dict.fromkeys((5, 6, 10, 13, 15, 17), 4),
    **dict.fromkeys((7, 16, 18), 6),
}


def components(ink):
    """Masks of the 8-connected components."""
    labels, n = ndimage.label(ink, SQUARE)
    return [labels == k + 1 for k in range(n)]


def crop(mask):
    rows, cols = np.nonzero(mask)
    return mask[rows.min() : rows.max() + 1, cols.min() : cols.max() + 1]


def corner(mask):
    rows, cols = np.nonzero(mask)
    return np.array([cols.min(), rows.min()])


def same(a, b):
    a, b = crop(a), crop(b)
    return a.shape == b.shape and bool((a == b).all())


def fill(mask):
    return ndimage.binary_fill_holes(mask)


def gap(a, b, metric):
    """Distance between two masks ("chessboard" or "taxicab")."""
    return int(ndimage.distance_transform_cdt(~a, metric)[b].min())


def inside(small, big):
    """1: within the outline, 0: outside of it, None: neither."""
    filled = fill(big)
    if filled[small].all():
        return 1
    return None if filled[small].any() else 0


def class_sizes(masks):
    """Sizes of the classes of identical figures, sorted."""
    classes = []
    for m in masks:
        for group in classes:
            if same(m, group[0]):
                group.append(m)
                break
        else:
            classes.append([m])
    return sorted(len(g) for g in classes)


def area(mask):
    h, w = crop(mask).shape
    return h * w


def points(part):
    rows, cols = np.nonzero(part.mask())
    return np.stack([cols + 0.5 - part.x, rows + 0.5 - part.y], 1)


def mismatch(a, b, linear=None):
    """Mean distance between point sets around the origin, both brought to radius 1."""
    a, b = (p / np.hypot(*p.T).max() for p in (a, b))
    if linear is not None:
        a = a @ linear.T
    to_b, to_a = spatial.cKDTree(b).query(a)[0], spatial.cKDTree(a).query(b)[0]
    return max(to_b.mean(), to_a.mean())


def rotation(t):
    return np.array([[np.cos(t), -np.sin(t)], [np.sin(t), np.cos(t)]])


def turned_mismatch(a, b):
    coarse = np.arange(0, 2 * np.pi, np.pi / 45)
    best = min(coarse, key=lambda t: mismatch(a, b, rotation(t)))
    fine = best + np.linspace(-np.pi / 45, np.pi / 45, 15)
    return min(mismatch(a, b, rotation(t)) for t in fine)


def centres(parts):
    return np.array([(p.x, p.y) for p in parts], float)


def off_segment(p, a, b):
    t = np.clip((p - a) @ (b - a) / ((b - a) @ (b - a)), 0, 1)
    return float(np.hypot(*(p - a - t * (b - a))))


def square_error(c):
    """How far the six distances of four points are from those of a square (pixels)."""
    d = sorted(np.hypot(*(c[i] - c[j])) for i, j in itertools.combinations(range(4), 2))
    side = np.mean(d[:4])
    return max(np.abs(np.array(d[:4]) - side).max(), np.abs(np.array(d[4:]) - side * 2**0.5).max())


def by_size(masks):
    return sorted(masks, key=area, reverse=True)


def violation(problem, label, image, scene):
    """What is wrong with the image, or an empty string."""
    ink = image == 0
    if not np.isin(image, (0, 255)).all():
        return "grey pixels"
    if ink[[0, -1]].any() or ink[:, [0, -1]].any():
        return "ink on the frame"
    if not (np.any([p.mask() for p in scene.parts], axis=0) == ink).all():
        return "the parts are not the ink"
    found = components(ink)
    expected = 1 if problem == 11 and label else EXPECTED[problem]
    if len(found) != expected:
        return f"{len(found)} components"
    if problem not in (3, 11):
        for p in scene.parts:
            mine = [m for m in found if m[p.mask()].any()]
            if len(mine) != 1 or mine[0].sum() != p.mask().sum():
                return "a part is not one component"
            if not crop_box_holds(mine[0], p):
                return "a centre lies outside of its figure"
    return RULES[problem](label, by_size(found), scene.parts, ink) or ""


def crop_box_holds(mask, part):
    rows, cols = np.nonzero(mask)
    return cols.min() <= part.x <= cols.max() and rows.min() <= part.y <= rows.max()


def _classes(ones, zeros):
    def rule(label, found, parts, ink):
        sizes = class_sizes(found)
        if sizes != (ones if label else zeros):
            return f"classes {sizes}"

    return rule


def _rule2(label, found, parts, ink):
    big, small = found
    if inside(small, big) != 1:
        return "not inside"
    if label and gap(big, small, "chessboard") != 2:
        return f"gap {gap(big, small, 'chessboard')}"
    if not label and gap(big, small, "taxicab") <= 16:
        return f"gap {gap(big, small, 'taxicab')}"


def _rule3(label, found, parts, ink):
    masks = [p.mask() for p in parts]
    groups = sorted(sorted(k for k in range(4) if m[masks[k]].any()) for m in found)
    if sorted(map(len, groups)) != ([2, 2] if label else [1, 3]):
        return f"groups {groups}"
    for group in groups:
        for n in range(1, len(group)):
            common = sum((fill(masks[group[n]]) & fill(masks[k])).sum() for k in group[:n])
            if not 1 <= common <= 3:
                return f"silhouettes share {common} pixels"
    if gap(*found, "taxicab") <= 16:
        return "the groups are near each other"


def _rule4(label, found, parts, ink):
    if inside(found[1], found[0]) != label:
        return "wrong side"


def _rule6(label, found, parts, ink):
    if class_sizes(found) != [2, 2]:
        return "classes"
    pairs = [(a, b) for a, b in itertools.combinations(found, 2) if same(a, b)]
    d = [np.hypot(*(corner(a) - corner(b))) for a, b in pairs]
    if abs(d[0] - d[1]) > 1.5 if label else abs(d[0] - d[1]) < 21:
        return f"distances {d}"


def _rule8(label, found, parts, ink):
    equal = mismatch(points(parts[0]), points(parts[1])) < 0.03
    side = inside(found[1], found[0])
    if (equal, side) not in ([(True, 1)] if label else [(True, 0), (False, 1)]):
        return f"equal {equal}, inside {side}"
    ratio = np.hypot(*points(parts[1]).T).max() / np.hypot(*points(parts[0]).T).max()
    if equal and abs(ratio - 0.5) > 0.03:
        return f"size ratio {ratio}"


def _on_a_line(c):
    """Index of the middle one of three collinear points, or None."""
    for k in range(3):
        p, a, b = c[k], c[(k + 1) % 3], c[(k + 2) % 3]
        if off_segment(p, a, b) <= 1:
            return k
    return None


def _rule9(label, found, parts, ink):
    if not same(found[1], found[2]) or mismatch(points(parts[0]), points(parts[1])) > 0.13:
        return "shapes differ"
    middle = _on_a_line(centres(parts))
    if middle is None or (middle == 0) == bool(label):
        return f"middle {middle}"


def _rule10(label, found, parts, ink):
    if class_sizes(found) != [4]:
        return "shapes differ"
    error = square_error(np.array([corner(m) for m in found], float))
    if error > 1.5 if label else error < 2.5:
        return f"square error {error}"


def _rule11(label, found, parts, ink):
    a, b = (p.mask() for p in parts)
    common = (fill(a) & fill(b)).sum()
    if not 1 <= common <= 4 if label else gap(fill(a), fill(b), "taxicab") <= 10:
        return f"overlap {common}"


def _rule12(label, found, parts, ink):
    if not same(found[1], found[2]):
        return "small shapes differ"
    c = centres(parts)
    a, b, base = (np.hypot(*v) for v in (c[0] - c[1], c[0] - c[2], c[1] - c[2]))
    if abs(a - b) > 1.5 if label else abs(a - b) < 3:
        return f"distances {a}, {b}"
    if not label and min(abs(a - base), abs(b - base)) > 1.5:
        return "not isosceles"


def _rule13(label, found, parts, ink):
    bigs, smalls = found[:2], found[2:]
    if not same(*bigs) or not same(*smalls):
        return "shapes differ"
    b, s = [corner(m) for m in bigs], [corner(m) for m in smalls]
    apart = min(np.hypot(*(s[0] - b[i] - s[1] + b[1 - i])) for i in (0, 1))
    if apart > 0 if label else apart < 32:
        return f"offsets differ by {apart}"


def _rule14(label, found, parts, ink):
    if class_sizes(found) != [3]:
        return "shapes differ"
    c = np.array([corner(m) for m in found], float)
    if label:
        return None if _on_a_line(c) is not None else "not collinear"
    if min(off_segment(c[k], c[k - 1], c[k - 2]) for k in range(3)) <= 6:
        return "nearly collinear"


def _rule15(label, found, parts, ink):
    if square_error(centres(parts)) > 1.5:
        return "not a square"
    return _classes([4], [1, 1, 1, 1])(label, found, parts, ink)


def _rule16(label, found, parts, ink):
    symmetric = bool((ink == ink[:, ::-1]).all())
    c = {(p.x, p.y) for p in parts}
    if {(127 - x, y) for x, y in c} != c:
        return "positions are not symmetric"
    if symmetric != bool(label):
        return f"symmetric {symmetric}"
    if not label and class_sizes(found) != [6]:
        return "shapes differ"


def _rule17(label, found, parts, ink):
    if class_sizes(found) != [1, 3]:
        return "classes"
    odd = next(k for k in range(4) if sum(same(found[k], m) for m in found) == 1)
    mine = next(p for p in parts if found[odd][p.mask()].any())
    equal = np.array([(p.x, p.y) for p in parts if p is not mine], float)
    a = 2 * (equal[1:] - equal[0])
    b = (equal[1:] ** 2).sum(1) - (equal[0] ** 2).sum()
    away = np.hypot(*(np.linalg.solve(a, b) - (mine.x, mine.y)))
    if away > 0.75 if label else away < 21:
        return f"{away} from the circumcentre"


def _rule18(label, found, parts, ink):
    if class_sizes(found) != [6]:
        return "shapes differ"
    c = {(p.x, p.y) for p in parts}
    if ({(127 - x, y) for x, y in c} == c) != bool(label):
        return "symmetry of the positions"
    if not label and sorted(p.y for p in parts[:3]) != sorted(p.y for p in parts[3:]):
        return "heights differ"


def _similar(compare, at_most, at_least):
    """Equal figures differ by at most, different ones by at least so much. The two limits overlap
    for the smallest figures: at a radius of six pixels some different shapes look alike."""

    def rule(label, found, parts, ink):
        error = compare(points(parts[0]), points(parts[1]), centres(parts))
        if error > at_most if label else error < at_least:
            return f"mismatch {error:.4f}"
        if (parts[0].shape == parts[1].shape) != bool(label):
            return "shape numbers"

    return rule


def _reflected(a, b, c):
    n = (c[1] - c[0]) / np.hypot(*(c[1] - c[0]))
    return mismatch(a, b, np.eye(2) - 2 * np.outer(n, n))


def _rule22(label, found, parts, ink):
    if _on_a_line(centres(parts)) is None:
        return "not collinear"
    return _classes([3], [1, 1, 1])(label, found, parts, ink)


def _rule23(label, found, parts, ink):
    sides = [inside(m, found[0]) for m in found[1:]]
    if None in sides or (sum(sides) == 1) != bool(label):
        return f"sides {sides}"


RULES = {
    1: _classes([2], [1, 1]),
    2: _rule2,
    3: _rule3,
    4: _rule4,
    5: _classes([2, 2], [1, 1, 1, 1]),
    6: _rule6,
    7: _classes([3, 3], [2, 2, 2]),
    8: _rule8,
    9: _rule9,
    10: _rule10,
    11: _rule11,
    12: _rule12,
    13: _rule13,
    14: _rule14,
    15: _rule15,
    16: _rule16,
    17: _rule17,
    18: _rule18,
    19: _similar(lambda a, b, c: mismatch(a, b), 0.08, 0.05),
    20: _similar(_reflected, 0.1, 0.06),
    21: _similar(lambda a, b, c: turned_mismatch(a, b), 0.12, 0.05),
    22: _rule22,
    23: _rule23,
}
