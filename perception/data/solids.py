# SPDX-License-Identifier: Apache-2.0
"""Small shaded pictures of solids on a grey floor, seen from above at an angle.

The camera is orthographic and the light comes from one direction, so that the picture of a solid
does not depend on where it stands: each is rendered once per (shape, size, light, sub-pixel phase)
by marching along the rays of its distance function, and pasted wherever it is needed.
"""

from __future__ import annotations

import dataclasses
import functools
import math

import numpy as np

_EYE = np.array([7.48, -6.5, 5.34])  # the direction from which CLEVR scenes are seen
BACK = _EYE / np.linalg.norm(_EYE)  # from the scene towards the camera
RIGHT = np.array([-BACK[1], BACK[0], 0]) / math.hypot(BACK[0], BACK[1])
UP = np.cross(BACK, RIGHT)
SHAPES = ("cube", "cylinder", "sphere", "pyramid", "torus")
PHASES = 4  # sub-pixel positions per axis
LIGHTS = 8  # light directions
_SUPER = 3  # samples per pixel and axis
_STEPS = 40
_FLOOR = 132.0


@dataclasses.dataclass(frozen=True)
class Sprite:
    """A rendered solid: float32 [h, w] arrays cover (0 ... 1), diffuse and gloss (light received),
    shade (0 ... 1, darkness of the floor). Its pixel (0, 0) lies `top`, `left` pixels from the
    foot's pixel."""

    cover: np.ndarray
    diffuse: np.ndarray
    gloss: np.ndarray
    shade: np.ndarray
    top: int
    left: int


def distance(shape: str, size: float, p: np.ndarray) -> np.ndarray:
    """A lower bound of the signed distance of points [..., 3] from a solid standing at the origin.

    size: CLEVR's radius: half the height of sphere and cylinder, half the diagonal of the cube.
    """
    x, y, z = p[..., 0], p[..., 1], p[..., 2]
    if shape == "sphere":
        return np.sqrt(x * x + y * y + (z - size) ** 2) - size
    if shape == "cube":
        half = size / math.sqrt(2)
        return np.maximum(np.maximum(np.abs(x), np.abs(y)), np.abs(z - half)) - half
    if shape == "cylinder":
        return np.maximum(np.hypot(x, y) - size, np.abs(z - size) - size)
    if shape == "pyramid":
        height, half = 1.8 * size, size
        slope = math.hypot(height, half)
        side = (np.maximum(np.abs(x), np.abs(y)) * height + (z - height) * half) / slope
        return np.maximum(side, -z)
    if shape == "torus":
        ring = 0.36 * size
        return np.hypot(np.hypot(x, y) - (size - ring), z - ring) - ring
    raise ValueError(f"shape must be one of {', '.join(SHAPES)}, got {shape!r}")


def light_direction(light: int) -> np.ndarray:
    """Unit vector towards light number 0 ... LIGHTS-1: jittered around one place."""
    turn = 2 * math.pi * light / LIGHTS
    place = np.array([4.0, -3.0, 6.0]) + [math.cos(turn), math.sin(turn), 0.0]
    return place / np.linalg.norm(place)


