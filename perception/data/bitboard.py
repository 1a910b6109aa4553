# SPDX-License-Identifier: Apache-2.0
"""Binary images of 128 x 128 pixels as Python integers.

Pixel (x, y) of an image is bit 128 y + x of one large integer. Moving a figure is a shift, meeting
another figure an AND, growing by a pixel a few shifts and ORs, counting `int.bit_count`: each
takes a fraction of a microsecond, ten to a hundred times less than the NumPy call that does the
same. Figures keep one white pixel to the frame, so that shifts by one never wrap into the next row.
"""

from __future__ import annotations

import dataclasses
import functools

import numpy as np

SIZE = 128
_AREA = SIZE * SIZE
FULL = (1 << _AREA) - 1
_LEFT = sum(1 << (SIZE * y) for y in range(SIZE))
_RIGHT = _LEFT << (SIZE - 1)
_TOP = (1 << SIZE) - 1
FRAME = _LEFT | _RIGHT | _TOP | (_TOP << (SIZE * (SIZE - 1)))
INNER = FULL & ~FRAME  # where ink may be


@dataclasses.dataclass(frozen=True)
class Stamp:
    """A figure relative to its centre: bit 128 (dy - y0) + (dx - x0) is pixel (dx, dy).

    x0 ... x1 and y0 ... y1 is its bounding box, both ends included.
    """

    bits: int
    x0: int
    y0: int
    x1: int
    y1: int

    def inside(self, x: int, y: int) -> bool:
        """Whether, centred at (x, y), it keeps a white pixel to the frame."""
        return (
            x + self.x0 >= 1
            and y + self.y0 >= 1
            and x + self.x1 <= SIZE - 2
            and y + self.y1 <= SIZE - 2
        )

    def at(self, x: int, y: int) -> int:
        """Its bits when centred at (x, y); call only where `inside` holds."""
        return self.bits << (SIZE * (y + self.y0) + x + self.x0)

    @functools.cached_property
    def offsets(self) -> list[int]:
        """The shifts 128 dy + dx of its pixels relative to the centre."""
        rows, cols = np.divmod(np.flatnonzero(to_array(self.bits)), SIZE)
        return ((rows + self.y0) * SIZE + cols + self.x0).tolist()

    def mirrored(self) -> Stamp:
        """Left-right mirror image about the centre's column: pixel dx goes to -dx."""
        pixels = to_array(self.bits).reshape(SIZE, SIZE)
        width = self.x1 - self.x0 + 1
        flipped = np.zeros_like(pixels)
        flipped[:, :width] = pixels[:, :width][:, ::-1]
        return Stamp(from_array(flipped), -self.x1, self.y0, -self.x0, self.y1)

    def filled(self) -> Stamp:
        """The silhouette: the figure and all that it encloses."""
        bits = enclosed(self.bits << (SIZE + 1)) >> (SIZE + 1)
        return dataclasses.replace(self, bits=bits | self.bits)


def stamps_of_pixels(ids: np.ndarray, x: np.ndarray, y: np.ndarray, count: int) -> list[Stamp]:
    """Stamps 0 ... count-1 from their pixels: int arrays ids, x, y [n] (repetitions allowed)."""
    order = np.argsort(ids, kind="stable")
    ids, x, y = ids[order], x[order], y[order]
    starts = np.searchsorted(ids, np.arange(count))
    x0, y0 = np.minimum.reduceat(x, starts), np.minimum.reduceat(y, starts)
    x1, y1 = np.maximum.reduceat(x, starts), np.maximum.reduceat(y, starts)
    cells = (y - y0[ids]) * SIZE + (x - x0[ids])
    ends = np.append(starts[1:], len(ids))
    stamps = []
    for i in range(count):
        mask = np.zeros((int(y1[i] - y0[i]) + 1) * SIZE, np.uint8)
        mask[cells[starts[i] : ends[i]]] = 1
        box = int(x0[i]), int(y0[i]), int(x1[i]), int(y1[i])
        stamps.append(Stamp(from_array(mask), *box))
    return stamps


