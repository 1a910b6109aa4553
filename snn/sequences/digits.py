# SPDX-License-Identifier: Apache-2.0
"""MNIST with a validation part: the last 10 000 training images."""

from __future__ import annotations

import numpy as np

from core.data import ArraySource
from snn.ttfs import images

VALID = 10_000


def digit_arrays(
    name: str = "mnist", held_out: str = "valid", limit: int = 0
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """(training, held-out) arrays {"x": uint8 [N, H, W], "target": int32 [N]}.

    Args:
      name: see `snn.ttfs.images.DATASETS`; images of one channel.
      held_out: "valid" trains without the last images (one in six) and holds them out; "test"
        trains on all of the training images and holds the test images out.
      limit: use the first so many training images, and held-out images; 0 for all.
    """
    if held_out not in ("valid", "test"):
        raise ValueError(f"held_out must be valid or test, got {held_out!r}")
    data = images.load(name)
    train, labels = data.train[..., 0], data.train_labels
    cut = len(train) - min(VALID, len(train) // 6)
    parts = [(train, labels), (data.test[..., 0], data.test_labels)]
    if held_out == "valid":
        parts = [(train[:cut], labels[:cut]), (train[cut:], labels[cut:])]
    arrays = [
        {"x": x[: limit or None], "target": y[: limit or None].astype(np.int32)} for x, y in parts
    ]
    return arrays[0], arrays[1]


def digit_source(arrays: dict[str, np.ndarray], seed: int | None) -> ArraySource:
    """Images and labels, reshuffled every epoch (None: in the given order)."""
    return ArraySource(arrays, seed)
