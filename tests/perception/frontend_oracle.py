# SPDX-License-Identifier: Apache-2.0
"""The published front end written plainly: NumPy, float64, one image [H, H, C] at a time."""

import numpy as np


def blur(image, size):
    """Dense convolution with a Gaussian of the library rule, reflected borders."""
    sd = 0.3 * ((size - 1) * 0.5 - 1) + 0.8
    at = np.arange(size) - (size - 1) / 2
    line = np.exp(-((at / sd) ** 2) / 2)
    kernel = np.outer(line / line.sum(), line / line.sum())
    half, height = size // 2, image.shape[0]
    padded = np.pad(image, ((half, half), (half, half), (0, 0)), mode="reflect")
    out = np.zeros(image.shape)
    for i in range(size):
        for j in range(size):
            out += kernel[i, j] * padded[i : i + height, j : j + height]
    return out


def normalised(image):
    """Each channel divided by its maximum."""
    return image / np.maximum(image.max(axis=(0, 1)), 1e-6)


def saliency(image, patch=5, neighbourhood=3, surround="min", padding="constant"):
    """Every patch against the patches of its neighbours, as the definition says."""
    half, reach, height = patch // 2, neighbourhood // 2, image.shape[0]
    padded = np.pad(image, ((half, half), (half, half), (0, 0)), mode=padding)
    patches = np.empty((height, height, patch * patch * image.shape[2]))
    for i in range(height):
        for j in range(height):
            patches[i, j] = padded[i : i + patch, j : j + patch].ravel()
    out = np.empty((height, height))
    for i in range(height):
        for j in range(height):
            costs = [
                ((patches[i, j] - patches[i + a, j + b]) ** 2).sum()
                for a in range(-reach, reach + 1)
                for b in range(-reach, reach + 1)
                if (a, b) != (0, 0) and 0 <= i + a < height and 0 <= j + b < height
            ]
            out[i, j] = min(costs) if surround == "min" else np.mean(costs)
    return out


def fixations(
    saliency, count, size, inhibition="hard", sharpness=100.0, tie="nearest", offset=True
):
    """[(row, column)] and locations [(x, y)] in normalised coordinates."""
    height = saliency.shape[0]
    grid = np.linspace(-1, 1, height)
    x, y = np.meshgrid(grid, grid)
    location = np.array([1.0, 1.0])
    left = np.asarray(saliency, np.float64).copy()
    pixels, places = [], []
    for _ in range(count):
        squared = (x - location[0]) ** 2 + (y - location[1]) ** 2
        free = np.where(squared <= (size / height) ** 2 + 1e-12, 0.0, left)
        if free.max() > 0:
            winners = np.argwhere(free == free.max())
            if tie == "nearest":
                distances = np.round([squared[i, j] for i, j in winners], 12)
                row, column = winners[np.argmin(distances)]
            else:
                row, column = winners[0]
        else:
            row = column = height - 1
        location = (
            2 * (np.array([column, row]) + 1) / height - 1
            if offset
            else np.array([grid[column], grid[row]])
        )
        squared = (x - location[0]) ** 2 + (y - location[1]) ** 2
        if inhibition == "hard":
            left[squared <= (size / height) ** 2 + 1e-12] = 0
        elif inhibition == "soft":
            mean = ((x - location[0]) ** 2 + (y - location[1]) ** 2) / 2
            left = left * (1 - np.exp(-((size**2 * mean) ** 2)))
        else:
            left = left * (1 - np.exp(-sharpness * squared))
        pixels.append((row, column))
        places.append(location)
    return np.array(pixels), np.array(places)


def multiscale(image, location, side=15, scales=(4, 8)):
    """One glimpse [S C, g, g]: windows cut around a location and resized bilinearly."""
    height, colours = image.shape[0], image.shape[2]
    out = []
    for scale in (1, *scales):
        view = image
        if scale > 1:
            view = blur(image, scale * scale if scale % 2 else scale * scale + 1)
        window = side * scale
        padded = np.pad(view, ((window // 2,) * 2, (window // 2,) * 2, (0, 0)))
        column, row = np.floor((location + 1) / 2 * (height - 1) + 1e-4).astype(int)
        padded = np.pad(padded, ((0, 1), (0, 1), (0, 0)))
        cut = padded[row : row + window, column : column + window]
        small = np.zeros((side, side, colours))
        for i in range(side):
            for j in range(side):
                a, b = (i + 0.5) * scale - 0.5, (j + 0.5) * scale - 0.5
                i0, j0 = int(np.floor(a)), int(np.floor(b))
                i1, j1 = min(i0 + 1, window - 1), min(j0 + 1, window - 1)
                u, v = a - i0, b - j0
                small[i, j] = (
                    (1 - u) * (1 - v) * cut[i0, j0]
                    + (1 - u) * v * cut[i0, j1]
                    + u * (1 - v) * cut[i1, j0]
                    + u * v * cut[i1, j1]
                )
        if scale > 1 and colours == 1:
            small = small / (small.max() + 1e-6)
        out.append(np.moveaxis(small, -1, 0))
    return np.concatenate(out)


def logpolar(image, location, side=21, radius=48.0, minus_one=True):
    """One glimpse [C, g, g], rows angles and columns radii, nearest pixel."""
    view = normalised(blur(image, 7))
    height = image.shape[0]
    centre = np.floor(height * (location + 1) / 2 + 1e-4)
    out = np.zeros((side, side, image.shape[2]))
    for j in range(side):
        for i in range(side):
            rho = np.exp(i * np.log(radius) / side) - (1 if minus_one else 0)
            theta = 2 * np.pi * j / side
            # Exact halves (only without the 1 subtracted) round to the even offset.
            column = int(centre[0] + np.rint(np.round(rho * np.cos(theta), 9)))
            row = int(centre[1] + np.rint(np.round(rho * np.sin(theta), 9)))
            if 0 <= row < height and 0 <= column < height:
                out[j, i] = view[row, column]
    return np.moveaxis(out, -1, 0)
