# SPDX-License-Identifier: Apache-2.0
"""Small grey images of distinct symbols, the objects of the abstract reasoning tasks.

`unicode_glyphs` reads the 100 published glyphs, `procedural_glyphs` draws as many of our own that
need no download, `check_glyphs` admits any array a user brings. Glyphs are uint8 [n, 32, 32], ink
255 on 0.
"""

from __future__ import annotations

import functools
import io
import math
import zipfile

import numpy as np

from core import datasets
from perception.data import raster, streams

SIZE = 32
_INK = (0.07, 0.67)  # range of the mean ink of the published glyphs
_LEAST_DIFFERENCE = 0.045  # least mean squared difference of two published glyphs


@functools.cache
def unicode_glyphs() -> np.ndarray:
    """The 100 glyphs of T. Webb et al., "Emergent Symbols through Binding in External Memory"
    (ICLR 2021) from the data set `unicode_glyphs`.

    Raises:
      FileNotFoundError: the data set is not there; `procedural_glyphs` needs none.
      ImportError: Pillow, which reads the images, is not installed.
    """
    path = datasets.find_dataset("unicode_glyphs") / "imgs.zip"
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError("the published glyphs are PNG files: pip install pillow") from error
    glyphs = []
    with zipfile.ZipFile(path) as archive:
        for k in range(100):
            with Image.open(io.BytesIO(archive.read(f"{k}.png"))) as image:
                glyphs.append(np.asarray(image.convert("L")))
    stack = np.stack(glyphs)
    # The files are black on white; symbols are ink here.
    return 255 - stack if stack.mean() > 127 else stack


@functools.cache
def procedural_glyphs(count: int = 100, seed: int = 0) -> np.ndarray:
    """Draws glyphs of 2 to 5 strokes, arcs, discs and polygons.

    Candidates are kept while their mean ink and their least mean squared difference to those
    before lie in the range of the published glyphs.

    Args:
      count: number of glyphs.
      seed: of the drawing.

    Returns:
      uint8 [count, 32, 32].
    """
    keys = iter(streams.image_keys(seed, ("glyphs",), np.arange(100 * count)))
    kept = np.zeros((0, SIZE, SIZE), np.float32)
    while len(kept) < count:
        glyph = _candidate(streams.Stream(int(next(keys))))
        differences = ((kept - glyph) ** 2).mean((1, 2))
        if _INK[0] <= glyph.mean() <= _INK[1] and np.all(differences >= _LEAST_DIFFERENCE):
            kept = np.concatenate([kept, glyph[None]])
    return np.rint(255 * kept).astype(np.uint8)


def _candidate(rng: streams.Stream) -> np.ndarray:
    parts = [_primitive(rng) for _ in range(rng.integer(2, 5))]
    return raster.coverage([[p for part in parts for p in part]], SIZE, SIZE)[0]


def _primitive(rng: streams.Stream) -> raster.Polygons:
    width = rng.real(2, 4)
    low, high = 3.0, SIZE - 3.0
    kind = rng.integer(0, 3)
    if kind == 0:
        ends = [(rng.real(low, high), rng.real(low, high)) for _ in range(2)]
        return raster.stroke(np.array(ends), width)
    radius = rng.real(3, 11)
    centre = [rng.real(radius + 3, SIZE - radius - 3) for _ in range(2)]
    start = rng.angle()
    if kind == 1:
        return raster.stroke(_arc(centre, radius, start, rng.real(math.pi / 2, 2 * math.pi)), width)
    if kind == 2:
        return raster.disc(centre, radius / 2)
    n = rng.integer(3, 6)
    polygon = _arc(centre, radius, start, 2 * math.pi * (n - 1) / n, n)
    return raster.outline(polygon, width) if rng.coin() else [polygon]


def _arc(
    centre: list[float], radius: float, start: float, extent: float, points: int = 24
) -> np.ndarray:
    angles = start + np.linspace(0, extent, points)
    return np.array(centre) + radius * np.stack([np.cos(angles), np.sin(angles)], 1)


def check_glyphs(glyphs: np.ndarray) -> np.ndarray:
    """The given glyphs, if they can serve.

    Raises:
      ValueError: not uint8 [n, 32, 32], or two equal ones.
    """
    glyphs = np.asarray(glyphs)
    if glyphs.dtype != np.uint8 or glyphs.ndim != 3 or glyphs.shape[1:] != (SIZE, SIZE):
        raise ValueError(
            f"glyphs must be uint8 [n, {SIZE}, {SIZE}], got {glyphs.dtype} {glyphs.shape}"
        )
    if len(np.unique(glyphs.reshape(len(glyphs), -1), axis=0)) != len(glyphs):
        raise ValueError("two of the glyphs are equal")
    return glyphs