def from_array(pixels: np.ndarray) -> int:
    """Bits of an array of 0 and 1, rows of 128."""
    return int.from_bytes(np.packbits(pixels, bitorder="little").tobytes(), "little")


def to_array(bits: int) -> np.ndarray:
    """uint8 [16384] of 0 and 1."""
    return np.unpackbits(packed(bits), bitorder="little")


def packed(bits: int) -> np.ndarray:
    """uint8 [2048], eight pixels a byte, least significant bit first."""
    return np.frombuffer(bits.to_bytes(_AREA // 8, "little"), np.uint8)


def grow4(bits: int, times: int = 1) -> int:
    """Adds the 4-neighbours, `times` times, without touching the frame."""
    for _ in range(times):
        bits |= ((bits << 1) | (bits >> 1) | (bits << SIZE) | (bits >> SIZE)) & INNER
    return bits


def grow8(bits: int) -> int:
    """Adds the 8-neighbours; `bits` has a white frame."""
    bits |= (bits << 1) | (bits >> 1)
    return bits | (bits << SIZE) | (bits >> SIZE)


def enclosed(ink: int) -> int:
    """White pixels that no 4-connected white path joins to the frame; `ink` has a white frame."""
    free = FULL & ~ink
    # A walk only has to go round the ink: all rows above and below it are outside.
    low = (ink & -ink).bit_length() - 1
    band_low, band_high = (low // SIZE) * SIZE, (ink.bit_length() // SIZE + 1) * SIZE
    band = ((1 << band_high) - 1) & ~((1 << band_low) - 1)
    walls = free & band
    outside = walls & FRAME
    outside |= walls & ~(band >> SIZE) | walls & ~(band << SIZE)
    while True:
        wider = (
            outside | (outside << 1) | (outside >> 1) | (outside << SIZE) | (outside >> SIZE)
        ) & walls
        if wider == outside:
            return walls & ~outside
        outside = wider


def places(stamp: Stamp, allowed: int) -> int:
    """All centres at which every pixel of the stamp falls on `allowed` (which excludes the frame).

    Bit 128 y + x of the result is centre (x, y).
    """
    found = FULL
    for shift in stamp.offsets:
        found &= allowed >> shift if shift >= 0 else allowed << -shift
        if not found:
            return 0
    return found


def meeting_places(stamp: Stamp, target: int) -> int:
    """All centres at which some pixel of the stamp falls on `target`."""
    found = 0
    for shift in stamp.offsets:
        found |= target >> shift if shift >= 0 else target << -shift
    return found & FULL


def positions(bits: int) -> np.ndarray:
    """int [n, 2]: the (x, y) of all set bits, in raster order."""
    rows, cols = np.divmod(np.flatnonzero(to_array(bits)), SIZE)
    return np.stack([cols, rows], axis=1)


REACH = 96  # `overlaps` covers displacements -96 ... 95


def overlaps(fixed: Stamp, moved: Stamp) -> np.ndarray:
    """Common pixels of two figures (each up to 96 pixels wide and high): int32 [192, 192], where
    the second centre lies at (column - REACH, row - REACH) of the first."""
    a, b = (np.fft.rfft2(_around_centre(s)) for s in (fixed, moved))
    count = np.fft.irfft2(a * np.conj(b), (2 * REACH, 2 * REACH))
    return np.rint(np.fft.fftshift(count)).astype(np.int32)


def _around_centre(stamp: Stamp) -> np.ndarray:
    """The figure's pixels in an array whose origin, with wrapping, is its centre."""
    canvas = np.zeros((2 * REACH, 2 * REACH), np.float32)
    canvas[:SIZE, :SIZE] = to_array(stamp.bits).reshape(SIZE, SIZE)
    return np.roll(canvas, (stamp.y0, stamp.x0), (0, 1))
