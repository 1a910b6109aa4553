# SPDX-License-Identifier: Apache-2.0
"""What is seen at a fixation: glimpses of several scales, or of a log-polar retina.

Both sensors gather fixed offsets around integer pixels from images that were blurred as a whole.
They are linear in the (blurred) image, hence differentiable with respect to it; the choice of
pixels has no gradient. Conventions follow the published runs of glimpse-based active perception
(Kolner et al., arXiv 2409.20213), off-by-one included, each behind an option.

Dimensions: B batch, H height = width, C channels, T fixations, S scales, g side of a glimpse.
"""

from __future__ import annotations

import dataclasses
import math
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from perception import images as images_lib


@dataclasses.dataclass(frozen=True)
class MultiScale:
    """Windows of growing side, each shrunk to g x g, finest first.

    The first scale is the unblurred image. For each other scale s the image is blurred (s^2 taps,
    made odd), a window of side g s around the pixel is cut out (zero outside of the image) and
    resized bilinearly without antialiasing. For even s that is the mean of the four central pixels
    of each s x s cell, for odd s the central pixel. Single-channel glimpses of blurred scales are
    divided by their maximum + 1e-6.

    Attributes:
      side: g.
      scales: besides the unblurred original; (4, 8), or (2, 4) for CLEVR-ART.
    """

    side: int = 15
    scales: tuple[int, ...] = (4, 8)
    name: ClassVar[str] = "multiscale"

    def __post_init__(self) -> None:
        if self.side < 1 or any(s < 2 for s in self.scales):
            raise ValueError(f"side must be at least 1 and scales at least 2, got {self}")

    def channels(self, colours: int) -> int:
        """Channels of a glimpse of an image with that many."""
        return colours * (1 + len(self.scales))

    def __call__(self, images: jax.Array, pixels: jax.Array) -> jax.Array:
        """Glimpses of images at given pixels.

        Args:
          images: [B, H, H, C] in [0, 1].
          pixels: int [B, T, 2], (row, column).

        Returns:
          [B, T, S C, g, g], scales outermost.
        """
        views = [self._view(images, pixels, 1)]
        for scale in self.scales:
            taps = scale * scale + 1 - scale % 2
            view = self._view(images_lib.blur(images, taps), pixels, scale)
            if images.shape[-1] == 1:
                view = view / (view.max(axis=(-2, -1), keepdims=True) + 1e-6)
            views.append(view)
        return jnp.concatenate(views, axis=2)

    def _view(self, images: jax.Array, pixels: jax.Array, scale: int) -> jax.Array:
        """One scale [B, T, C, g, g]."""
        pad = self.side * scale // 2
        first = scale // 2 - (1 if scale % 2 == 0 else 0)
        padded = jnp.pad(images, ((0, 0), (pad, pad + 1), (pad, pad + 1), (0, 0)))
        if scale % 2 == 0:  # the mean of 2 x 2 pixels, once for the whole image
            rows = padded[:, :-1] + padded[:, 1:]
            padded = 0.25 * (rows[:, :, :-1] + rows[:, :, 1:])
        # In padded coordinates the window starts at the pixel itself.
        offsets = scale * np.arange(self.side) + first
        return _gather(padded, pixels, offsets[:, None], offsets[None, :])


@dataclasses.dataclass(frozen=True)
class LogPolar:
    """A retina whose resolution falls with the distance from its centre.

    Rows of a glimpse are angles, columns logarithms of the radius:

        rho_i = exp(i ln(R) / g) - 1,  theta_j = 2 pi j / g,
        pixel = round(centre + rho_i (cos theta_j, sin theta_j)), zero outside of the image

    The image is blurred and divided by its maximum before. A rotation of the image about the
    fixation rolls the rows, a magnification shifts the columns.

    Attributes:
      side: g; 21, or 15 for CLEVR-ART.
      radius: R. The largest radius of a sample is R^((g-1)/g) - 1, e.g. 38.9 of 48.
      center_offset: how far the centre lies to the lower right of the fixated pixel; published: 1.
      minus_one: subtract the 1 in rho (published); the follow-up paper does not.
      blur: taps of the blur; 0 for none.
    """

    side: int = 21
    radius: float = 48.0
    center_offset: int = 1
    minus_one: bool = True
    blur: int = 7
    name: ClassVar[str] = "logpolar"

    def __post_init__(self) -> None:
        if self.side < 1 or self.radius <= 1:
            raise ValueError(f"side must be at least 1 and radius more than 1, got {self}")
        if self.blur < 0 or (self.blur and self.blur % 2 == 0):
            raise ValueError(f"blur must be 0 or odd, got {self.blur}")

    def channels(self, colours: int) -> int:
        """See `MultiScale.channels`."""
        return colours

    def offsets(self) -> tuple[np.ndarray, np.ndarray]:
        """(rows, columns) int [g, g] of the samples relative to the centre."""
        rho = np.exp(np.arange(self.side) * math.log(self.radius) / self.side) - self.minus_one
        theta = 2 * np.pi * np.arange(self.side) / self.side
        # Rounded to 9 digits first: cos(pi / 2) is 6e-17, and radii may meet a half exactly.
        across = np.rint(np.round(np.cos(theta)[:, None] * rho, 9))
        down = np.rint(np.round(np.sin(theta)[:, None] * rho, 9))
        return down.astype(np.int32), across.astype(np.int32)

    def __call__(self, images: jax.Array, pixels: jax.Array) -> jax.Array:
        """Glimpses [B, T, C, g, g]; see `MultiScale.__call__`."""
        if self.blur:
            images = images_lib.normalised(images_lib.blur(images, self.blur))
        down, across = self.offsets()
        reach = int(max(np.abs(down).max(), np.abs(across).max())) + abs(self.center_offset)
        padded = jnp.pad(images, ((0, 0), (reach, reach), (reach, reach), (0, 0)))
        shift = reach + self.center_offset
        return _gather(padded, pixels, down + shift, across + shift)


Sensor = MultiScale | LogPolar


def _gather(
    padded: jax.Array, pixels: jax.Array, down: np.ndarray, across: np.ndarray
) -> jax.Array:
    """padded[b, pixel_row + down, pixel_column + across]: [B, T, C, g, g], by one flat gather."""
    batch, height, width, colours = padded.shape
    flat = padded.reshape(batch, height * width, colours)
    corner = pixels[..., 0] * width + pixels[..., 1]
    index = corner[..., None, None] + jnp.asarray(down * width + across, jnp.int32)
    found = jax.vmap(lambda image, at: image.at[at].get(mode="promise_in_bounds"))(flat, index)
    return jnp.moveaxis(found, -1, 2)
