# SPDX-License-Identifier: Apache-2.0
"""The concepts of the 45 oddity riddles, measured on the figures of a frame.

Written from the table of concepts, without the generator's own geometry. `violation(scene)` says
what is wrong with a riddle, or "": five frames must follow the concept and the labelled one must
break it by a visible amount. Most measures are errors: 0 where the concept holds.
"""

import math

import numpy as np
from scipy import spatial

DEGREE = math.pi / 180


def of(shapes, kind, tone=None):
    return [s for s in shapes if s.kind == kind and tone in (None, s.tone)]


def sides(p):
    return np.roll(p, -1, axis=0) - p


def lengths(p):
    return np.hypot(*sides(p).T)


def angle_between(u, v):
    """Undirected angle of two lines, radians in [0, pi/2]."""
    c = abs(u @ v) / (np.hypot(*u) * np.hypot(*v))
    return math.acos(min(c, 1.0))


def corners(p):
    back, ahead = np.roll(p, 1, axis=0) - p, sides(p)
    c = (back * ahead).sum(1) / np.hypot(*back.T) / np.hypot(*ahead.T)
    return np.degrees(np.arccos(np.clip(c, -1, 1)))


def cross(u, v):
    return float(u[0] * v[1] - u[1] * v[0])


def off_line(p, a, b):
    return abs(cross(b - a, p - a)) / np.hypot(*(b - a))


def along(p, a, b):
    return float((p - a) @ (b - a) / ((b - a) @ (b - a)))


def concave(p):
    turns = [cross(u, v) for u, v in zip(sides(p), np.roll(sides(p), -1, axis=0), strict=True)]
    return min(max(turns), max(-np.array(turns)))  # > 0: turns both ways


def dense(p, step=0.25):
    closed = np.concatenate([p, p[:1]])
    s = np.concatenate([[0], np.cumsum(np.hypot(*np.diff(closed, axis=0).T))])
    t = np.arange(0, s[-1], step)
    return np.stack([np.interp(t, s, closed[:, k]) for k in (0, 1)], 1)


def centroid(p):
    q = np.roll(p, -1, axis=0)
    w = p[:, 0] * q[:, 1] - q[:, 0] * p[:, 1]
    return ((p + q) * w[:, None]).sum(0) / (3 * w.sum())


def reflect(p, origin, angle):
    c, s = math.cos(2 * angle), math.sin(2 * angle)
    return (p - origin) @ np.array([[c, s], [s, -c]]) + origin


def asymmetry(p, angles):
    """Least mean distance of the mirrored corners, over axes through the centroid."""
    middle = centroid(p)
    tree = spatial.cKDTree(dense(p, 0.1))
    error = lambda a: tree.query(reflect(p, middle, a))[0].mean()
    best = min(angles, key=error)
    if len(angles) > 1:
        best = min(best + np.linspace(-1, 1, 21) * DEGREE, key=error)
        best = min(best + np.linspace(-0.1, 0.1, 11) * DEGREE, key=error)
    return error(best)


def colour(s):
    return 0.0 if [x.kind for x in s] == ["loop"] and len(s[0].points) == 4 else 1.0


def upright(s):
    u = sides(of(s, "fill")[0].points)[0]
    a = math.degrees(math.atan2(u[1], u[0])) % 90
    return min(a, 90 - a)


def bend(s):
    p = of(s, "path")[0].points
    return max(off_line(q, p[0], p[-1]) for q in p)


def straight(s):
    return 0.0 if bend(s) > 2 else 10.0


def dot_beside(s, low, high):
    (a, b), (c,) = of(s, "path")[0].points, of(s, "dot")[0].points
    t = along(c, a, b)
    return off_line(c, a, b) if low <= min(t, 1 - t) <= high else 99.0


def tilt(s):
    p, q = (x.points for x in of(s, "path"))
    return math.degrees(angle_between(p[1] - p[0], q[1] - q[0]))


def crossing(s, full):
    p, q = (x.points for x in of(s, "path"))
    middle = p.mean(0)
    met = np.hypot(*((q.mean(0) if full else q[0]) - middle))
    return 90 - tilt(s) if met < 1e-6 else -99.0


def corner_count(s):
    return abs(len(of(s, "fill")[0].points) - 4) if concave(s[0].points) <= 1e-9 else 9


def slant(s):
    v = sides(s[0].points)
    return min(angle_between(v[0], v[2]), angle_between(v[1], v[3]))