@functools.cache
def sprite(shape: str, size: float, light: int, phase: tuple[int, int], scale: float) -> Sprite:
    """Renders a solid.

    Args:
      shape, size: see `distance`.
      light: see `light_direction`.
      phase: sub-pixel position of the foot, (x, y) in units of 1 / PHASES pixel.
      scale: pixels per unit of length; the vertical one is 4/3 of it, since CLEVR's pictures of
        320 x 240 pixels are reduced to squares.
    """
    sx, sy = scale, scale * 4 / 3
    left, right = -math.ceil(2.0 * size * sx) - 2, math.ceil(2.0 * size * sx) + 2
    top, bottom = -math.ceil(2.2 * size * sy) - 2, math.ceil(1.6 * size * sy) + 2
    columns = np.arange(left * _SUPER, right * _SUPER) + 0.5
    rows = np.arange(top * _SUPER, bottom * _SUPER) + 0.5
    u = (columns / _SUPER - phase[0] / PHASES) / sx
    v = -(rows / _SUPER - phase[1] / PHASES) / sy
    start = u[None, :, None] * RIGHT + v[:, None, None] * UP  # [h, w, 3]
    points = start + 4.0 * size * BACK
    for _ in range(_STEPS):
        points = points - np.maximum(distance(shape, size, points), 0)[..., None] * BACK
    hit = distance(shape, size, points) < 0.02 * size
    eps = 1e-3 * size
    normal = np.stack(
        [
            distance(shape, size, points + eps * e) - distance(shape, size, points - eps * e)
            for e in np.eye(3)
        ],
        axis=-1,
    )
    normal /= np.maximum(np.linalg.norm(normal, axis=-1, keepdims=True), 1e-9)
    to_light = light_direction(light)
    half = (to_light + BACK) / np.linalg.norm(to_light + BACK)
    diffuse = np.maximum(normal @ to_light, 0)
    gloss = np.maximum(normal @ half, 0)
    # The floor under each pixel, darkened where a ray to the light passes near the solid.
    floor = start - (start[..., 2] / BACK[2])[..., None] * BACK
    near = np.min(
        [distance(shape, size, floor + t * size * to_light) / (0.3 + 0.25 * t) for t in
         np.linspace(0.15, 2.4, 10)],
        axis=0,
    )  # fmt: skip
    shade = np.clip(0.55 - 0.9 * near / size, 0, 0.55)
    parts = [hit.astype(float), hit * diffuse, hit * gloss, shade]
    shape4 = (bottom - top, _SUPER, right - left, _SUPER)
    small = [a.reshape(shape4).mean((1, 3)).astype(np.float32) for a in parts]
    inverse = 1 / np.maximum(small[0], 1e-6)
    return Sprite(small[0], small[1] * inverse, small[2] * inverse, small[3], top, left)


def floor_picture(size: int) -> np.ndarray:
    """float32 [size, size, 3]: the empty scene, a little darker towards the far corners."""
    y, x = np.mgrid[:size, :size] / (size - 1) - 0.5
    light = _FLOOR * (1 - 0.25 * (x**2 + (y - 0.15) ** 2))
    return np.repeat(light[..., None], 3, axis=-1).astype(np.float32)


def paste_shade(picture: np.ndarray, item: Sprite, row: int, column: int) -> None:
    """Darkens the floor around a solid whose foot's pixel is (row, column)."""
    target, source = _windows(picture, item, row, column)
    picture[target] *= 1 - item.shade[source][..., None]


def paste(
    picture: np.ndarray, item: Sprite, row: int, column: int, colour: np.ndarray, metal: bool
) -> None:
    """Paints a solid over the picture; `colour` float [3], 0 ... 255."""
    target, source = _windows(picture, item, row, column)
    diffuse, gloss = item.diffuse[source][..., None], item.gloss[source][..., None]
    if metal:
        body = colour * (0.30 + 0.55 * diffuse) + 190 * gloss**40 + 50 * gloss**6
    else:
        body = colour * (0.35 + 0.75 * diffuse) + 25 * gloss**12
    cover = item.cover[source][..., None]
    picture[target] += cover * (np.minimum(body, 255) - picture[target])


def _windows(
    picture: np.ndarray, item: Sprite, row: int, column: int
) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """The common part of picture and sprite, in the coordinates of both."""
    target, source = [], []
    for first, extent, limit in (
        (row + item.top, item.cover.shape[0], picture.shape[0]),
        (column + item.left, item.cover.shape[1], picture.shape[1]),
    ):
        low, high = max(first, 0), min(first + extent, limit)
        target.append(slice(low, max(high, low)))
        source.append(slice(low - first, max(high, low) - first))
    return (target[0], target[1]), (source[0], source[1])
