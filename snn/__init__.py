# SPDX-License-Identifier: Apache-2.0
"""Spiking neural networks and their training.

Discrete-time cells (`snn.cells`) with online learning (`snn.ostl`), time-to-first-spike networks
(`snn.ttfs`), and speech recognition (`snn.speech`, `snn.transcribe`).
"""

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
