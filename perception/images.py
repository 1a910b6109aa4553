# SPDX-License-Identifier: Apache-2.0
"""Images as the front end takes them, and Gaussian blur without a convolution.

Dimensions: B batch, H height = width, C channels.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

SMALLEST = 32
POLARITIES = ("ink", "light")


def prepare(images: np.ndarray, polarity: str = "ink") -> np.ndarray:
    """Bytes of a data set as the float32 images of the front end.

    Args:
      images: uint8 [B, H, H] or [B, H, H, 3].
      polarity: "ink" makes black 1 and white 0 (line drawings: SVRT, its variants, ART); "light"
        leaves white 1 (rendered scenes).

    Returns:
      float32 [B, H, H, C] in [0, 1].

    Raises:
      TypeError: `images` are no bytes.
      ValueError: a shape or polarity that the front end does not take.
    """
    if not isinstance(images, np.ndarray) or images.dtype != np.uint8:
        kind = getattr(images, "dtype", type(images).__name__)
        raise TypeError(f"images must be a uint8 array of values 0 to 255, got {kind}")
    if polarity not in POLARITIES:
        raise ValueError(f"polarity must be one of {POLARITIES}, got {polarity!r}")
    if images.ndim == 3:
        images = images[..., None]
    check_shape(images.shape)
    light = images.astype(np.float32) / 255
    return 1 - light if polarity == "ink" else light


def check(images: np.ndarray | jax.Array) -> None:
    """Raises for images [B, H, H, C] that are not square, too small, or outside [0, 1].

    Values are looked at only outside of jit; NaN counts as outside.
    """
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise TypeError(f"images must be floats in [0, 1] (see `prepare`), got {images.dtype}")
    check_shape(images.shape)
    if isinstance(images, jax.core.Tracer) or images.size == 0:
        return
    if not bool(((images >= 0) & (images <= 1)).all()):
        values = np.asarray(images)
        raise ValueError(f"image values must be in [0, 1], got [{values.min()}, {values.max()}]")


def check_shape(shape: tuple[int, ...]) -> None:
    """Raises ValueError unless the shape is [B, H, H, C] with H >= 32 and 1 or 3 channels."""
    if len(shape) != 4 or shape[1] != shape[2] or shape[3] not in (1, 3):
        raise ValueError(
            f"images must be square with 1 or 3 channels, [B, H, H, C]; got shape {shape}"
        )
    if shape[1] < SMALLEST:
        raise ValueError(f"images must have at least {SMALLEST} rows, got shape {shape}")


# --- blur ---------------------------------------------------------------------------------------

# Up to this many taps a sum of shifted images is used: every pixel adds its terms in the same
# order, so that equal shapes stay equal to the last bit and tie in the search for a maximum.
_MOST_TAPS = 17


def gaussian_taps(size: int) -> np.ndarray:
    """Weights [size] of a Gaussian of sd 0.3 ((size - 1) / 2 - 1) + 0.8, summing to 1, float64.

    Size 7 has the sd 1.4; 5, 17 and 65 have 1.1, 2.9 and 10.1.
    """
    if size < 1 or size % 2 == 0:
        raise ValueError(f"a blur has an odd, positive size, got {size}")
    sd = 0.3 * ((size - 1) * 0.5 - 1) + 0.8
    at = np.arange(size) - size // 2
    weights = np.exp(-0.5 * (at / sd) ** 2)
    return weights / weights.sum()


@functools.lru_cache(maxsize=32)
def _blur_matrix(size: int, height: int) -> np.ndarray:
    """[H, H] matrix of the one-dimensional blur with reflected borders."""
    reflected = np.pad(np.arange(height), size // 2, mode="reflect")
    matrix = np.zeros((height, height))
    for shift, weight in enumerate(gaussian_taps(size)):
        np.add.at(matrix, (np.arange(height), reflected[shift : shift + height]), weight)
    return matrix


def blur(images: jax.Array, size: int) -> jax.Array:
    """Gaussian blur with reflected borders.

    Wide kernels are two matrix products: on a CPU, a generic convolution of 65 x 65 costs fifty
    times as much.

    Args:
      images: [..., H, H, C].
      size: taps along one axis, odd; see `gaussian_taps`.

    Returns:
      Blurred images, shape and dtype as given.
    """
    height = images.shape[-2]
    if size // 2 >= height:
        raise ValueError(f"a blur of {size} taps needs images of more than {size // 2} rows")
    if size > _MOST_TAPS:
        matrix = jnp.asarray(_blur_matrix(size, height), images.dtype)
        rows = jnp.einsum("ij,...jkc->...ikc", matrix, images)
        return jnp.einsum("ij,...kjc->...kic", matrix, rows)
    taps = [float(w) for w in gaussian_taps(size)]
    for axis in (images.ndim - 3, images.ndim - 2):
        pad = [(0, 0)] * images.ndim
        pad[axis] = (size // 2, size // 2)
        padded = jnp.pad(images, pad, mode="reflect")
        images = shifted_sum(padded, axis, taps)
    return images


def shifted_sum(x: jax.Array, axis: int, weights: Sequence[float]) -> jax.Array:
    """Weighted sum of the windows of `x` along an axis, which becomes len(weights) - 1 shorter."""
    size = x.shape[axis] - len(weights) + 1
    windows = (jax.lax.slice_in_dim(x, i, i + size, axis=axis) for i in range(len(weights)))
    return functools.reduce(operator.add, (w * x for w, x in zip(weights, windows, strict=True)))


def normalised(images: jax.Array) -> jax.Array:
    """Each image and channel [..., H, H, C] divided by its own maximum; all-zero ones stay zero."""
    top = images.max(axis=(-3, -2), keepdims=True)
    return images / jnp.maximum(top, 1e-6)
