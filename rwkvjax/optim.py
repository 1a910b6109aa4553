# SPDX-License-Identifier: Apache-2.0
"""The official optimiser groups: which parameters decay, and whose learning rate is multiplied."""

from __future__ import annotations

from core.optim import Group, GroupFn

_MATRICES = ("receptance", "key", "value", "gate", "output")


def group(path: str, shape: tuple[int, ...], stage: int = 1) -> Group:
    """Group of one parameter by its path, e.g. "blocks/att/time_decay".

    The rules are those of the official trainer, in its order; the first that applies counts:
    LoRA factors x1; token-shift vectors x1; decay x2; bonus u x1; RWKV-4's `time_first` x3;
    matrices x1 with weight decay; everything else (norms) x1. In stage 2 (continued training)
    the special groups all have x5.
    """
    del shape
    name = path.rsplit("/", 1)[-1]
    special = lambda scale: Group(lr_scale=scale if stage == 1 else 5.0)
    if name.endswith(("_w1", "_w2")):
        return Group()
    if "time_state" in name:
        return Group(decay=True)
    if "time_mix" in name or "time_maa" in name:
        return special(1.0)
    if "time_decay" in name or path.endswith("att/w0"):
        return special(2.0)
    if "time_faaaa" in name:
        return special(1.0)
    if "time_first" in name:
        return special(3.0)
    is_matrix = name in _MATRICES or path in ("emb/weight", "head/weight")
    return Group(decay=is_matrix)


def group_fn(stage: int = 1) -> GroupFn:
    """`group` for a training stage (1 from scratch, 2 continued)."""
    if stage not in (1, 2):
        raise ValueError(f"stage must be 1 or 2, got {stage}")
    return lambda path, shape: group(path, shape, stage)
