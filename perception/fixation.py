# SPDX-License-Identifier: Apache-2.0
"""A sequence of fixations: winner-take-all search of a saliency map with inhibition of return.

One step, from the fixation l (at first the lower right corner) and the places visited so far:

    s' = the map without the visited places, and without the disc around l
    of the pixels where s' has its maximum, if that is positive, the nearest to l is fixated next
    (raster order decides between equally near ones); if nothing is left, the lower right corner
    the places around the new fixation become visited

Pixel (row i, column j) of the grid on which masks and distances are computed lies at
x = -1 + 2j / (H - 1), while a fixated pixel is reported at x = 2 (j + 1) / H - 1: up to one pixel
further to the lower right. That is the published behaviour (Kolner et al., arXiv 2409.20213);
`offset=False` reports the grid value instead. Both are multiples of 2 / (H (H - 1)), so distances
and discs are computed in integers of that unit: ties are exact, as they are in real numbers (images
of up to 181 rows; larger ones, whose squares pass 32 bits, in float32).

Dimensions: B batch, H height = width, T fixations.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp

INHIBITIONS = ("hard", "soft", "radial")
TIES = ("nearest", "raster")
MODES = ("exact", "fast")


@dataclasses.dataclass(frozen=True)
class FixationConfig:
    """The fixation loop.

    Attributes:
      count: number T of fixations.
      size: m of the inhibition of return. Hard: a disc of radius m/H in normalised coordinates,
        about m/2 pixels. Soft: half height at about 82/m pixels of a 128-pixel image, so that the
        mask shrinks as m grows.
      inhibition: "hard" (nothing within the disc is fixated again), "soft" (the map is multiplied
        by 1 - exp(-(m^2 d)^2), d the mean over x and y of the squared difference; CLEVR-ART), or
        "radial" (1 - exp(-sharpness |p - l|^2), the kernel of the follow-up paper).
      sharpness: of the radial kernel; there and in "soft", the disc of `size` around the current
        fixation is hidden for one step.
      tie: "nearest" (published) or "raster" (the first maximum).
      offset: report pixels one to the lower right of the grid (published), see the module.
      mode: "exact", or "fast": among equal maxima the nearest row, then the nearest column in it;
        hard inhibition only. `docs/gap.md` says how often both agree.
    """

    count: int = 15
    size: int = 11
    inhibition: str = "hard"
    sharpness: float = 100.0
    tie: str = "nearest"
    offset: bool = True
    mode: str = "exact"

    def __post_init__(self) -> None:
        if self.count < 1 or self.size < 1:
            raise ValueError(f"count and size must be at least 1, got {self}")
        for name, known in (("inhibition", INHIBITIONS), ("tie", TIES), ("mode", MODES)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {known}, got {getattr(self, name)!r}")
        if self.inhibition == "hard" and self.size < 3:
            raise ValueError(f"hard inhibition needs a size of at least 3, got {self.size}")
        if self.sharpness <= 0:
            raise ValueError(f"sharpness must be positive, got {self.sharpness}")
        if self.mode == "fast" and (self.inhibition, self.tie) != ("hard", "nearest"):
            raise NotImplementedError(
                "mode 'fast' has hard inhibition and its own tie rule: use mode 'exact' for"
                f" inhibition {self.inhibition!r} and tie {self.tie!r}"
            )


def fixate(saliency: jax.Array, cfg: FixationConfig | None = None) -> jax.Array:
    """Fixated pixels of each map, in order.

    Args:
      saliency: [B, H, H], not negative.
      cfg: see `FixationConfig`.

    Returns:
      int32 [B, T, 2]: (row, column). Where a map is exhausted, (H - 1, H - 1).

    Raises:
      ValueError: maps that are not square, or more fixations than the image has room for.
    """
    cfg = cfg or FixationConfig()
    if saliency.ndim != 3 or saliency.shape[1] != saliency.shape[2]:
        raise ValueError(f"saliency must be square maps [B, H, H], got shape {saliency.shape}")
    check_room(cfg, saliency.shape[1])
    if cfg.mode == "fast":
        # One image after the other: batched windows would become gathers and scatters.
        return jax.lax.map(functools.partial(_fixate_windowed, cfg=cfg), saliency)
    return jax.vmap(functools.partial(_fixate_one, cfg=cfg))(saliency)


def locations(pixels: jax.Array, height: int, offset: bool = True) -> jax.Array:
    """Normalised (x, y) of fixated pixels.

    Args:
      pixels: int [..., 2], (row, column).
      height: rows of the image.
      offset: see `FixationConfig.offset`.

    Returns:
      float32 [..., 2] in [-1, 1], x (column) first.
    """
    at = pixels[..., ::-1].astype(jnp.float32)
    return 2 * (at + 1) / height - 1 if offset else 2 * at / (height - 1) - 1


def check_room(cfg: FixationConfig, height: int) -> None:
    """Raises ValueError if no image of that height has room for so many fixations.

    Hard discs keep fixations more than r apart (and more than none), so discs of radius r/2 around
    them are disjoint and inside of a square of side H + r.
    """
    apart = max(cfg.size / 2 - 2, 1.0) if cfg.inhibition == "hard" else 1.0
    room = math.floor((height - 1 + apart) ** 2 / (math.pi * (apart / 2) ** 2))
    if cfg.count > min(room, height * height):
        raise ValueError(
            f"{cfg.count} fixations, each inhibiting a disc of {cfg.size} pixels, do not fit an"
            f" image of {height} x {height}: at most {min(room, height * height)} do"
        )


# --- the published loop -------------------------------------------------------------------------


def _units(height: int) -> jnp.dtype:
    """Type of squared distances: integers as long as 2 H^4 fits them."""
    return jnp.dtype("int32") if 2 * height**4 < 2**31 else jnp.dtype("float32")


def _squared(index: jax.Array, height: int, offset: bool) -> jax.Array:
    """Squared distance along one axis of every grid line [H] to a fixated one."""
    kind = _units(height)
    at = (index + 1) * (height - 1) if offset else index * height
    return jnp.square(jnp.arange(height, dtype=kind) * height - at.astype(kind))


def _disc(cfg: FixationConfig, height: int) -> int | float:
    """Largest squared distance that is inside the disc, in the unit of `_squared`."""
    limit = (cfg.size * (height - 1)) ** 2 / 4
    return math.floor(limit) if _units(height) == jnp.int32 else limit


def _keep(cfg: FixationConfig, distance: jax.Array, height: int) -> jax.Array:
    """What the inhibition around a fixation leaves of the map, in [0, 1] (float32)."""
    if cfg.inhibition == "hard":
        return (distance > _disc(cfg, height)).astype(jnp.float32)
    squared = distance.astype(jnp.float32) * (2 / (height * (height - 1))) ** 2
    if cfg.inhibition == "soft":
        return -jnp.expm1(-jnp.square(cfg.size**2 * squared / 2))
    return -jnp.expm1(-cfg.sharpness * squared)


def _fixate_one(saliency: jax.Array, cfg: FixationConfig) -> jax.Array:
    """Fixations [T, 2] of one map [H, H]; only reductions of a single operand, which are fast."""
    height = saliency.shape[0]
    raster = jnp.arange(height * height, dtype=jnp.int32).reshape(height, height)
    far = jnp.iinfo(jnp.int32).max if _units(height) == jnp.int32 else jnp.inf

    def distances(at: jax.Array) -> jax.Array:
        row, column = at
        return (
            _squared(row, height, cfg.offset)[:, None] + _squared(column, height, cfg.offset)[None]
        )

    def step(carry: Any, _: None) -> tuple[Any, jax.Array]:
        left, distance = carry
        free = jnp.where(distance > _disc(cfg, height), left, 0.0)
        top = free.max()
        winners = (free >= top) & (free > 0)
        if cfg.tie == "nearest":
            nearest = jnp.where(winners, distance, far).min()
            winners &= distance <= nearest
        # Nothing left: the last pixel, which is the lower right corner.
        index = jnp.where(winners, raster, height * height - 1).min()
        at = jnp.stack([index // height, index % height])
        distance = distances(at)
        return (left * _keep(cfg, distance, height), distance), at

    corner = jnp.full(2, height - 1, jnp.int32)
    _, pixels = jax.lax.scan(step, (saliency, distances(corner)), None, length=cfg.count)
    return pixels


# --- the windowed loop --------------------------------------------------------------------------


def _fixate_windowed(saliency: jax.Array, cfg: FixationConfig) -> jax.Array:
    """Fixations [T, 2] of one map [H, H], touching only a window of it in each step.

    The maximum of every row is kept; a step finds the row, then the column, and blanks the disc
    within a window of the (padded) map.
    """
    height = saliency.shape[0]
    reach = cfg.size // 2 + 1
    side = 2 * reach + 1
    offsets = jnp.arange(side) - reach

    def blanked(padded: jax.Array, tops: jax.Array, at: jax.Array) -> tuple[jax.Array, jax.Array]:
        # Distances of the window's pixels; outside of the map the padding is zero anyway.
        axis = lambda i: jnp.square((i + offsets) * height - _position(i, height, cfg.offset))
        near = axis(at[0])[:, None] + axis(at[1])[None] <= _disc(cfg, height)
        window = jax.lax.dynamic_slice(padded, (at[0], at[1]), (side, side))
        window = jnp.where(near, 0.0, window)
        padded = jax.lax.dynamic_update_slice(padded, window, (at[0], at[1]))
        rows = jax.lax.dynamic_slice(padded, (at[0], 0), (side, padded.shape[1]))
        return padded, jax.lax.dynamic_update_slice(tops, rows.max(axis=1), (at[0],))

    def step(carry: Any, _: None) -> tuple[Any, jax.Array]:
        padded, tops, at = carry
        top = tops.max()
        lines = jnp.arange(height + 2 * reach)
        row = _nearest(tops >= top, lines, at[0] + reach)
        line = jax.lax.dynamic_slice(padded, (row, 0), (1, padded.shape[1]))[0]
        column = _nearest(line >= top, lines, at[1] + reach)
        found = jnp.stack([row, column]).astype(jnp.int32) - reach
        at = jnp.where(top > 0, found, height - 1)
        return (*blanked(padded, tops, at), at), at

    padded = jnp.pad(saliency, reach)
    corner = jnp.full(2, height - 1, jnp.int32)
    # The disc around the corner is hidden in the first step only.
    hidden, hidden_tops = blanked(padded, padded.max(axis=1), corner)
    (_, _, at), _ = step((hidden, hidden_tops, corner), None)
    start = (*blanked(padded, padded.max(axis=1), at), at)
    _, pixels = jax.lax.scan(step, start, None, length=cfg.count - 1)
    return jnp.concatenate([at[None], pixels])


def _position(index: jax.Array, height: int, offset: bool) -> jax.Array:
    """Where a fixated line is reported, in the unit of the grid."""
    return (index + 1) * (height - 1) if offset else index * height


def _nearest(candidates: jax.Array, lines: jax.Array, at: jax.Array) -> jax.Array:
    """The candidate line nearest to `at`; of two, the first."""
    distance = jnp.where(candidates, jnp.abs(lines - at), lines.size)
    return jnp.where(distance <= distance.min(), lines, lines.size).min()
