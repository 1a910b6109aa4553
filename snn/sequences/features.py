# SPDX-License-Identifier: Apache-2.0
"""Log-mel filter banks as Kaldi computes them (without dither), in NumPy.

Frames of 25 ms every 10 ms, no partial ones; mean removed; pre-emphasis 0.97; Povey window; power
spectrum; triangles equally spaced in mel(f) = 1127 ln(1 + f / 700), linear in mel; natural log.
"""

from __future__ import annotations

import numpy as np

FLOOR = 1.1920929e-07  # float32 epsilon, Kaldi's floor under the logarithm
LOWEST_HZ = 20.0


def mel(frequency: np.ndarray | float) -> np.ndarray:
    """Mel value of a frequency in Hz."""
    return 1127.0 * np.log1p(np.asarray(frequency, np.float64) / 700.0)


def mel_filters(
    bands: int, fft_size: int, rate: int, low: float = LOWEST_HZ, high: float = 0.0
) -> np.ndarray:
    """Weights [fft_size / 2, bands] of the power spectrum without its Nyquist bin.

    The triangles lie between `low` and `high` Hz; 0 stands for half the rate.
    """
    edges = np.linspace(mel(low), mel(high or rate / 2), bands + 2)
    at = mel(np.arange(fft_size // 2) * rate / fft_size)[:, None]
    left, centre, right = edges[:-2], edges[1:-1], edges[2:]
    rising = (at - left) / (centre - left)
    falling = (right - at) / (right - centre)
    return np.maximum(np.minimum(rising, falling), 0.0)


def log_mel(samples: np.ndarray, rate: int, bands: int = 40) -> np.ndarray:
    """Log-mel energies.

    Args:
      samples: [N] in the range of 16-bit integers.
      rate: samples a second.
      bands: number of filters.

    Returns:
      float32 [frames, bands], frames = 1 + (N - 25 ms) // 10 ms.

    Raises:
      ValueError: not a vector, shorter than one frame, or not finite.
    """
    samples = np.asarray(samples, np.float64)
    width, hop = rate * 25 // 1000, rate * 10 // 1000
    if samples.ndim != 1 or len(samples) < width:
        raise ValueError(f"expected [N >= {width}] samples, got shape {samples.shape}")
    if not np.isfinite(samples).all():
        raise ValueError("samples must be finite")
    frames = np.lib.stride_tricks.sliding_window_view(samples, width)[::hop]
    frames = frames - frames.mean(axis=1, keepdims=True)
    before = np.concatenate([frames[:, :1], frames[:, :-1]], axis=1)
    window = (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(width) / (width - 1))) ** 0.85
    size = 1 << (width - 1).bit_length()
    spectrum = np.fft.rfft((frames - 0.97 * before) * window, size)[:, : size // 2]
    energies = (spectrum.real**2 + spectrum.imag**2) @ mel_filters(bands, size, rate)
    return np.log(np.maximum(energies, FLOOR)).astype(np.float32)


def deltas(features: np.ndarray) -> np.ndarray:
    """Regression slopes over two frames each side, edges repeated; [T, n] -> [T, n]."""
    padded = np.pad(features, ((2, 2), (0, 0)), mode="edge")
    n = len(features)
    shift = lambda k: padded[2 + k : 2 + k + n]
    return (shift(1) - shift(-1) + 2.0 * (shift(2) - shift(-2))) / 10.0