def parallelogram(s):
    v = sides(s[0].points)
    return max(angle_between(v[0], v[2]), angle_between(v[1], v[3])) / DEGREE


def right_angles(s):
    return float(np.abs(corners(s[0].points) - 90).max())


def one_right_angle(s):
    return float(np.abs(corners(s[0].points) - 90).min())


def unequal_sides(s):
    n = lengths(s[0].points)
    return float(n.max() - n.min())


def eccentric(s):
    p = of(s, "fill")[0].points
    r = np.hypot(*(p - p.mean(0)).T)
    return float(r.max() - r.min())


def left_handed(s, upright_pole):
    """Above 0 where the flag is on the left."""
    paths = sorted(of(s, "path"), key=lambda x: -np.hypot(*(x.points[1] - x.points[0])))
    ends = paths[0].points
    dots = of(s, "dot")
    flag = dots[0].points[0] if dots else np.mean([x.points for x in paths[1:]], axis=(0, 1))
    near = int(np.argmin(np.hypot(*(ends - flag).T)))
    up = ends[near] - ends[1 - near]
    if upright_pole and (abs(up[0]) > 1e-6 or up[1] > 0):
        return 99.0
    return -cross(up, flag - ends[near]) / np.hypot(*up)


def gaps(s):
    p = np.array([x.points[0] for x in of(s, "dot")])
    t = np.sort((p - p[0]) @ (p[-1] - p[0])) / ((p[-1] - p[0]) @ (p[-1] - p[0]))
    assert max(off_line(q, p[0], p[-1]) for q in p) < 1e-6
    return np.diff(t)


def growing(s):
    change = np.diff(gaps(s))
    return 0.0 if np.all(change > 0.05) or np.all(change < -0.05) else 1.0


def disc_centre(s):
    big, mark = of(s, "dot", "ink")[0], of(s, "dot", "paper")[0]
    away = np.hypot(*(big.points[0] - mark.points[0]))
    return away / big.size if away + mark.size < big.size else 99.0


def quad_centre(s):
    a, b, c, d = of(s, "fill")[0].points
    mark = of(s, "dot", "paper")[0].points[0]
    return max(off_line(mark, a, c), off_line(mark, b, d))


def part(s):
    (a, b), (c,) = of(s, "path")[0].points, of(s, "dot")[0].points
    assert off_line(c, a, b) < 1e-6
    return along(c, a, b)


def translated(p, q):
    d = q - p
    return float(np.hypot(*(d - d.mean(0)).T).max())


def homothety(s):
    small, large = (x.points - x.points.mean(0) for x in of(s, "fill"))
    factor = lengths(large).sum() / lengths(small).sum()
    return float(np.hypot(*(small * factor - large).T).max()), factor


def mirror(s, level=None):
    p, q = (x.points for x in of(s, "fill"))
    a, b = of(s, "path")[0].points
    if level is not None and abs((b - a)[1 - level]) > 1e-6:
        return 99.0
    u = b - a
    return float(np.hypot(*(reflect(p, a, math.atan2(u[1], u[0])) - q).T).max())


def half_turn(s):
    p, q = (x.points for x in of(s, "fill"))
    return float(np.hypot(*(2 * of(s, "dot")[0].points[0] - p - q).T).max())


def rotation(s):
    (o, a), (o2, b) = (x.points for x in of(s, "path"))
    assert np.allclose(o, o2)
    p, q = (x.points - o for x in of(s, "fill"))
    u, v = a - o, b - o
    c, d = (u @ v) / (u @ u), cross(u, v) / (u @ u)
    return float(np.hypot(*(p @ np.array([[c, d], [-d, c]]) - q).T).max())


def contains(polygon, point):
    a, b = polygon - point, np.roll(polygon, -1, axis=0) - point
    angle = np.arctan2(a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0], (a * b).sum(1))
    return abs(angle.sum()) > math.pi


def outside(s):
    return 0.0 if contains(of(s, "loop")[0].points, of(s, "dot")[0].points[0]) else 1.0


def holes(s):
    marks = of(s, "dot", "paper")
    assert all(contains(of(s, "fill")[0].points, m.points[0]) for m in marks)
    return float(len(marks))


STEEP = [a * DEGREE for k in (1, -1) for a in range(18 * k, 73 * k, k)]

