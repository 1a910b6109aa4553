# SPDX-License-Identifier: Apache-2.0
"""Spiking neural networks and their training.

Discrete-time cells (`snn.cells`) with online learning (`snn.ostl`), time-to-first-spike networks
(`snn.ttfs`), and speech recognition (`snn.speech`, `snn.transcribe`). Modules are imported at first
use.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from snn import (
        cells,
        convert,
        ostl,
        rwkv_cells,
        speech,
        surrogates,
        tasks,
        train,
        transcribe,
        ttfs,
    )

__all__ = [
    "cells",
    "convert",
    "ostl",
    "rwkv_cells",
    "speech",
    "surrogates",
    "tasks",
    "train",
    "transcribe",
    "ttfs",
]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return importlib.import_module(f"snn.{name}")
    raise AttributeError(f"module 'snn' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
