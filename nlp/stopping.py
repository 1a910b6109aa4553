# SPDX-License-Identifier: Apache-2.0
"""Early stopping as a function of a validation curve, with its direction always named."""

from __future__ import annotations

from collections.abc import Sequence

MODES = ("max", "min")


def last_epoch(curve: Sequence[float], mode: str, patience: int, min_delta: float = 0.0) -> int:
    """Index of the epoch after which training stops; the last of the curve if it does not.

    Args:
      curve: validation score after each epoch.
      mode: "max" if a higher score is better. The public code of arXiv 2312.08198 and 2312.04720
        stops in mode "min" on a score that rises: after `patience` + 1 epochs, whatever happens.
      patience: epochs without improvement that are borne.
      min_delta: smallest improvement.
    """
    if mode not in MODES:
        raise ValueError(f"mode must be one of {MODES}, got {mode!r}")
    if patience < 1 or not curve:
        raise ValueError(f"expected patience >= 1 and a curve, got {patience} and {len(curve)}")
    sign = 1.0 if mode == "max" else -1.0
    best, waited = sign * curve[0], 0
    for epoch, value in enumerate(curve[1:], 1):
        if sign * value > best + min_delta:
            best, waited = sign * value, 0
        else:
            waited += 1
            if waited >= patience:
                return epoch
    return len(curve) - 1


def best_epoch(curve: Sequence[float], mode: str = "max") -> int:
    """Index of the (first) best epoch."""
    if mode not in MODES:
        raise ValueError(f"mode must be one of {MODES}, got {mode!r}")
    choose = max if mode == "max" else min
    return choose(range(len(curve)), key=lambda epoch: curve[epoch])