# riddle -> (error of a frame, largest error of the concept, least error of the odd frame)
ERRORS = {
    0: (colour, 0, 1),
    1: (upright, 1e-6, 14.9),
    2: (bend, 1e-6, 4),
    3: (straight, 0, 1),
    4: (lambda s: dot_beside(s, 0.19, 0.5), 1e-6, 9.9),
    5: (lambda s: dot_beside(s, -1, -0.1), 1e-6, 9.9),
    6: (tilt, 1e-4, 9.9),
    7: (lambda s: 0.0 if tilt(s) > 4.9 else 90 - tilt(s), 0, 89),
    8: (lambda s: crossing(s, True), 1e-4, 24.9),
    9: (lambda s: crossing(s, False), 1e-4, 24.9),
    10: (corner_count, 0, 1),
    11: (slant, 1e-4, 0.59),
    12: (parallelogram, 1e-4, 5),
    13: (right_angles, 1e-4, 14.9),
    14: (unequal_sides, 1e-6, 4.9),
    15: (unequal_sides, 1e-6, 9.9),
    16: (one_right_angle, 1e-4, 14.9),
    17: (eccentric, 1e-6, 4.9),
    18: (lambda s: concave(of(s, "fill")[0].points), 1e-9, 0.01),
    19: (lambda s: asymmetry(s[0].points, [math.pi / 2]), 0.1, 0.4),
    20: (lambda s: asymmetry(s[0].points, [0.0]), 0.1, 0.4),
    21: (lambda s: asymmetry(s[0].points, STEEP), 0.1, 0.4),
    22: (lambda s: left_handed(s, True), 0, 3),
    23: (lambda s: left_handed(s, True), 0, 3),
    24: (lambda s: left_handed(s, False), 0, 3),
    25: (lambda s: left_handed(s, False), 0, 3),
    27: (lambda s: float(np.ptp(gaps(s))), 1e-6, 0.19),
    28: (growing, 0, 1),
    29: (disc_centre, 1e-6, 0.19),
    30: (quad_centre, 1e-6, 1.5),
    31: (lambda s: abs(part(s) - 0.5), 1e-6, 0.14),
    33: (lambda s: translated(*(x.points for x in of(s, "fill"))), 1e-6, 5),
    34: (lambda s: homothety(s)[0], 1e-6, 5),
    36: (lambda s: mirror(s, 0), 1e-6, 3),
    37: (lambda s: mirror(s, 1), 1e-6, 3),
    38: (mirror, 1e-6, 3),
    39: (half_turn, 1e-6, 3),
    40: (rotation, 1e-6, 2),
    41: (outside, 0, 1),
    42: (lambda s: float(len(of(s, "loop")) != 1), 0, 1),
    43: (lambda s: len(of(s, "fill")) - 1, 0, 1),
    44: (holes, 0, 1),
}


def middle_distance(s):
    (a, b), (c,) = of(s, "path")[0].points, of(s, "dot")[0].points
    assert abs(along(c, a, b) - 0.5) < 1e-6
    return np.hypot(*(c - (a + b) / 2))


# riddle -> (quantity that five frames share, least difference of the odd one)
SHARED = {
    26: (middle_distance, 6.9),
    32: (part, 0.19),
    34: (lambda s: homothety(s)[1], 0),
    35: (lambda s: homothety(s)[1], 1.4),
}


def violation(scene):
    """What is wrong with a riddle, or an empty string."""
    for figures in scene.frames:
        points = np.concatenate([s.points for s in figures])
        if points.min() < 0 or points.max() > 100:
            return "a figure leaves the frame"
    if scene.riddle in ERRORS:
        error, most, least = ERRORS[scene.riddle]
        values = [error(s) for s in scene.frames]
        for k, value in enumerate(values):
            if value < least if k == scene.label else value > most:
                return f"frame {k}, odd {scene.label}: {value:.3g}"
    if scene.riddle in SHARED:
        quantity, least = SHARED[scene.riddle]
        values = [quantity(s) for s in scene.frames]
        others = np.delete(values, scene.label)
        if np.ptp(others) > 1e-6 or abs(values[scene.label] - others[0]) < least - 1e-9:
            return f"odd {scene.label}: {np.round(values, 3)}"
    return ""


def separated(scene):
    """Whether the concept holds in the five frames and not in the odd one, by however little."""
    if scene.riddle in ERRORS:
        error, most, _ = ERRORS[scene.riddle]
        values = [error(s) for s in scene.frames]
    else:
        quantity, _ = SHARED[scene.riddle]
        values = np.array([quantity(s) for s in scene.frames])
        values, most = abs(values - np.median(values)), 1e-6
    return [v > most for v in values] == [k == scene.label for k in range(6)]
