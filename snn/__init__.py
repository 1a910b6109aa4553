# SPDX-License-Identifier: Apache-2.0
"""Spiking neural networks and their training.

Discrete-time cells (`snn.cells`) with online learning (`snn.ostl`), time-to-first-spike networks
(`snn.ttfs`), and speech recognition (`snn.speech`, `snn.transcribe`). Modules are imported at first
use.
"""

from typing import TYPE_CHECKING

from core import lazy

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

__getattr__, __dir__ = lazy.attributes(__name__, __all__)
