# SPDX-License-Identifier: Apache-2.0
"""Where an image differs from its surround: the fixed first stage of glimpse-based perception.

    D_d(p) = sum over channels and o in [-c//2, c//2]^2 of (I(p + o) - I(p + d + o))^2
    s(p)   = min over the displacements d with p + d inside the image of D_d(p)

A straight stroke costs nothing along its own direction, so only its ends, corners, junctions and
changes of texture stand out; with the mean instead of the minimum the whole contour does.
A. Kolner, T. Ortner, S. Wozniak, A. Pantazi, "Mind the GAP: Glimpse-based Active Perception
Improves Generalization and Sample Efficiency of Visual Reasoning", ICLR 2025 (arXiv 2409.20213).

As D_-d(p) = D_d(p - d), half of the displacements suffice (4 of 8): each is a squared difference of
two shifted images followed by a separable sum over the patch.

Dimensions: B batch, H height = width, C channels.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from perception import images as images_lib

SURROUNDS = ("min", "mean")
PADDINGS = ("zero", "replicate")


@dataclasses.dataclass(frozen=True)
class SaliencyConfig:
    """The saliency map.

    Attributes:
      patch: side c of the compared patches, odd.
      neighbourhood: side N of the square of displacements, odd; 3 compares with 8 neighbours.
      surround: "min" (winner takes all; every published run) or "mean".
      padding: what lies outside of the image: "zero" (SVRT and its variants) or "replicate".
      blur: taps of the Gaussian blur before the comparison, whose result is divided by its
        maximum; 0 for none.
    """

    patch: int = 5
    neighbourhood: int = 3
    surround: str = "min"
    padding: str = "zero"
    blur: int = 7

    def __post_init__(self) -> None:
        for name, least in (("patch", 1), ("neighbourhood", 3)):
            if getattr(self, name) < least or getattr(self, name) % 2 == 0:
                raise ValueError(f"{name} must be odd and at least {least}, got {self}")
        if self.surround not in SURROUNDS:
            raise ValueError(f"surround must be one of {SURROUNDS}, got {self.surround!r}")
        if self.padding not in PADDINGS:
            raise ValueError(f"padding must be one of {PADDINGS}, got {self.padding!r}")
        if self.blur < 0 or (self.blur and self.blur % 2 == 0):
            raise ValueError(f"blur must be 0 or odd, got {self.blur}")


def saliency(images: jax.Array | np.ndarray, cfg: SaliencyConfig | None = None) -> jax.Array:
    """The saliency map of each image.

    Differentiable almost everywhere: the gradient follows the displacement that wins.

    Args:
      images: float [B, H, H, C] in [0, 1].
      cfg: see `SaliencyConfig`.

    Returns:
      [B, H, H], not negative.

    Raises:
      TypeError, ValueError: see `images.check`.
    """
    cfg = cfg or SaliencyConfig()
    images_lib.check(images)
    images = jnp.asarray(images)
    if cfg.blur:
        images = images_lib.normalised(images_lib.blur(images, cfg.blur))
    radius = cfg.patch // 2
    mode = {"zero": "constant", "replicate": "edge"}[cfg.padding]
    padded = jnp.pad(images, ((0, 0), (radius, radius), (radius, radius), (0, 0)), mode=mode)
    best = jnp.full(images.shape[:3], jnp.inf, images.dtype)
    total = jnp.zeros(images.shape[:3], images.dtype)
    count = jnp.zeros(images.shape[1:3], images.dtype)
    for down, right in _half_plane(cfg.neighbourhood // 2):
        cost = _cost(padded, down, right, cfg.patch)
        for here in _both_ends(down, right, images.shape[1]):
            if cfg.surround == "min":
                best = best.at[:, *here].min(cost)
            else:
                total, count = total.at[:, *here].add(cost), count.at[here].add(1)
    return best if cfg.surround == "min" else total / count


def _half_plane(reach: int) -> list[tuple[int, int]]:
    """One of each pair of opposite displacements (rows down, columns to the right)."""
    span = range(-reach, reach + 1)
    return [(i, j) for i in range(reach + 1) for j in span if i > 0 or j > 0]


def _cost(padded: jax.Array, down: int, right: int, patch: int) -> jax.Array:
    """D_d(p) [B, H - |down|, H - |right|] of all p for which p and p + d are inside."""
    height, width = padded.shape[1] - down, padded.shape[2] - abs(right)
    first, second = max(-right, 0), max(right, 0)
    here = padded[:, :height, first : first + width]
    there = padded[:, down:, second : second + width]
    squares = jnp.square(here - there).sum(axis=-1)
    for axis in (1, 2):
        squares = images_lib.shifted_sum(squares, axis, (1.0,) * patch)
    return squares


def _both_ends(down: int, right: int, size: int) -> list[tuple[slice, slice]]:
    """Regions of the map to which the costs of a displacement belong: those of p, those of p+d."""
    first, second = max(-right, 0), max(right, 0)
    width = size - abs(right)
    return [
        (slice(0, size - down), slice(first, first + width)),
        (slice(down, size), slice(second, second + width)),
    ]
