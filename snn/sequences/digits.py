# SPDX-License-Identifier: Apache-2.0
"""Digit images with a validation part: the last training images, one in six."""

from __future__ import annotations

import numpy as np

from core.data import ArraySource
from snn.ttfs import images


def digit_arrays(name: str = "mnist", limit: int = 0) -> dict[str, dict[str, np.ndarray]]:
    """Arrays {"x": uint8 [N, H, W], "target": int32 [N]} of "train", "valid" and "test".

    Args:
      name: see `snn.ttfs.images.DATASETS`; images of one channel, brought to white = 255.
      limit: use the first so many images of each part; 0 for all.

    Raises:
      ValueError: unknown name, or images of several channels. FileNotFoundError: not on this
        machine; says what to do.
    """
    data = images.load(name)
    if data.train.shape[-1] != 1:
        raise ValueError(f"{name}: digits have one channel, got {data.train.shape[-1]}")
    data = data.hold_out(len(data.train) // 6)
    assert data.validation is not None and data.validation_labels is not None
    white = lambda x: np.round(x[..., 0] * (255.0 / data.white)).astype(np.uint8)
    parts = {
        "train": (data.train, data.train_labels),
        "valid": (data.validation, data.validation_labels),
        "test": (data.test, data.test_labels),
    }
    return {
        part: {"x": white(x[: limit or None]), "target": y[: limit or None].astype(np.int32)}
        for part, (x, y) in parts.items()
    }


def digit_source(arrays: dict[str, np.ndarray], seed: int | None) -> ArraySource:
    """Images and labels, reshuffled every epoch (None: in the given order)."""
    return ArraySource(arrays, seed)
